"""An inspection as text and tables."""

from rich.console import Console
from rich.table import Table

from preprocess.inspection.model import Inspection


def show(found: Inspection, console: Console) -> None:
    """Print what was found: contents, detectors, warnings, and the command to copy."""
    events = "" if found.n_events is None else f", {found.n_events} events"
    if found.n_events is not None and found.n_looked_at < found.n_events:
        events += f" (the first {found.n_looked_at} looked at)"
    product = f", product {found.product}" if found.product else ""
    lines = [f"{found.path}: {found.what}{events}{product}", *found.remarks]
    console.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=True)
    if found.waveforms:
        console.print(_waveforms(found))
    if found.deposits:
        console.print(_deposits(found))
    if found.fits:
        console.print(_fits(found))
    for warning in found.warnings:
        console.print(f"! {warning}", markup=False, highlight=False, soft_wrap=True)
    if found.command:
        console.print(f"\n{found.command}", markup=False, highlight=False, soft_wrap=True)


def _waveforms(found: Inspection) -> Table:
    table = Table(title="Waveforms", title_justify="left")
    for name in ("tag", "channels × ticks", "dtype", "values", "lit", "channels", "tick [us]", "charge a wire"):
        table.add_column(name, justify="left" if name in ("tag", "dtype") else "right")
    for each in found.waveforms:
        shapes = ", ".join(" × ".join(str(n) for n in shape) for shape in each.shapes[:3])
        shapes += " …" if len(each.shapes) > 3 else ""
        channels = "not numbered" if each.channels is None else "{} … {} ({})".format(*each.channels)
        table.add_row(
            each.name, shapes + (" (stored transposed)" if each.transposed else ""), each.dtype,
            f"{each.low:.6g} … {each.high:.6g}", f"{each.lit:.2%}", channels,
            ", ".join(f"{tick:g}" for tick in each.tick_us) or "not labelled",
            "" if each.charge is None else f"{each.charge * found.scale:,.0f} e",
        )  # fmt: skip
    return table


def _deposits(found: Inspection) -> Table:
    table = Table(title="Deposits", title_justify="left")
    for name in ("event", "points", "x [mm]", "y [mm]", "z [mm]", "t [us]", "electrons", "with pdg", "with track"):
        table.add_column(name, justify="right")
    for each in found.deposits:
        box = [f"{low:.0f} … {high:.0f}" for low, high in zip(each.low_mm, each.high_mm, strict=True)]
        times = f"{each.times_us[0]:.1f} … {each.times_us[1]:.1f}"
        table.add_row(
            str(each.event), f"{each.n_points:,}", *box, times, f"{each.electrons:.4g}", f"{each.n_pdg:,}",
            f"{each.n_track:,}",
        )  # fmt: skip
    return table


def _fits(found: Inspection) -> Table:
    table = Table(title="Detectors", title_justify="left")
    for name in ("detector", "fits", "TPCs", "channels, in the file / of the detector"):
        table.add_column(name)
    for each in found.fits:
        tpcs = ", ".join(str(number) for number in each.tpcs[:8]) + (" …" if len(each.tpcs) > 8 else "")
        table.add_row(each.detector, "yes" if each.complete else "no", tpcs, each.counts)
    return table
