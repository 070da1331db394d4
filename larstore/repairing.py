"""A new store without the damaged images of an old one; they are recorded as failures, to be made again."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from larstore.chosen import Chosen, gather_tables
from larstore.copying import note, write_store
from larstore.errors import DamageError, UnreadableError
from larstore.format import FAILURE_COLUMNS
from larstore.index import Rows
from larstore.locations import place_of
from larstore.store import Store, open
from larstore.verification import Key, Problem, Report, verify
from larstore.workshop import refuse_target

NAMED = 5  # events that a failure names
LOST = "What is lost there stands nowhere else. Fix: restore these files from a copy, then repair the rest"
UNREADABLE = (
    "What is there may be right, and is not to be thrown away. Fix: make it readable and repair again; a file that is "
    "lost for good, as on a broken disk, remove first"
)


@dataclass(frozen=True)
class Repaired:
    """The new store, what was wrong with the old one, and what is missing now.

    Attributes:
        store: the new store.
        report: of verifying the old one.
        dropped: keys of the images that the new store lacks.
        unscored: prediction -> keys of images that lost their scores of it, and only those.
        predictions: names of predictions that the new store lacks.
    """

    store: Store
    report: Report
    dropped: list[Key]
    unscored: dict[str, list[Key]]
    predictions: list[str]


def repair(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> Repaired:
    """Copy what is provably right in a store into a new one, bit by bit.

    An image with anything wrong in its arrays is left out, whole; its file and TPC are in ``failures`` of the new
    store, so that ``larstore preprocess`` can make them again. Scores that cannot be read are left out as not
    predicted; a prediction that does not lie along the voxels is left out whole.

    Raises DamageError for damage outside of images, in the root, the geometry or a table: what these said cannot be
    told from the rest. UnreadableError if any file could not be read: what is in it may be right. StoreError if the
    path exists or lies inside a store.
    """
    refuse_target(Path(path))
    report = verify(source)
    if report.unreadable:
        raise UnreadableError(_refusal(source, report.unreadable, UNREADABLE))
    lost = [problem for problem in report.problems if not problem.images and not _prediction(problem)]
    if lost:
        raise DamageError(_refusal(source, lost, LOST))
    store = open(source)
    dropped = _keys(problem for problem in report.problems if not _prediction(problem))
    rows = store.select().row_numbers
    chosen = Chosen([store], [rows[~_among(rows, store, dropped)]])
    gone = sorted({_prediction(p) for p in report.problems if not p.images})
    unscored: dict[str, list[Key]] = {}
    for name in sorted({_prediction(p) for p in report.problems} - {"", *gone}):
        keys = set(_keys(p for p in report.problems if _prediction(p) == name)) - set(dropped)
        if keys:
            unscored[name] = sorted(keys)
    without = {name: _among(chosen.row, store, keys) for name, keys in unscored.items()}
    tables = gather_tables(chosen, [store.failures, _failures(store, report, dropped)], all_inputs=True)
    provenance = note(store.attributes["provenance"], "repair", [store])
    new = write_store(Path(path), chosen, tables, provenance, without, leave_out=gone)
    return Repaired(new, report, dropped, unscored, gone)


def _refusal(source: str | os.PathLike[str], problems: list[Problem], why: str) -> str:
    """The line that says why a store is not repaired: the first of the problems, and what to do."""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    what = problems[0].what.partition(" Fix:")[0].rstrip(".")
    return f"{place_of(source)}: cannot be repaired: {what}{more}. {why}"


def _prediction(problem: Problem) -> str:
    """Name of the prediction that a problem is about, or ""."""
    group, _, rest = problem.array.partition("/")
    return rest.partition("/")[0] if group == "predictions" else ""


def _keys(problems: Iterable[Problem]) -> list[Key]:
    return sorted({key for problem in problems for key in problem.images})


def _among(rows: Rows, store: Store, keys: list[Key]) -> npt.NDArray[np.bool_]:
    """(n,) whether a row of the index is that of one of the keys."""
    found = [row for key in keys if (row := store.index_columns.find(*key)) is not None]
    return np.isin(rows, np.array(found, np.int64))


def _failures(store: Store, report: Report, dropped: list[Key]) -> pd.DataFrame:
    """A failure for each file and TPC of which images were dropped: the first thing that is wrong, and the events."""
    reasons: dict[Key, str] = {}
    for problem in report.problems:
        for key in problem.images if not _prediction(problem) else ():
            reasons.setdefault(key, problem.what)
    units: dict[tuple[int, int, str], list[Key]] = {}
    paths = store.inputs["path"].tolist()
    for key in dropped:
        row = store.image(*key).summary("input")
        units.setdefault((key[0], key[2], paths[row] if 0 <= row < len(paths) else ""), []).append(key)
    rows = []
    for (file, tpc, path), keys in units.items():
        events = ", ".join(str(event) for _, event, _ in keys[:NAMED]) + (", …" if len(keys) > NAMED else "")
        rows.append((file, tpc, path, f"damaged in {store.path}, event {events}: {reasons[keys[0]]}", 0))
    return pd.DataFrame(rows, columns=list(FAILURE_COLUMNS))
