"""Checkpoint files: written whole or not at all, and read without executing anything in them."""

import hashlib
import io
import os
import pickle
import re
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from larstore.errors import ConfigError, InputError
from train.resuming.research_checkpoint import find_weights

# What torch.load raises for a file that is cut short or has flipped bits.
DAMAGED = (
    RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError, AssertionError, OverflowError,
    MemoryError,
)  # fmt: skip


class DamagedCheckpointError(InputError):
    """A file that is no checkpoint any more: another one has to do."""


def write_checkpoint(content: dict[str, Any], path: str | Path) -> None:
    """Write to a temporary file, sync, rename: a full disk or a kill leaves the older checkpoint as it was.

    Raises OSError.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = io.BytesIO()  # torch.save on a file hides the error of a full disk behind one of its own
    torch.save(content, whole)
    partial = partial_name(path)
    try:
        with open(partial, "wb") as file:
            file.write(whole.getbuffer())
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_directory(path.parent)


def link_checkpoint(source: Path, path: Path) -> None:
    """Make ``path`` the same file as ``source``, at once; a copy where the file system has no hard links.

    Raises OSError.
    """
    if path.exists() and path.samefile(source):
        return
    partial = partial_name(path)
    try:
        partial.unlink(missing_ok=True)
        try:
            os.link(source, partial)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(source, partial)
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_directory(path.parent)


def partial_name(path: Path) -> Path:
    """Where a file is made before it gets its name."""
    return path.with_name(path.name + ".partial")


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_tensors(path: str | Path) -> Any:
    """Tensors and plain values of a file of torch.save, on the CPU; nothing in it is executed.

    Raises:
        InputError: the file is missing, cut short, or holds code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint. Fix: give one that exists, or train first") from error
    except (pickle.UnpicklingError, struct.error, *DAMAGED) as error:
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code and not _flipped(path):
            raise InputError(
                f"{path}: cannot be read as a checkpoint (it holds {code[1]}, and only tensors and plain values are "
                "loaded). Fix: where it was made, save the state dict alone: "
                "torch.save({'model': model.state_dict()}, FILE)"
            ) from error
        reason = str(error).strip().splitlines() or [type(error).__name__]
        if isinstance(error, pickle.UnpicklingError):  # of many lines, about how to trust it
            reason = [_flipped(path) or "no file of torch.save"]
        raise DamagedCheckpointError(
            f"{path}: cannot be read as a checkpoint ({reason[0][:120]}). Fix: take another epoch's checkpoint"
        ) from error


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Tensors and plain values of a checkpoint made by `train.fitting.fit` or `train.resuming.importing`, on the CPU.

    Raises:
        InputError: as `read_tensors`, a checksum is wrong, or the file was not written by this package. One of the
            research code does not say in which order its network takes the planes, and must be imported.
    """
    content = read_tensors(path)
    if isinstance(content, dict) and "state_dict" in content and "larstore" in content:
        flipped = _flipped(path)
        if flipped:
            raise DamagedCheckpointError(
                f"{path}: cannot be read as a checkpoint ({flipped[:120]}). Fix: take another epoch's checkpoint"
            )
        return content
    if find_weights(content):
        raise InputError(
            f"{path}: a checkpoint of the research code, which does not say how its inputs are ordered and scaled. "
            f"Fix: larstore import-checkpoint {path} -o NEW.ckpt --config CONFIG.yaml --input-planes u,w,v "
            "(the order of odd TPCs; even ones: v,w,u), then give NEW.ckpt"
        )
    raise InputError(f"{path}: not a checkpoint of larstore. Fix: give a file that `larstore train` wrote")


def _flipped(path: str | Path) -> str | None:
    """What a file's own checksums, at which torch does not look, say is wrong with it; None = nothing."""
    if not zipfile.is_zipfile(path):  # torch before 1.6
        return None
    try:
        with zipfile.ZipFile(path) as parts:
            wrong = parts.testzip()
            return None if wrong is None else f"{wrong!r} fails its checksum"
    except (zipfile.BadZipFile, zlib.error, *DAMAGED) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]


def model_weights(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The network's own tensors by name, without the prefix they have in the training module."""
    prefix = "model."
    return {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}


def load_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor], origin: str) -> None:
    """Load all weights. Raises ConfigError naming the first ones that the model and ``origin`` do not share."""
    own = model.state_dict()
    wrong = [name for name in own.keys() | weights.keys() if name not in own or name not in weights]
    wrong = wrong or [name for name in own if own[name].shape != weights[name].shape]
    if wrong:
        named = ", ".join(sorted(wrong)[:3])
        raise ConfigError(
            f"{origin}: made for another network, {len(wrong)} tensors differ ({named} …). "
            "Fix: use the model block it was trained with"
        )
    model.load_state_dict(weights)


def sha256(path: str | Path) -> str:
    """Hash of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
