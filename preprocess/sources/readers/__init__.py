"""One file per input format; a module that defines ``READER`` here is found by the registry."""
