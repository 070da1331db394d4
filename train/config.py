"""Read a configuration file, apply `--set`, expand environment variables; every mistake is one line with its fix."""

import difflib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from larstore.errors import ConfigError
from train.schema import Config

__all__ = ["Config", "load_config", "make_config", "naming_file", "with_inputs"]


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read and check a YAML configuration.

    Args:
        path: the file.
        overrides: ``"a.b=value"`` entries, values in YAML, applied over the file.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown, or a value is wrong; one line that says which.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ConfigError(f"{path}: cannot be read ({reason}). Fix: give the path of a YAML configuration") from error
    values = _parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no keys. Fix: start from configs/ghost3d.yaml")
    for override in overrides:
        _apply(values, override)
    config = make_config(values, str(path))
    config._origin = str(path)
    return config


def make_config(values: dict[str, Any], origin: str = "config") -> Config:
    """Check the values of a configuration; ``origin`` (its file) is named in errors. Raises ConfigError."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_one_line(error, origin)) from error
    config.output_dir = _expand(config.output_dir, origin, "output_dir")
    config.data.data_path = [_expand(path, origin, "data.data_path") for path in config.data.data_path]
    if config.train.transfer is not None:
        config.train.transfer = _expand(config.train.transfer, origin, "train.transfer")
    return config


@contextmanager
def naming_file(config: Config) -> Iterator[None]:
    """Put the file that ``config`` was read from before the ConfigErrors raised inside."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{config._origin}: {error}" if config._origin else str(error)) from error


def with_inputs(config: Config, n_planes: int) -> Config:
    """A copy whose model has as many inputs as the data. Raises ConfigError where it asks for another number."""
    n_inputs = config.data.n_inputs(n_planes)
    given = config.model.arguments.get("nInputFeatures", n_inputs)
    if given != n_inputs:
        raise ConfigError(
            f"model.nInputFeatures is {given}, the data have {n_inputs} inputs per voxel ({n_planes} planes and "
            f"{n_inputs - n_planes} z_segments). Fix: leave it out, or {n_inputs}"
        )
    model = config.model.model_copy(update={"nInputFeatures": n_inputs})
    return config.model_copy(update={"model": model})


def _parse_yaml(text: str, origin: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "syntax error"
        raise ConfigError(f"{origin}: no valid YAML{place} ({problem}). Fix: correct that line") from error


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one nested key; blocks on the way are made, and a short form such as ``trainer: basic`` becomes one."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {override}: not KEY=VALUE. Fix: for example --set train.n_epochs=5")
    *parents, last = key.split(".")
    for parent in parents:
        child = values.get(parent)
        if child is None or isinstance(child, bool):
            values[parent] = child = {}
        elif isinstance(child, str) and parent == "trainer":
            values[parent] = child = {"name": child}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {parent} holds {child!r}, not keys. Fix: set {parent} itself")
        values = child
    values[last] = _parse_yaml(text, f"--set {override}")


def _expand(text: str, origin: str, key: str) -> str:
    expanded = os.path.expanduser(os.path.expandvars(text))
    missing = re.search(r"\$(\w+|\{[^}]*\})", expanded)
    if missing:
        raise ConfigError(f"{origin}: {key}: {missing[0]} is not set. Fix: export it, or write the path out")
    return expanded


def _walk(where: tuple[int | str, ...]) -> tuple[list[type[BaseModel]], list[str]]:
    """Follow an error's location down from ``Config``: models it may end in, and the keys as the user wrote them."""
    models: list[type[BaseModel]] = [Config]
    keys = []
    for step in where:
        chosen = [
            m for m in models if "name" in m.model_fields and get_args(m.model_fields["name"].annotation) == (step,)
        ]
        if chosen:  # pydantic names the branch of a union by its tag, which is no key
            models = chosen
            continue
        keys.append(str(step))
        fields = [m.model_fields[str(step)].annotation for m in models if str(step) in m.model_fields]
        models = [t for annotation in fields for t in (annotation, *get_args(annotation)) if _is_model(t)]
    return models, keys


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _one_line(error: ValidationError, origin: str) -> str:
    first, *others = error.errors(include_url=False, include_context=False)
    models, keys = _walk(first["loc"])
    key = ".".join(keys) or "the whole"
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] == "extra_forbidden":
        valid = sorted({name for model in _walk(first["loc"][:-1])[0] for name in model.model_fields})
        close = difflib.get_close_matches(keys[-1], valid, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{origin}: {key} is not a known key{more}. Fix: {hint}valid here: {', '.join(valid)}"
    if first["type"] == "missing":
        return f"{origin}: {key} is missing{more}. Fix: add it; configs/ghost3d.yaml shows how"
    value = first["input"]
    shown = f" {value!r}" if isinstance(value, (str, int, float, list)) else ""
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    expected = "; give keys: " + ", ".join(models[0].model_fields) if models and first["type"] == "model_type" else ""
    return f"{origin}: {key}{shown}: {message}{more}. Fix: correct that value{expected}"
