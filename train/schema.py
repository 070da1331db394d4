"""The keys a configuration may hold, with their types and defaults (pydantic); the research code's names are kept."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator


def _ascends(pair: tuple[int, int]) -> tuple[int, int]:
    if pair[0] > pair[1]:
        raise ValueError(f"the range {list(pair)} ends before it starts")
    return pair


Range = Annotated[tuple[int, int], AfterValidator(_ascends)]  # file numbers, both ends included
Limits = Annotated[tuple[int, int], AfterValidator(_ascends)]  # [lo, hi) on one axis


class Section(BaseModel):
    """A block of the configuration; a key it does not know is refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class NamedSection(BaseModel):
    """A block whose other keys are the arguments of what ``name`` stands for (a model, a loss, an optimiser)."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The block's keys other than ``name``."""
        return dict(self.model_extra or {})


class NoiseConfig(Section):
    """Gaussian noise on the charges while training, in electrons a voxel and plane."""

    mean: float = 0.0
    sd: float = Field(ge=0.0)


class ChargeConfig(Section):
    """How charges in electrons become network inputs: ``f(scale × charge)``; kept in the checkpoint for inference."""

    transform: Literal["linear", "asinh", "log"] = "linear"
    scale: float = Field(default=0.001, gt=0.0)


class SourceConfig(Section):
    """One store of a training or validation set."""

    path: str
    files: Range
    tpcs: list[int] | None
    scale: float


class DataConfig(Section):
    """Which images are streamed, and what is done to each.

    ``data_path``, ``train_i``, ``inference_i``, ``tpcs`` and ``scale`` are written as one value for all stores or as
    a list with one entry a store, and are kept as the latter. A ``null`` range leaves that store out of the training
    or of the validation.
    """

    name: Literal["sparse"] = "sparse"
    data_path: list[str]
    train_i: list[Range | None] | None = None
    inference_i: list[Range | None] | None = None
    tpcs: list[list[int] | None] | None = None
    scale: list[float] | None = None  # factor on the truth
    threshold: float | None = None  # truth > threshold is 1, else 0; None keeps the truth as it is
    coord_lim: tuple[Limits | None, Limits | None, Limits | None] | None = None  # training only
    z_segments: list[int] | None = None  # ascending upper bounds in voxels, one extra input each
    noise: NoiseConfig | None = None  # training only
    round: int | None = None  # decimals of the charges in electrons, negative ones allowed
    full_y: bool = False  # all truth voxels in each batch, tiled or not
    charge: ChargeConfig = ChargeConfig()
    input_planes: list[str] | None = None  # planes in the order of the network's inputs; None = as in the store
    batch_size: int = Field(default=1, ge=1)  # images
    max_voxels: int | None = Field(default=None, ge=1)  # a batch is closed before it grows beyond
    over_budget: Literal["fail", "skip"] = "fail"  # what happens to an image of more than max_voxels
    window: int = Field(default=256, ge=1)  # runs of images that are shuffled together
    num_workers: int = Field(default=0, ge=0)
    start_method: Literal["fork", "spawn", "forkserver"] = "spawn"

    @model_validator(mode="before")
    @classmethod
    def _one_entry_per_store(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("data_path"), (str, list)):
            return values
        paths = values["data_path"]
        paths = [paths] if isinstance(paths, str) else paths
        if not paths:
            raise ValueError("data_path is empty")
        spread = {**values, "data_path": paths}
        for key in ("train_i", "inference_i", "tpcs", "scale"):
            value = values.get(key)
            for_all = isinstance(value, (int, float)) or (
                key != "scale" and isinstance(value, (list, tuple)) and all(isinstance(item, int) for item in value)
            )
            if for_all:
                spread[key] = [value] * len(paths)
            elif isinstance(value, list) and len(value) != len(paths):
                raise ValueError(f"{key} has {len(value)} entries, data_path {len(paths)}")
        return spread

    @field_validator("z_segments")
    @classmethod
    def _bounds_ascend(cls, bounds: list[int] | None) -> list[int] | None:
        if bounds is not None and (not bounds or sorted(set(bounds)) != bounds):
            raise ValueError("the upper bounds must ascend")
        return bounds

    @field_validator("input_planes")
    @classmethod
    def _each_plane_once(cls, planes: list[str] | None) -> list[str] | None:
        if planes is not None and (not planes or len(set(planes)) != len(planes)):
            raise ValueError("name one plane or more, each once, for example [u, w, v]")
        return planes

    def sources(self, part: Literal["train", "inference"]) -> list[SourceConfig]:
        """The stores that take part in ``part``, each with its own range, TPCs and scale."""
        ranges = (self.train_i if part == "train" else self.inference_i) or []
        return [
            SourceConfig(
                path=self.data_path[i],
                files=files,
                tpcs=self.tpcs[i] if self.tpcs else None,
                scale=self.scale[i] if self.scale else 1.0,
            )
            for i, files in enumerate(ranges)
            if files is not None
        ]

    def n_inputs(self, n_planes: int) -> int:
        """Network inputs per voxel."""
        return n_planes + len(self.z_segments or ())


class BasicTrainer(Section):
    """The learning rate stays as it is."""

    name: Literal["basic"] = "basic"


