"""The example configurations of ``configs/``, which an installation without the repository has as well."""

import os
import re
from importlib.resources import files
from pathlib import Path

from larstore.errors import ConfigError
from larstore.settings import did_you_mean

FOLDER = "configs"  # beside this module in a wheel; in the repository a link to the one at its top
SENTENCE = re.compile(r".+?(?:[.?](?= |$)|$)")


def examples() -> dict[str, Path]:
    """Name (``ghost3d``, ``small/ghost3d``) -> file. Raises ConfigError where they were not installed."""
    folder = Path(str(files("larstore") / FOLDER))
    found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.glob("**/*.yaml")}
    if not found:
        raise ConfigError(f"{folder}: holds no examples. Fix: install larstore again, from a wheel or its repository")
    return dict(sorted(found.items(), key=lambda each: ("/" in each[0], each[0])))  # those of folders behind the others


def find_example(name: str) -> Path:
    """The file of an example; ``configs/NAME.yaml`` is understood as well. Raises ConfigError if there is none."""
    known, plain = examples(), name.removeprefix(f"{FOLDER}/").removesuffix(".yaml")
    if plain not in known:
        raise ConfigError(
            f"no example {name!r}. Fix: {did_you_mean(plain, known)}'larstore examples' lists them: {', '.join(known)}"
        )
    return known[plain]


def title(path: Path) -> str:
    """The first sentence of an example's comment."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# ") or line.startswith("#  "):
            break
        lines.append(line.removeprefix("# "))
    match = SENTENCE.match(" ".join(lines))
    return match[0].rstrip(".:") if match else ""


def copy_example(source: Path, target: str | os.PathLike[str]) -> Path:
    """Copy one file; nothing is overwritten. Raises ConfigError if it exists, or cannot be written."""
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(source.read_bytes())
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror}. Fix: another place for it") from error
    return target


def copy_examples(target: str | os.PathLike[str]) -> Path:
    """Copy all into a new folder. Raises ConfigError if it exists, or cannot be written."""
    target = Path(target)
    known = examples()
    try:
        target.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror}. Fix: a folder that does not exist yet") from error
    for name, path in known.items():
        copy_example(path, target / f"{name}.yaml")
    return target
