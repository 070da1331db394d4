"""Values in cluster profiles that batch systems read in surprising ways: each is checked, and the trap is explained."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

UNITS = {"MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_TIME = re.compile(r"(\d{1,4}):([0-5]\d):([0-5]\d)")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?) ?(MiB|GiB|TiB)")
_RANGE = re.compile(r"(\d+):(\d+)")


def seconds(time: str) -> int:
    """Of a time that is written as HH:MM:SS."""
    hours, minutes, rest = (int(part) for part in time.split(":"))
    return 3600 * hours + 60 * minutes + rest


def in_bytes(memory: str) -> int:
    """Of an amount of memory that is written as in 8 GiB."""
    number, unit = memory.split(" ")
    return int(float(number) * UNITS[unit])


def _duration(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        clock = f"{value // 3600:02d}:{value // 60 % 60:02d}:{value % 60:02d}"
        raise ValueError(
            f"a time is HH:MM:SS. Batch systems take a bare number for minutes or for seconds; perhaps you mean {clock}"
        )
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError('a time is HH:MM:SS, such as "02:30:00"; hours may be more than 24')
    if not seconds(value):
        raise ValueError("a time of nothing")
    hours, rest = value.split(":", 1)
    return f"{int(hours):02d}:{rest}"


def _memory(value: Any) -> Any:
    if not isinstance(value, str) or not (match := _MEMORY.fullmatch(value)):
        raise ValueError(
            'an amount of memory is a number with MiB, GiB or TiB, such as "8 GiB". GB and G are not taken: 1 GB is '
            "10^9 bytes, of which batch systems make 954 MiB"
        )
    if not float(match[1]):
        raise ValueError("an amount of nothing")
    return f"{match[1]} {match[2]}"


def _lines(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"is a list, an entry for each line: write [{value!r}]. A text would become a line per letter")
    return value


def _range(value: Any) -> Any:
    """MIN and MAX, of a number, of "MIN:MAX" or of a pair."""
    if isinstance(value, str) and (match := _RANGE.fullmatch(value)):
        value = int(match[1]), int(match[2])
    elif isinstance(value, int) and not isinstance(value, bool):
        value = value, value
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(type(each) is int for each in value):
        raise ValueError("a number of workers, or MIN:MAX")
    least, most = value
    if least < 0 or most < max(1, least):
        raise ValueError("at least 1 worker, or MIN:MAX with MIN from 0 and MAX from 1 and not below MIN")
    return least, most


Duration = Annotated[str, BeforeValidator(_duration)]
Memory = Annotated[str, BeforeValidator(_memory)]
Lines = Annotated[tuple[str, ...], BeforeValidator(_lines)]
Workers = Annotated[tuple[int, int], BeforeValidator(_range)]
