"""Where commands print their results."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 200


def result_console() -> "Console":
    """A console on stdout: files and pipes get lines of ``WIDTH`` characters, terminals their own width."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH, markup=False)  # names may hold brackets
