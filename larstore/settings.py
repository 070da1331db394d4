"""Settings from YAML files and `--set KEY=VALUE`, checked by pydantic; every mistake is one line with its fix."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from larstore.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: str | Path, example: str = "") -> dict[str, Any]:
    """The keys of a YAML file. Raises ConfigError if it is missing, no YAML, or holds no keys."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ConfigError(f"{path}: cannot be read ({reason}). Fix: give the path of a YAML configuration") from error
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        start = f"start from {example}" if example else "write KEY: VALUE lines"
        raise ConfigError(f"{path}: holds no keys. Fix: {start}")
    return values


def parse_yaml(text: str, origin: str) -> Any:
    """Parse YAML; ``origin`` is named in the error."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "syntax error"
        raise ConfigError(f"{origin}: no valid YAML{place} ({problem}). Fix: correct that line") from error


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set nested keys from ``a.b=value`` entries, values in YAML; missing blocks on the way are made."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--set {override}: not KEY=VALUE. Fix: write for example --set threshold=300")
        block = values
        *parents, last = key.split(".")
        for parent in parents:
            block = block.setdefault(parent, {})
            if not isinstance(block, dict):
                raise ConfigError(f"--set {override}: {parent} holds {block!r}, not keys. Fix: set {parent} itself")
        block[last] = parse_yaml(text, f"--set {override}")


def check(model: type[Model], values: dict[str, Any], origin: str) -> Model:
    """``model`` from values; ConfigError with the key, the value and what is valid."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(one_line(error, model, origin)) from error


def one_line(error: ValidationError, model: type[BaseModel], origin: str) -> str:
    """The first mistake of a flat model as one line."""
    first, *others = error.errors(include_url=False, include_context=False)
    key = ".".join(str(step) for step in first["loc"]) or "the whole"
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] == "extra_forbidden":
        valid = sorted(model.model_fields)
        close = difflib.get_close_matches(str(first["loc"][-1]), valid, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{origin}: {key} is not a known key{more}. Fix: {hint}valid here: {', '.join(valid)}"
    if first["type"] == "missing":
        return f"{origin}: {key} is missing{more}. Fix: add it"
    value = first["input"]
    shown = f" {value!r}" if isinstance(value, (str, int, float, list, tuple)) else ""
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{origin}: {key}{shown}: {message}{more}. Fix: correct that value"
