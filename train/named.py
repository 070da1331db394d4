"""Objects that a configuration names, such as losses and optimisers: made with its arguments, or one line of error."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from larstore.errors import ConfigError
from larstore.settings import did_you_mean


def call_named(
    make: Callable[..., Any], name: str, arguments: dict[str, Any], key: str, *given: Any, hidden: Sequence[str] = ()
) -> Any:
    """``make(*given, **arguments)``.

    Args:
        make: the class, or what makes the object.
        name: how the configuration calls it.
        arguments: what the configuration gives to it.
        key: block of the configuration, for errors.
        given: positional arguments that are not the configuration's.
        hidden: arguments that a configuration must not set.

    Raises:
        ConfigError: an argument is unknown, missing or wrong; one line with the key and what would be right.
    """
    parameters = inspect.signature(make).parameters.values()
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)][len(given) :]
    valid = [p.name for p in plain if p.name not in hidden]
    unknown = [argument for argument in arguments if argument not in valid]
    takes_more = any(p.kind == p.VAR_KEYWORD for p in parameters)
    if unknown and (not takes_more or did_you_mean(unknown[0], valid) or unknown[0] in hidden):
        known = f"valid here: {', '.join(valid)}" if valid else "it takes none"
        raise ConfigError(
            f"{key}: {unknown[0]} is no argument of {name}. Fix: {did_you_mean(unknown[0], valid)}{known}"
        )
    missing = [p.name for p in plain if p.default is p.empty and p.name not in (*arguments, *hidden)]
    if missing:
        raise ConfigError(f"{key}: {missing[0]} is missing for {name}. Fix: add it")
    try:
        return make(*given, **arguments)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        shown = ", ".join(f"{argument} = {value!r}" for argument, value in sorted(arguments.items())) or "none is given"
        raise ConfigError(f"{key}: {name}: {reason}. Fix: correct its arguments ({shown})") from error
