"""The responses that a closure test compares: the default one, and steps towards none at all."""

from preprocess.simulation.config import SimulationConfig

ZERO = (0.0, 0.0, 0.0)
# Without noise nothing is lost to a region's threshold either: all thresholds are multiples of the noise.
QUIET = {"noise": ZERO, "roi_threshold": ZERO, "gaps": 0.0, "dead_channels": 0.0, "gains": (1.0, 1.0, 1.0)}
SHARP = {"smear_ticks": ZERO, "smear_pitches": ZERO}
STILL = {"diffusion_l_cm2_s": 0.0, "diffusion_t_cm2_s": 0.0}
RESPONSES = ("none", "diffusion", "smear", "default")


def response(name: str, config: SimulationConfig) -> SimulationConfig:
    """The settings of a response: ``config`` itself, or with noise, then filter smear, then diffusion taken out.

    none: charge drifts and attaches, and stays in its tick and wire. diffusion: it spreads on the way. smear: signal
    processing's filter spreads it further. default: with noise, regions of interest, gaps and whatever ``config`` says.
    """
    changes = {"none": QUIET | SHARP | STILL, "diffusion": QUIET | SHARP, "smear": QUIET, "default": {}}[name]
    return config.model_copy(update=changes)
