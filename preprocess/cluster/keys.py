"""Temporary certificates that a cluster's members know each other by, in files that nobody else can read."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed.security import Security

from larstore.errors import ClusterError


@contextmanager
def temporary_keys(directory: Path) -> Iterator[Security]:
    """Security by a new certificate, whose files (mode 0600, in a folder of 0700) go away at the end.

    Args:
        directory: of the folder, on a file system that all hosts of the cluster share; made if missing.

    Raises:
        ClusterError: it cannot be written to.
    """
    made = Security.temporary()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="cluster-", dir=directory))
    except OSError as error:
        raise ClusterError(
            f"{directory}: the cluster's certificate cannot be kept there ({error.strerror}). Fix: set keys_directory "
            "of the cluster's profile to a folder of yours that all its hosts see"
        ) from error
    try:
        # The certificate signs itself and is the same for all roles: whoever has the key is a member.
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        for path, text in ((certificate, made.tls_ca_file), (key, made.tls_worker_key)):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(text)
        files = {"tls_ca_file": str(certificate)}
        for role in ("client", "scheduler", "worker"):
            files |= {f"tls_{role}_cert": str(certificate), f"tls_{role}_key": str(key)}
        yield Security(require_encryption=True, **files)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
