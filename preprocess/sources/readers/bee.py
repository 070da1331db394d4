"""Reader for the true deposits in zips of Bee, the web event display of Wire-Cell: ``data/<n>/<n>-<set>.json``."""

import json
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from larstore.errors import InputError
from preprocess.sources.depos import DepoEvent, DepoSource, check_count, depo_event
from preprocess.sources.members import read_zip_bytes, zip_names
from preprocess.sources.registry import Probe, Reader

if TYPE_CHECKING:  # readers load without the simulation
    from preprocess.simulation.config import SimulationConfig

MEMBER = re.compile(r"(?P<number>\d{1,9})-(?P<set>.+)\.json")
WANTED = ("depo", "truth")  # parts of a set's name, the best first
MM_PER_CM = 10.0
LARGEST_JSON = 1 << 26  # bytes: parsed, lists take up to twenty times that


class BeeSource(DepoSource):
    """Positions x, y, z in cm, q in electrons; no times: all are 0. Neither particles nor tracks.

    Of several sets, the one with ``depo`` in its name is read, else the one with ``truth``. Events are in the order of
    their numbers n; one without the set is empty. Writers round: positions to 1 mm or so (see the notes), and small
    charges may be missing.
    """

    @property
    def n_events(self) -> int:
        """Number of events (different n)."""
        return len(self._numbers)

    def read(self, config: "SimulationConfig") -> Iterator[DepoEvent]:
        """See ``DepoSource.read``.

        Notes: ``times unknown, taken as 0``, ``positions rounded to 1 mm``, ``events without deposits in the file``,
        ``deposits without electrons``.
        """
        chosen = self._chosen
        for event, (number, sets) in enumerate(self._numbers.items()):
            if chosen not in sets:
                notes = {"events without deposits in the file": 1}
                yield depo_event(self.path, event, [np.empty(0)] * 5, notes=notes)
                continue
            name = f"{number}-{chosen}.json"
            document = bee_document(self.path, name, read_zip_bytes(self.path, name, LARGEST_JSON))
            yield self._event(event, document, bee_columns(self.path, event, name, document))

    @cached_property
    def _numbers(self) -> dict[int, set[str]]:
        """The sets of each event, by its number, ascending."""
        return bee_sets(self.path)

    @cached_property
    def _chosen(self) -> str:
        """The set to read."""
        names = sorted(set().union(*self._numbers.values()))
        for part in WANTED:
            fitting = [name for name in names if part in name.lower()]
            if len(fitting) > 1:
                raise InputError(
                    f"{self.path}: holds several sets of deposits ({', '.join(fitting[:5])}). "
                    "Fix: leave one of them in the archive."
                )
            if fitting:
                return fitting[0]
        raise InputError(
            f"{self.path}: holds the sets {', '.join(names[:5]) or '(none)'}. Fix: give one with true deposits, "
            "named <n>-truthDepo.json."
        )

    def _event(self, event: int, document: dict[str, Any], columns: npt.NDArray[np.float64]) -> DepoEvent:
        n = columns.shape[1]
        notes = {"times unknown, taken as 0": n} if n else {}
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
            mm = columns[:3] * MM_PER_CM
            if n and (np.abs(mm - np.rint(mm)) < 1e-6).all():
                notes["positions rounded to 1 mm"] = n
        ident = str(document.get("eventNo", ""))
        event_id = int(ident) if re.fullmatch(r"[0-9]{1,18}", ident) else -1
        return depo_event(self.path, event, [*mm, np.zeros(n), columns[3]], event_id=event_id, notes=notes)


def bee_sets(path: Path) -> dict[int, set[str]]:
    """Number n of each event in a zip -> the names of its sets, ascending by n."""
    found: dict[int, set[str]] = {}
    for match in filter(None, map(MEMBER.fullmatch, zip_names(path))):
        if str(int(match["number"])) == match["number"]:
            found.setdefault(int(match["number"]), set()).add(match["set"])
    return dict(sorted(found.items()))


def bee_document(path: Path, name: str, data: bytes) -> dict[str, Any]:
    """One set of an event from its JSON; InputError for what is none."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one of ValueError's
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path}: {name} is no JSON ({reason}). Fix: copy or write it again.") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: {name} holds no x, y, z, q. Fix: copy or write it again.")
    return document


def bee_columns(
    path: Path, event: int, name: str, document: dict[str, Any], keys: str = "xyzq"
) -> npt.NDArray[np.float64]:
    """(keys, n) x, y, z in cm and q of a document's points; InputError for lists of other things or unequal lengths."""
    columns = [_column(path, event, name, document, key) for key in keys]
    if len({len(column) for column in columns}) != 1:
        sizes = ", ".join(f"{key} {len(column)}" for key, column in zip(keys, columns, strict=True))
        raise InputError(f"{path}: {name} has lists of unequal lengths ({sizes}). Fix: write it again.")
    return np.array(columns)


def _column(path: Path, event: int, name: str, document: dict[str, Any], key: str) -> npt.NDArray[np.float64]:
    values = document.get(key)
    # bool is a kind of int, and strings would be parsed: neither is meant.
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        raise InputError(f"{path}: {name} has no list of numbers {key!r}. Fix: copy or write it again.")
    check_count(path, event, len(values))
    try:
        return np.array(values, np.float64)
    except OverflowError as error:
        raise InputError(f"{path}: {name} has too large a number in {key!r}. Fix: write it again.") from error


def _recognises(probe: Probe) -> bool:
    return probe.container == "zip" and any(MEMBER.fullmatch(name) for name in probe.names)


READER = Reader("bee", "depos", "Bee JSON (.zip: data/<n>/<n>-truthDepo.json …)", (".zip",), _recognises, BeeSource)
