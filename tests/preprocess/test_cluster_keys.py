"""The certificate of a cluster: nobody else can read its files, and they are gone at the end."""

import stat
from pathlib import Path

import pytest

from larstore.errors import ClusterError
from preprocess.cluster.keys import temporary_keys


def mode(path: str | Path) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def test_files_are_private_and_go_away(tmp_path: Path):
    directory = tmp_path / "deep" / "keys"
    with temporary_keys(directory) as security:
        assert security.require_encryption
        files = {security.tls_ca_file, security.tls_worker_cert, security.tls_worker_key, security.tls_scheduler_key}
        assert {mode(file) for file in files} == {0o600}
        assert {mode(Path(file).parent) for file in files} == {0o700}
        assert mode(directory) == 0o700
        for role in ("client", "scheduler", "worker"):
            assert security.get_connection_args(role)["ssl_context"] is not None
    assert not list(directory.iterdir())


def test_each_cluster_has_its_own(tmp_path: Path):
    with temporary_keys(tmp_path) as one, temporary_keys(tmp_path) as two:
        assert Path(one.tls_worker_key).read_bytes() != Path(two.tls_worker_key).read_bytes()


def test_they_go_away_when_something_fails(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), temporary_keys(tmp_path):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ClusterError, match=r"file/keys: .*keys_directory"), temporary_keys(tmp_path / "file" / "keys"):
        raise AssertionError("it must not get here")
