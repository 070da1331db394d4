"""Reader for Wire-Cell deposits (``DepoFileSink``): tar, tar.gz, tar.bz2 or npz with ``depo_data_<n>`` and so on."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from larstore.errors import InputError
from preprocess.sources.depos import DepoEvent, DepoSource, check_count, depo_event
from preprocess.sources.members import member_names, members
from preprocess.sources.names import ARCHIVE_SUFFIXES
from preprocess.sources.npy import Array
from preprocess.sources.registry import Probe, Reader

if TYPE_CHECKING:  # readers load without the simulation
    from preprocess.simulation.config import SimulationConfig

MEMBER = re.compile(r"depo_(?P<kind>data|info)_(?P<ident>\d{1,18})")
KINDS = ("data", "info")
DATA_COLUMNS, INFO_COLUMNS = 7, 4  # t [ns], q, x, y, z [mm], σ along, σ across; id, pdg, generation, child
US_PER_NS = 1e-3
LAST = 0  # generation of a deposit that was not drifted or diffused any further


class WireCellDepoSource(DepoSource):
    """``depo_data`` (n, 7) or (7, n), ``depo_info`` (n, 4) or (4, n), in pairs; each archive is read front to back.

    q is negative in the format; archives where all are positive are taken as they are. Extents σ are left out, since
    the simulation makes its own. The track is the format's id.
    """

    @property
    def n_events(self) -> int:
        """Number of events (different n); reads the whole archive."""
        found = (MEMBER.fullmatch(name) for name in member_names(self.path))
        return len({match["ident"] for match in found if match})

    def read(self, config: "SimulationConfig") -> Iterator[DepoEvent]:
        """See ``DepoSource.read``. Notes: ``deposits of earlier generations``, ``deposits without electrons``."""
        for event, (ident, arrays) in enumerate(self._pairs()):
            yield self._event(event, ident, arrays["data"], arrays["info"])

    def _pairs(self) -> Iterator[tuple[str, dict[str, Array]]]:
        """Both arrays of each event, in the order of the archive."""
        pending: dict[str, Array] = {}
        current, done = "", set[str]()
        for member, read in members(self.path):
            match = MEMBER.fullmatch(member)
            if match is None:
                continue
            kind, ident = match["kind"], match["ident"]
            if pending and ident != current:
                raise self._missing(pending, current)
            if ident in done or kind in pending:
                raise InputError(f"{self.path}: holds {member} twice. Fix: write the archive again.")
            current = ident
            pending[kind] = read()
            if len(pending) == len(KINDS):
                done.add(ident)
                yield ident, pending
                pending = {}
        if pending:
            raise self._missing(pending, current)
        if not done:
            raise InputError(f"{self.path}: has no members depo_data_<n>. Fix: give a Wire-Cell depo archive.")

    def _missing(self, pending: dict[str, Array], ident: str) -> InputError:
        kind = next(kind for kind in KINDS if kind not in pending)
        return InputError(f"{self.path}: depo_{kind}_{ident} is not beside the other. Fix: write the archive again.")

    def _event(self, event: int, ident: str, data: Array, info: Array) -> DepoEvent:
        name = f"depo_data_{ident} {data.shape} and depo_info_{ident} {info.shape}"
        if data.shape == (0,) == info.shape:  # what numpy makes of an empty list
            data, info = data.reshape(0, DATA_COLUMNS), info.reshape(0, INFO_COLUMNS)
        rows_first, columns_first = (
            data.ndim == info.ndim == 2
            and (data.shape[axis], info.shape[axis]) == (DATA_COLUMNS, INFO_COLUMNS)
            and data.shape[1 - axis] == info.shape[1 - axis]
            for axis in (1, 0)
        )
        if not (rows_first or columns_first) or info.dtype.kind not in "iu":
            raise InputError(
                f"{self.path}: {name} ({info.dtype}) do not fit. Fix: write (n, 7) numbers and (n, 4) whole numbers."
            )
        if rows_first:
            data, info = data.T, info.T
        check_count(self.path, event, data.shape[1])
        last = info[2] == LAST
        notes = {} if last.all() else {"deposits of earlier generations": int(len(last) - last.sum())}
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused by depo_event
            t, q, x, y, z = data[:5, last].astype(np.float64)
        if (q < 0).any():
            if (q > 0).any():
                raise InputError(
                    f"{self.path}: depo_data_{ident} has charges of both signs. Fix: write electrons, all negative."
                )
            q = -q
        columns = [x, y, z, t * US_PER_NS, q]
        return depo_event(self.path, event, columns, info[1, last], info[0, last], int(ident), notes)


def _recognises(probe: Probe) -> bool:
    if probe.container == "tar":  # listing it would read it whole
        return MEMBER.fullmatch(probe.first_name) is not None
    return probe.container == "zip" and any(MEMBER.fullmatch(name) for name in probe.names)


READER = Reader(
    "wirecell-depos", "depos", "Wire-Cell deposits (.tar, .tar.gz, .tar.bz2, .npz: depo_data_<n>, depo_info_<n>)",
    ARCHIVE_SUFFIXES, _recognises, WireCellDepoSource,
)  # fmt: skip
