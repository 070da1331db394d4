"""Sums over events with a bootstrap beside them, in memory that does not grow with the events.

The 95 % intervals of `larstore evaluate` come from a Poisson bootstrap over events: in replica b an event counts
Poisson(1) times, and the replica's sums are those of the weighted events. The weights of an event follow from (seed,
file, event) alone, so

- all TPCs of an event come and go together;
- two predictions have the same weights: their difference in each replica is that of a paired comparison;
- sums of parts of a store, or of several workers, add up to those of the whole.

As n events are drawn with replacement (the usual bootstrap) each is drawn Binomial(n, 1/n) times, which is Poisson(1)
for all but the smallest n.
"""

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError

Floats = npt.NDArray[np.float64]
EventKey = tuple[int, int]  # file, event

REPLICAS = 200
LEVEL = 0.95  # of the intervals
SAME = 1e-12  # relative: rounding
BATCH_CELLS = 1 << 21  # events wait in at most so many numbers, then one matrix product takes them in
BATCH_EVENTS = 64
PRODUCT_CELLS = 1 << 14  # taken in at a time
REMEMBERED = 1024  # events whose weights are kept, as several tallies ask for them one after the other

# P(K <= k) for K ~ Poisson(1); beyond 20 it is 1 to the last bit.
_CUMULATIVE = np.cumsum([math.exp(-1.0) / math.factorial(k) for k in range(21)])


class EventWeights:
    """How often each event counts in each replica.

    The numbers are those of numpy's Philox (a counter-based generator, whose stream is fixed for ever) with the seed
    as its key and (file, event) as its counter, taken through the inverse of the Poisson distribution.

    Args:
        replicas: B, at least 0.
        seed: from 0 up, below 2^128.

    Raises:
        ConfigError: a number below 0, or a seed too large.
    """

    def __init__(self, replicas: int = REPLICAS, seed: int = 0) -> None:
        for name, value in (("bootstrap", replicas), ("seed", seed)):
            if value < 0:
                raise ConfigError(f"{name} = {value}. Fix: 0 or more")
        if seed >= 1 << 128:
            raise ConfigError(f"seed = {seed}. Fix: a number below 2^128")
        self.replicas, self.seed = replicas, seed
        self._known: dict[EventKey, Floats] = {}

    def of(self, key: EventKey) -> Floats:
        """(1 + B,) of one event; the first is 1, for the sums as they are."""
        if key not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            words = np.array([key[0], key[1]], np.int64).view(np.uint64)
            counter = np.array([0, 0, *words], np.uint64)  # the generator itself counts in the first word
            raw = np.random.Philox(key=self.seed, counter=counter).random_raw(self.replicas)
            uniform = (raw >> np.uint64(11)) * 2.0**-53
            drawn = np.searchsorted(_CUMULATIVE, uniform, side="right")
            self._known[key] = np.concatenate([[1.0], drawn])
        return self._known[key]

    def __call__(self, keys: Sequence[EventKey]) -> Floats:
        """(1 + B, events)."""
        return np.stack([self.of(key) for key in keys], axis=1) if len(keys) else np.zeros((self.replicas + 1, 0))


class Tally:
    """Sums over events of arrays of one shape: as they are, and in each replica.

    Args:
        shape: of what each event adds.
        weights: shared by all tallies that are to be compared.
    """

    def __init__(self, shape: tuple[int, ...], weights: EventWeights) -> None:
        self.shape, self.weights = shape, weights
        cells = math.prod(shape)
        self._sums = np.zeros((weights.replicas + 1, cells))
        self._waiting = np.zeros((max(1, min(BATCH_EVENTS, BATCH_CELLS // max(cells, 1))), cells))
        self._keys: list[EventKey] = []

    def add(self, key: EventKey, values: npt.ArrayLike) -> None:
        """Take in what (a part of) the event ``key`` = (file, event) adds, of the tally's shape."""
        flat = np.asarray(values, np.float64).reshape(self._waiting.shape[1])
        if not self._keys or self._keys[-1] != key:
            if len(self._keys) == len(self._waiting):
                self._take_in()
            self._keys.append(key)
            self._waiting[len(self._keys) - 1] = flat
        else:
            self._waiting[len(self._keys) - 1] += flat

    def _take_in(self) -> None:
        if self._keys:
            weights, waiting = self.weights(self._keys), self._waiting[: len(self._keys)]
            for first in range(0, waiting.shape[1], PRODUCT_CELLS):  # or the product is as large as the sums
                part = slice(first, first + PRODUCT_CELLS)
                self._sums[:, part] += weights @ waiting[:, part]
            self._keys = []

    @property
    def sums(self) -> Floats:
        """(1 + B, *shape): the sums, then those of the replicas."""
        self._take_in()
        return self._sums.reshape(-1, *self.shape)

    def merge(self, other: Self) -> None:
        """Add what another tally took in of other (parts of) events; it may have been made by another process.

        Raises ConfigError where shape, seed or number of replicas differ.
        """
        mine, theirs = ((t.shape, t.weights.replicas, t.weights.seed) for t in (self, other))
        if mine != theirs:
            raise ConfigError(f"tallies of (shape, bootstrap, seed) {mine} and {theirs}. Fix: the same for both")
        self._take_in()
        self._sums += other.sums.reshape(self._sums.shape)


def interval(values: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of a figure from its (1 + B,) values: the figure itself, then that of each replica.

    Replicas in which the figure has no value (no true voxel was drawn) are left out. NaN where half of them have none,
    and where all give the same but 0 or 1: then it is that of one event, whose replicas tell nothing.
    """
    drawn = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not len(drawn) or 2 * len(drawn) < len(values) - 1:
        return math.nan, math.nan
    if np.ptp(drawn) <= SAME * abs(values[0]) and values[0] not in (0, 1):
        return math.nan, math.nan
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)
