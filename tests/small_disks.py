"""Disks of a few pages, to be full: mounted in memory, which takes root."""

import os
import subprocess
from contextlib import contextmanager

import pytest


@contextmanager
def small_disk(place, options="size=1m"):
    """Mount an empty file system at a new directory; skips the test where that is not permitted."""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def remount(place, options):
    """Change a mounted disk."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def fill(place, free):
    """Leave ``free`` bytes on a disk; returns the file that takes the rest."""
    disk = os.statvfs(place)
    ballast = place / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - free)
    return ballast
