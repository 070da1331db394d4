"""How many cores this process may use."""

import os


def cores() -> int:
    """Those it is bound to, where the system tells (Linux), else all of the machine."""
    if hasattr(os, "sched_getaffinity"):  # macOS has no such call
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
