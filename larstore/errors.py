"""Errors that a user can act on: one line that names the file, the value and the fix."""


class LarstoreError(Exception):
    """Base of every error raised on purpose; the command line prints it without a traceback and exits 1."""


class InputError(LarstoreError):
    """An input file (frames, parsed npz, wires) that cannot be used as it is."""


class ConfigError(LarstoreError):
    """A setting or a key of a configuration that is wrong."""


class StoreError(LarstoreError):
    """A store that cannot be opened, read or written as asked."""


class DamageError(StoreError):
    """Committed data that are missing or fail their checksum."""


class UnreadableError(StoreError):
    """A file of a store that is there but could not be read: permissions, a server's or a file system's fault."""


class LockedError(StoreError):
    """A store that somebody else is writing to."""


class ClusterError(LarstoreError):
    """Workers that cannot be had: a refused job, jobs that end before their worker is there, a lost scheduler."""
