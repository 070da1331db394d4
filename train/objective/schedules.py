"""How the learning rate changes: torch's schedulers by name, the research code's plateau, and one cycle."""

import logging
import math
from typing import Any

from torch.optim import Optimizer, lr_scheduler

from larstore.errors import ConfigError
from larstore.settings import did_you_mean
from train.named import call_named
from train.schema import NamedSection, PlateauTrainer, ScheduleTrainer

log = logging.getLogger("larstore.train")

# Of these the length of the run is the natural default.
LENGTHS = {"CosineAnnealingLR": "T_max", "OneCycleLR": "total_steps"}
OF_FUNCTIONS = ("LambdaLR", "MultiplicativeLR")
OF_SEVERAL = ("ChainedScheduler", "SequentialLR")
HIDDEN = ("last_epoch", "verbose", "optimizer")


def scheduler_names() -> list[str]:
    """What ``trainer.scheduler.name`` may be, of this torch."""
    found = {name for name, kind in vars(lr_scheduler).items() if isinstance(kind, type) and not name.startswith("_")}
    kinds = {name for name in found if issubclass(getattr(lr_scheduler, name), lr_scheduler.LRScheduler)}
    return sorted(kinds - {"LRScheduler", *OF_FUNCTIONS})


class Schedule:
    """A scheduler of torch, asked for the next learning rate when it is due.

    Args:
        scheduler: of the optimiser in use.
        interval: "step" (after each step of the optimiser) or "epoch".
        metric: name of the value of validation that a plateau is looked for in; None for other schedulers.
    """

    def __init__(self, scheduler: Any, interval: str, metric: str | None = None) -> None:
        self.scheduler, self.interval, self.metric = scheduler, interval, metric

    def after_step(self) -> None:
        """The optimiser took a step."""
        if self.interval == "step":
            self._advance()

    def after_epoch(self, valid: dict[str, float]) -> None:
        """An epoch is over; ``valid``: loss and metrics of its validation. Raises ConfigError if they are needed."""
        if self.metric is not None:
            if self.metric not in valid:
                raise ConfigError("trainer: a plateau needs validation. Fix: set data.inference_i")
            self.scheduler.step(valid[self.metric])
        elif self.interval == "epoch":
            self._advance()

    def _advance(self) -> None:
        """The next rate. The number of steps is an estimate where batches differ: past its end the last rate stays."""
        last = getattr(self.scheduler, "total_steps", math.inf) - 1
        if getattr(self.scheduler, "last_epoch", 0) < last:  # which a chained one lacks
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        state: dict[str, Any] = self.scheduler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one of the same configuration stood; a warning where the run's length is another now."""
        for name in LENGTHS.values():
            now = getattr(self.scheduler, name, None)
            if name in state and state[name] != now:
                log.warning(
                    "trainer.scheduler: the learning rate keeps the course of %s = %s it began with, not %s; beyond "
                    "its end it may rise again",
                    *(name, state[name], now),
                )
        self.scheduler.load_state_dict(state)


def make_schedule(trainer: Any, optimizer: Optimizer, n_steps: int, n_epochs: int) -> Schedule | None:
    """The scheduler of a configuration's ``trainer`` block; None for those that are no scheduler of torch.

    Args:
        trainer: the block.
        optimizer: whose learning rate it changes.
        n_steps, n_epochs: that the run is expected to take.

    Raises:
        ConfigError: an unknown scheduler, unknown, missing or wrong arguments.
    """
    if isinstance(trainer, PlateauTrainer):
        plateau = lr_scheduler.ReduceLROnPlateau(optimizer, "max", patience=trainer.patience, factor=trainer.factor)
        return Schedule(plateau, "epoch", trainer.metric)
    if not isinstance(trainer, ScheduleTrainer):
        return None
    length = n_epochs if trainer.interval == "epoch" else n_steps
    scheduler = _make(trainer.scheduler, optimizer, length, "trainer.scheduler")
    if not isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        return Schedule(scheduler, trainer.interval)
    if trainer.interval == "step":
        raise ConfigError("trainer.interval: step: validation comes once an epoch. Fix: epoch, for ReduceLROnPlateau")
    return Schedule(scheduler, "epoch", trainer.metric)


def _make(section: NamedSection, optimizer: Optimizer, length: int, key: str) -> Any:
    name, arguments = section.name, section.arguments
    if name in OF_FUNCTIONS:
        raise ConfigError(
            f"{key}: {name} takes a function, which no file can hold. Fix: StepLR, or SequentialLR of some"
        )
    valid = scheduler_names()
    if name not in valid:
        raise ConfigError(
            f"{key}: {name!r} is not in torch.optim.lr_scheduler. Fix: {did_you_mean(name, valid)}"
            f"one of {', '.join(valid)}"
        )
    kind = getattr(lr_scheduler, name)
    if name in OF_SEVERAL:
        blocks = arguments.get("schedulers")
        if not isinstance(blocks, list) or not blocks or not all(isinstance(b, dict) and "name" in b for b in blocks):
            raise ConfigError(
                f"{key}: schedulers of {name} is {blocks!r}. Fix: a list of blocks with name and arguments"
            )
        parts = [
            _make(NamedSection.model_validate(block), optimizer, length, f"{key}.schedulers.{i}")
            for i, block in enumerate(blocks)
        ]
        alone = [block["name"] for block in blocks if block["name"] in ("OneCycleLR", "ReduceLROnPlateau")]
        if alone:
            raise ConfigError(f"{key}: {alone[0]} is no part of {name}. Fix: use it alone")
        rest = {k: v for k, v in arguments.items() if k != "schedulers"}
        if name == "ChainedScheduler":
            return call_named(lambda **rest: kind(parts, optimizer=optimizer, **rest), name, rest, key)
        return call_named(kind, name, rest, key, optimizer, parts, hidden=HIDDEN)
    if name in LENGTHS and not {LENGTHS[name], "epochs"} & set(arguments):
        arguments[LENGTHS[name]] = length
    return call_named(kind, name, arguments, key, optimizer, hidden=HIDDEN)


def one_cycle(progress: float, warmup: float, final: float) -> float:
    """Factor on the learning rate: linear from 0.1 to 1 over ``warmup``, then a cosine down to ``final`` at 1."""
    if progress < warmup:
        return 0.1 + 0.9 * progress / warmup
    fall = (progress - warmup) / (1.0 - warmup)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * fall))