class PlateauTrainer(Section):
    """The learning rate falls by ``factor`` when a validation metric has not risen for ``patience`` epochs."""

    name: Literal["schedule_plateau"]
    metric: str
    patience: int = Field(default=10, ge=0)
    factor: float = Field(default=0.1, gt=0.0, lt=1.0)


class OneCycleTrainer(Section):
    """Warm up, then fall along a cosine to ``final`` × the learning rate, over the steps or minutes of the run."""

    name: Literal["one_cycle"]
    warmup: float = Field(default=0.1, ge=0.0, lt=1.0)  # fraction of the run
    final: float = Field(default=0.01, ge=0.0, le=1.0)


Trainer = Annotated[BasicTrainer | PlateauTrainer | OneCycleTrainer, Field(discriminator="name")]


class CheckpointConfig(Section):
    """When checkpoints are written, beside the one at the end of the run; null = not on this account.

    Those within an epoch replace ``last.pth.tar``; each ``epochs``-th epoch keeps one under its number.
    """

    epochs: int = Field(default=1, ge=1)
    minutes: float | None = Field(default=10.0, gt=0.0)
    steps: int | None = Field(default=None, ge=1)  # of the optimiser


class JudgedBy(Section):
    """A value of an epoch's summary: of the validation, or ``train_…``."""

    metric: str
    mode: Literal["min", "max"] | None = None  # None = as the metric's nature is


class BestConfig(Section):
    """By which value of its summary an epoch's checkpoint is the best one."""

    metric: str | None = None  # None = the validation's loss, where there is a validation
    mode: Literal["min", "max"] | None = None


class EarlyStoppingConfig(JudgedBy):
    """End the run when the value has not got better by more than ``min_delta`` for ``patience`` epochs."""

    patience: int = Field(default=10, ge=1)
    min_delta: float = Field(default=0.0, ge=0.0)


class TrainConfig(Section):
    """How long and with what the network is trained."""

    n_epochs: int = Field(default=1, ge=1)
    max_minutes: float | None = Field(default=None, gt=0.0)  # of the whole run, resumed ones included
    start_epoch: int | None = Field(default=None, ge=0)  # checkpoint that --resume starts from
    checkpoint_every: CheckpointConfig = CheckpointConfig()
    keep: int | Literal["all"] = "all"  # checkpoints of the last so many epochs
    best: BestConfig = BestConfig()  # which epoch's checkpoint best.pth.tar is
    early_stopping: EarlyStoppingConfig | None = None
    transfer: str | None = None  # checkpoint file or run directory whose matching weights are taken over
    gradient_clip: float | None = Field(default=None, gt=0.0)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    threads: int | None = Field(default=None, ge=1)  # on the CPU; None = the cores this process may use
    backend: Literal["auto", "native", "spconv", "sparseconvnet"] = "auto"  # of the sparse convolutions

    @field_validator("keep")
    @classmethod
    def _keep_one(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("keep the checkpoint of one epoch or more, or all")
        return value

    @field_validator("transfer", mode="before")
    @classmethod
    def _false_is_none(cls, value: Any) -> Any:
        if value is True:
            raise ValueError("name the checkpoint or the run directory to take the weights from")
        return None if value is False else value


class InferenceStoreConfig(Section):
    """Predictions written while training (`store_inference`)."""

    everyNepoch: int = Field(default=1, ge=1)  # noqa: N815 - the key's established name
    everyNsample: int = Field(default=1, ge=1)  # noqa: N815
    outdir: str = "inference"


class Config(Section):
    """A whole configuration; see ``configs/ghost3d.yaml`` for one with comments."""

    output_dir: str
    seed: int = Field(default=0, ge=0)
    trainer: Trainer = BasicTrainer()
    store_inference: InferenceStoreConfig | None = None
    data: DataConfig
    model: NamedSection
    loss: NamedSection | None = None  # loss and optimizer are not needed for inference
    optimizer: NamedSection | None = None
    train: TrainConfig = TrainConfig()
    metrics: dict[str, NamedSection] = {}
    _origin: str = PrivateAttr(default="")  # the file it was read from, for errors

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        """``trainer: basic``, ``store_inference: true`` and ``acc: BinAccuracy`` as the blocks they stand for."""
        if not isinstance(values, dict):
            return values
        full = dict(values)
        if isinstance(full.get("trainer"), str):
            full["trainer"] = {"name": full["trainer"]}
        if isinstance(full.get("store_inference"), bool):
            full["store_inference"] = {} if full["store_inference"] else None
        if isinstance(full.get("metrics"), dict):
            full["metrics"] = {k: {"name": v} if isinstance(v, str) else v for k, v in full["metrics"].items()}
        return full

    @model_validator(mode="after")
    def _plateau_metric_exists(self) -> "Config":
        if isinstance(self.trainer, PlateauTrainer) and self.trainer.metric not in self.metrics:
            raise ValueError(f"trainer.metric {self.trainer.metric!r} is not among the metrics {sorted(self.metrics)}")
        return self

    def plain(self) -> dict[str, Any]:
        """The configuration as YAML-like values, every default filled in."""
        return self.model_dump(mode="json")
