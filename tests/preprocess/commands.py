"""The command line, as a user calls it."""

import subprocess
import sys


def larstore_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``larstore ARGUMENTS…`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "larstore.cli", *map(str, arguments)], capture_output=True, text=True, timeout=250
    )
