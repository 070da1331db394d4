"""A run in a notebook: its state as HTML, renewed in place."""

import sys
from html import escape
from typing import Any

from preprocess.progress import details
from preprocess.run_log import Show, duration
from preprocess.run_state import RunState


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")  # a kernel has it loaded
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def html_of(state: RunState) -> str:
    """The state of a run as a piece of HTML."""
    link = f'<br><a href="{escape(state.dashboard)}">Dask dashboard</a>' if state.dashboard else ""
    news = "".join(f"<br>{escape(line)}" for line in state.news)
    return (
        f"<div><b>{escape(str(state.output))}</b>: {escape(state.phase)}<br>"
        f'<progress style="width:24em" max="{max(1, state.n_units)}" value="{state.units_over}"></progress> '
        f"{state.units_over:,} of {state.n_units:,} units, {duration(state.seconds_left)} left"
        f"<br>{escape(details(state))}{link}{news}</div>"
    )


def notebook_display() -> Show:
    """A function that shows the state of a run below the cell that calls it first."""
    from IPython.display import HTML, display

    handle: Any = None

    def show(state: RunState) -> None:
        nonlocal handle
        shown = HTML(html_of(state))  # type: ignore[no-untyped-call]
        if handle is None:
            handle = display(shown, display_id=True)  # type: ignore[no-untyped-call]
        else:
            handle.update(shown)

    return show
