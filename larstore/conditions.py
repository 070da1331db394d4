"""What ``select`` can ask of images: ranges, TPCs, samples, expressions and masks; only the index is read for it."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from larstore.errors import DamageError, StoreError

if TYPE_CHECKING:
    from larstore.selection import Selection

Mask: TypeAlias = "npt.NDArray[np.bool_] | pd.Series[bool]"
Where: TypeAlias = "Mask | Callable[[pd.DataFrame], Mask]"
Bools = npt.NDArray[np.bool_]
WRONG_QUERY = (  # what pandas raises for an expression that it does not understand
    ValueError,
    TypeError,
    LookupError,
    SyntaxError,
    NameError,
    AttributeError,
    ArithmeticError,
    NotImplementedError,
)


@dataclass(frozen=True, eq=False)
class Conditions:
    """The arguments of ``Store.select``, which explains them. An image must fit all that are not None."""

    files: tuple[int, int] | None = None
    events: tuple[int, int] | None = None
    tpcs: Sequence[int] | None = None
    query: str | None = None
    sample: str | Sequence[str] | None = None
    where: "Where | None" = None

    def positions(self, selection: "Selection") -> npt.NDArray[np.int64]:
        """Positions in ``selection`` of the images that fit. StoreError for a condition that makes no sense."""
        keep = np.ones(len(selection), dtype=bool)
        if self.files is not None:
            keep &= _in_range(selection.column("file"), "files", self.files)
        if self.events is not None:
            keep &= _in_range(selection.column("event"), "events", self.events)
        if self.tpcs is not None:
            keep &= np.isin(selection.column("tpc"), _numbers(self.tpcs, "tpcs"))
        if self.sample is not None:
            keep &= _of_sample(selection, self.sample)
        if self.where is not None and not callable(self.where):
            keep &= _mask(self.where, selection)
        found = np.flatnonzero(keep)
        if self.query is not None:
            found = found[_fits_query(selection.take(found), self.query)]
        if callable(self.where):
            part = selection.take(found)
            found = found[_mask(self.where(part.rows), part)]
        return found

    def __str__(self) -> str:
        given = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ", ".join(f"{name}={_shown(value)}" for name, value in given if value is not None)


def _shown(value: Any) -> str:
    if callable(value):
        return str(getattr(value, "__name__", type(value).__name__))
    if isinstance(value, np.ndarray | pd.Series):
        return f"<{len(value)} {value.dtype}>" if len(value) > 8 or value.dtype == bool else repr(value.tolist())
    return repr(value)


def _numbers(values: Iterable[int], name: str) -> npt.NDArray[np.int64]:
    try:
        found = np.array(list(values))
    except TypeError as error:
        raise StoreError(f"select({name}={values!r}): Fix: give a list of whole numbers") from error
    if found.ndim != 1 or (len(found) and found.dtype.kind not in "iu"):
        raise StoreError(f"select({name}={values!r}): Fix: give a list of whole numbers")
    return found.astype(np.int64)


def _in_range(values: npt.NDArray[Any], name: str, bounds: tuple[int, int]) -> Bools:
    try:
        low, high = bounds
        return np.asarray((values >= low) & (values <= high), dtype=bool)
    except (TypeError, ValueError) as error:
        raise StoreError(f"select({name}={bounds!r}): Fix: give an inclusive range, (first, last)") from error


def _of_sample(selection: "Selection", sample: str | Sequence[str]) -> Bools:
    """Whether the input that an image was made from belongs to one of these samples."""
    store = selection.store
    samples = store.inputs["sample"].to_numpy(dtype=object)
    known = sorted(set(samples))
    fix = f"Fix: use any of {', '.join(map(repr, known)) or 'none, the store has no inputs'}"
    if not isinstance(sample, str | Sequence):
        raise StoreError(f"select(sample={sample!r}): neither text nor a list of texts. {fix}")
    wanted = [sample] if isinstance(sample, str) else list(sample)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise StoreError(f"{store.path}: no input of sample {unknown[0]!r}. {fix}")
    rows = selection.column("input")
    wrong = rows[(rows < -1) | (rows >= len(samples))]
    if len(wrong):
        raise DamageError(
            f"{store.path}: index/input has {wrong[0]}, of {len(samples)} inputs. Fix: restore index/input"
        )
    chosen = np.append(np.isin(samples, wanted), False)  # input -1, not known, is the last entry
    return np.asarray(chosen[rows], dtype=bool)


def _fits_query(selection: "Selection", query: str) -> Bools:
    """What the expression says of each image; only the columns that it names are read."""
    names = selection.store.index_columns.names
    fix = f"Fix: use the columns {', '.join(names)}"
    if not isinstance(query, str):
        raise StoreError(f"select(query={query!r}): {type(query).__name__} is no text. {fix}")
    words = set(re.findall(r"\w+", query))
    columns = {name: pd.Series(selection.column(name)) for name in names if name in words}
    try:
        # The empty dictionaries keep @names of this program out of reach. A table's own eval would also know ``index``,
        # the positions of rows.
        fits = pd.eval(query, resolvers=[columns], local_dict={}, global_dict={})
    except WRONG_QUERY as error:
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise StoreError(f"select(query={query!r}): {reason}. {fix}") from error
    if not isinstance(fits, pd.Series) or fits.dtype != bool:
        raise StoreError(f"select(query={query!r}): is not true or false for each image. {fix}")
    return np.asarray(fits.to_numpy(), dtype=bool)


def _mask(mask: Any, selection: "Selection") -> Bools:
    """A mask as an array, if it is one for these images."""
    n = len(selection)
    fix = f"Fix: give {n} booleans, one for each image that is selected from"
    values = np.asarray(mask)
    if values.shape != (n,) or values.dtype != bool:
        raise StoreError(f"select(where=…): the mask has shape {values.shape} and type {values.dtype}. {fix}")
    labelled = isinstance(mask, pd.Series) and not isinstance(mask.index, pd.RangeIndex)
    if labelled and not mask.index.equals(selection.keys):
        raise StoreError(f"select(where=…): the mask is a Series of other images. {fix}, in their order")
    return values
