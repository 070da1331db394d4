"""Bars: what was promised, what was measured, and how the two compare."""

from collections.abc import Iterable
from dataclasses import dataclass

from tests.benchmarks.side_by_side import markdown


@dataclass(frozen=True)
class Bar:
    """A limit and what was measured beside it. ``most``: the limit is the most that there may be, not the least."""

    what: str
    where: str  # the sample, or the size
    limit: float
    ours: float
    most: bool = False

    @property
    def met(self) -> bool:
        """Whether what was measured keeps to the limit."""
        return self.ours <= self.limit if self.most else self.ours >= self.limit

    def cells(self) -> list[str]:
        """A row of the table."""
        sign = "≤" if self.most else "≥"
        ratio = f"{self.ours / self.limit:.3g}"
        met = "yes" if self.met else "**no**"
        return [self.what, self.where, f"{sign} {shown(self.limit)}", shown(self.ours), ratio, met]


def shown(value: float) -> str:
    """A number for a page."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def bar_table(bars: Iterable[Bar]) -> str:
    """A row a bar, in markdown."""
    return markdown(["", "of", "bar", "ours", "ours / bar", "met"], [bar.cells() for bar in bars])
