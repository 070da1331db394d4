"""What is inside an input file, which detectors it fits, and which options read it: `larstore inspect`."""

from preprocess.inspection.look import inspect
from preprocess.inspection.model import Deposits, Fit, Inspection, Waveforms

__all__ = ["Deposits", "Fit", "Inspection", "Waveforms", "inspect"]
