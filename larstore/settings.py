"""Settings from YAML files and `--set KEY=VALUE`, checked by pydantic; every mistake is one line with its fix."""

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from larstore.errors import ConfigError

BRANCHES = ("bool", "constrained-int", "float", "int", "str")  # pydantic's names of types in an error's location
Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """The safe one, but that 1:50 and 10:00:00 are text, which YAML 1.1 makes 110 and 36000 of, and 1e-3 a number.

    A key that is given twice in a block is refused: one of both would be lost.
    """

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """A block of keys."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen and key.value != "<<":
                raise yaml.composer.ComposerError(None, None, f"the key {key.value} is there twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return node

    def number_or_time(self, node: yaml.ScalarNode) -> int | float | str:
        """A number, unless it has colons."""
        if ":" in node.value:
            return str(node.value)
        return self.construct_yaml_float(node) if node.tag.endswith(":float") else self.construct_yaml_int(node)


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.number_or_time)
# YAML 1.1 takes 1e-3 for text: it wants a point in front and a sign behind the e.
_POWER = re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$")
_QUOTED = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _POWER, list("-+0123456789"))


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
        return _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "syntax error"
        raise ConfigError(f"{origin}: no valid YAML{place} ({problem}). Fix: correct that line") from error


def unquoted(value: Any, keep: Sequence[str] = ("name",)) -> Any:
    """Numbers where YAML holds them in quotation marks, at any depth of lists and blocks; not of keys to ``keep``."""
    if isinstance(value, dict):
        return {key: each if key in keep else unquoted(each, keep) for key, each in value.items()}
    if isinstance(value, list):
        return [unquoted(each, keep) for each in value]
    if isinstance(value, str) and _QUOTED.fullmatch(value.strip()):
        return float(value) if set(value) & set(".eE") else int(value)
    return value


def apply_overrides(values: dict[str, Any], overrides: Sequence[str], by_name: Sequence[str] = ()) -> None:
    """Set nested keys from ``a.b=value`` entries, values in YAML; missing blocks on the way are made.

    ``by_name``: patterns (``metrics.*``) of the blocks that may also be written as their name alone, as in
    ``trainer: basic``.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--set {override}: not KEY=VALUE. Fix: for example --set train.n_epochs=5")
        block = values
        *parents, last = key.split(".")
        for depth, parent in enumerate(parents, start=1):
            child = block.get(parent)
            if child is None or isinstance(child, bool):
                block[parent] = child = {}
            elif isinstance(child, str) and any(fnmatchcase(".".join(parents[:depth]), each) for each in by_name):
                block[parent] = child = {"name": child}
            if not isinstance(child, dict):
                raise ConfigError(f"--set {override}: {parent} holds {child!r}, not keys. Fix: set {parent} itself")
            block = child
        block[last] = parse_yaml(text, f"--set {override}")


def check(model: type[Model], values: dict[str, Any], origin: str, example: str = "") -> Model:
    """``model`` from values; ConfigError with the key, the value and what is valid, or the ``example`` to look at."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(one_line(error, model, origin, example)) from error


def one_line(error: ValidationError, model: type[BaseModel], origin: str, example: str = "") -> str:
    """The first mistake as one line: the key as the user wrote it, the value, and what would be right."""
    # A misspelt key first: the one that was meant is then missing as well.
    errors = error.errors(include_url=False, include_context=False)
    first, *others = sorted(errors, key=lambda each: each["type"] != "extra_forbidden")
    models, keys = _walk(model, first["loc"])
    key = ".".join(keys)
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] == "extra_forbidden":
        valid = sorted({key for block in _walk(model, first["loc"][:-1])[0] for key in _keys_of(block)})
        hint = did_you_mean(keys[-1], valid)
        return f"{origin}: {key} is not a known key{more}. Fix: {hint}valid here: {', '.join(valid)}"
    if first["type"] == "missing":
        return f"{origin}: {key} is missing{more}. Fix: add it" + (f"; {example} shows how" if example else "")
    value = first["input"]
    shown = f" {value!r}" if isinstance(value, (str, int, float, list, tuple)) else ""
    message = (
        first["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("a valid tuple", "a list in brackets")
    )
    message = re.sub(r"a valid dictionary( or instance of \w+)?", "a block of keys", message)
    expected = "; give keys: " + ", ".join(_keys_of(models[0])) if models and first["type"] == "model_type" else ""
    where = f"{key}{shown}: " if key else ""
    if first["type"] in ("literal_error", "union_tag_invalid"):
        given = value.get("name") if isinstance(value, dict) else value
        hint = did_you_mean(str(given), re.findall(r"'([^']+)'", message.partition("expected")[2] or message))
        return f"{origin}: {where}{message}{more}. Fix: {hint}correct that value"
    return f"{origin}: {where}{message}{more}. Fix: correct that value{expected}"


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """``"did you mean X? "``, where one of the ``valid`` words is close; capitals do not count."""
    folded = {each.lower(): each for each in valid}
    close = difflib.get_close_matches(word.lower(), list(folded), n=1)
    return f"did you mean {folded[close[0]]}? " if close else ""


def _keys_of(block: type[BaseModel]) -> list[str]:
    """The keys of a block as users write them."""
    return [field.alias or name for name, field in block.model_fields.items()]


def _walk(root: type[BaseModel], where: tuple[int | str, ...]) -> tuple[list[type[BaseModel]], list[str]]:
    """Follow an error's location down from ``root``: models it may end in, and the keys as the user wrote them."""
    models: list[type[BaseModel]] = [root]
    keys = []
    for step in where:
        chosen = [
            m for m in models if "name" in m.model_fields and get_args(m.model_fields["name"].annotation) == (step,)
        ]
        if chosen:  # pydantic names the branch of a union by its tag, which is no key
            models = chosen
            continue
        if isinstance(step, str) and ("[" in step or step in BRANCHES):
            continue  # of a union without tags
        keys.append(str(step))
        fields = [m.model_fields[str(step)].annotation for m in models if str(step) in m.model_fields]
        models = [t for annotation in fields for t in (annotation, *get_args(annotation)) if _is_model(t)]
    return models, keys


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
