"""A training: the module that Lightning drives, what starts and stops it, and short ones that try it out."""
