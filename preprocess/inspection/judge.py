"""What looks wrong with a file of read-outs, and the command that reads it."""

import shlex

from preprocess.detector import Detector
from preprocess.inspection.charge import MIP_ELECTRONS, MIP_FACTOR, scale_for
from preprocess.inspection.model import Fit, Inspection, Waveforms

MOST_LIT = 0.2
PREFERRED_TAGS = ("gauss", "reco", "wiener", "orig")


def chosen_waveforms(result: Inspection) -> Waveforms | None:
    """The tag that is most likely the signal."""
    for word in PREFERRED_TAGS:
        for each in result.waveforms:
            if word in each.name:
                return each
    return result.waveforms[0] if result.waveforms else None


def chosen_fit(result: Inspection) -> Fit | None:
    """The complete fit that the file's name speaks for, or the only one, or the first of several."""
    return next((fit for fit in result.fits if fit.complete), None)


def is_ambiguous(result: Inspection) -> bool:
    """Whether several detectors fit, and the file's name speaks for none."""
    complete = [fit for fit in result.fits if fit.complete]
    return len(complete) > 1 and not complete[0].named


def judge(result: Inspection, detectors: list[Detector]) -> None:
    """Adds the warnings: bad samples, sign, zero suppression, unit, detector, ticks."""
    warn = result.warnings.append
    chosen = chosen_waveforms(result)
    if chosen is None:
        warn("no waveforms found")
        return
    where = f"{chosen.name}: " if len(result.waveforms) > 1 else ""
    if chosen.n_bad:
        warn(f"{where}{chosen.n_bad} samples are NaN or infinite: repair them, the file will be refused")
    if chosen.total < 0:
        warn(f"{where}the sum of the charge is negative: --set sign=-1?")
    if chosen.lit > MOST_LIT:
        level = float(f"{5 * chosen.spread * result.scale:.2g}")
        threshold = f"--threshold, as {level:g} (5 × spread)" if level > 1 else "--threshold"
        warn(f"{where}{chosen.lit:.0%} of the samples are lit: not zero-suppressed, set {threshold}")
    if chosen.charge is None:
        warn(f"{where}nothing is lit on a known collection plane: the unit could not be checked")
    else:
        charge = chosen.charge * result.scale
        if not MIP_ELECTRONS / MIP_FACTOR <= charge <= MIP_ELECTRONS * MIP_FACTOR:
            scale = scale_for(chosen.charge)
            hint = f"--scale {scale:g}" if scale != result.scale else "--scale"
            warn(
                f"{where}{charge:,.0f} electrons a collection wire along tracks, a minimum-ionising one leaves about "
                f"{MIP_ELECTRONS:,.0f}: wrong unit? {hint}"
            )
    if is_ambiguous(result):
        warn("several detectors fit: choose the one it was taken with")
    if chosen_fit(result) is None:
        warn("no built-in detector fits: give the wires file or the detector YAML it was taken with")
    _judge_ticks(result, chosen, detectors)


def _judge_ticks(result: Inspection, chosen: Waveforms, detectors: list[Detector]) -> None:
    fit = chosen_fit(result)
    if fit is None:
        return
    frame = next(each for each in detectors if each.name == fit.detector).tpcs[fit.tpcs[0]].frame
    for tick in chosen.tick_us:
        if frame.tick_us is not None and abs(tick - frame.tick_us) > 1e-3 * frame.tick_us:
            result.warnings.append(
                f"its label says ticks of {tick:g} us, {fit.detector} has {frame.tick_us:g}: --set tick_us="
                f"{frame.tick_us:g} if that is wrong, else a detector YAML with `extends: {fit.detector}`"
            )
    n_ticks = chosen.shapes[0][-1]
    if frame.n_ticks and n_ticks < 0.75 * frame.n_ticks:
        result.warnings.append(
            f"{n_ticks} ticks, the window of {fit.detector} has {frame.n_ticks}: cut, or rebinned? Then its t0_us or "
            f"tick_us is another: a detector YAML with `extends: {fit.detector}`"
        )


def command(result: Inspection) -> str | None:
    """A command line that reads the file, as far as the file tells."""
    chosen = chosen_waveforms(result)
    if chosen is None:
        return None
    fit = chosen_fit(result)
    parts = ["larstore", "preprocess", shlex.quote(str(result.path)), "-o", "run.zarr"]
    parts += ["--detector", "DETECTOR" if fit is None or is_ambiguous(result) else fit.detector]
    if len(result.waveforms) > 1:
        parts += ["--tag", shlex.quote(chosen.name)]
    if chosen.charge is not None:
        scale = scale_for(chosen.charge)
        charge = chosen.charge * result.scale
        if scale != result.scale and not MIP_ELECTRONS / MIP_FACTOR <= charge <= MIP_ELECTRONS * MIP_FACTOR:
            parts += ["--scale", f"{scale:g}"]
    if chosen.total < 0:
        parts += ["--set", "sign=-1"]
    if chosen.ambiguous:
        parts += ["--set", "orientation=channels_first"]
    return " ".join(parts)
