"""The keys a configuration may hold, with their types and defaults (pydantic); the research code's names are kept."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from larstore.settings import unquoted


def _ascends(pair: tuple[int, int]) -> tuple[int, int]:
    if pair[0] > pair[1]:
        raise ValueError(f"the range {list(pair)} ends before it starts")
    return pair


def _holds_a_voxel(pair: tuple[int, int]) -> tuple[int, int]:
    if max(pair[0], 0) >= pair[1]:
        raise ValueError("no voxel lies there: lo is kept and hi is not, and they count from 0")
    return pair


Range = Annotated[tuple[int, int], AfterValidator(_ascends)]  # file numbers, both ends included
Limits = Annotated[tuple[int, int], AfterValidator(_holds_a_voxel)]  # [lo, hi) on one axis
BoxSide = Annotated[int, Field(ge=1)]  # voxels


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

    mean: float = 0.0  # electrons
    sd: float = Field(ge=0.0)  # electrons


class ChargeConfig(Section):
    """How charges in electrons become network inputs: ``f(scale × charge)``; kept in the checkpoint for inference."""

    transform: Literal["linear", "asinh", "log"] = "linear"  # f; log is log(1 + |q|) with the sign of q
    scale: float = Field(default=0.001, gt=0.0)  # 0.001: thousands of electrons


class SourceConfig(Section):
    """One store of a training or validation set."""

    path: str
    files: Range
    tpcs: list[int] | None
    scale: float
    weight: float | None = None  # of its draws, where the set is a weighted mixture


class DataConfig(Section):
    """Which images are streamed, and what is done to each.

    ``data_path``, ``train_i``, ``inference_i``, ``tpcs``, ``scale`` and ``weights`` are written as one value for all
    stores or as a list with one entry a store, and are kept as the latter. A ``null`` range leaves that store out of
    the training or of the validation.
    """

    name: Literal["sparse"] = "sparse"  # kind of images; there is one
    data_path: list[str]  # store or stores; environment variables are expanded
    train_i: list[Range | None] | None = None  # numbers of the first and last file to train on; without: inference only
    inference_i: list[Range | None] | None = None  # those of validation, and of inference where nothing is trained
    tpcs: list[list[int] | None] | None = None  # only these TPCs
    truth: Literal["truth", "collected"] = "truth"  # electrons freed, or those that reach the wires
    scale: list[float] | None = None  # factor on the truth
    weights: list[Annotated[float, Field(gt=0.0)] | None] | None = None  # shares of the stores in an epoch of training
    epoch_images: int | None = Field(default=None, ge=1)  # drawn an epoch with weights; None = as many as there are
    threshold: float | None = None  # truth > threshold is 1, else 0; None keeps the truth as it is
    coord_lim: tuple[Limits | None, Limits | None, Limits | None] | None = None  # kept voxels [lo, hi); training only
    z_segments: list[int] | None = None  # ascending upper bounds in voxels, one extra input each
    crop: tuple[BoxSide | None, BoxSide | None, BoxSide | None] | None = None  # box at random, voxels; training only
    flips: list[Literal["x", "y", "z"]] | None = None  # mirrored with a probability of 1/2 each; training only
    noise: NoiseConfig | None = None  # on the charges; training only
    round: int | None = None  # decimals of the charges in electrons, negative ones allowed
    full_y: bool = False  # all truth voxels in each batch, tiled or not
    charge: ChargeConfig = ChargeConfig()  # how charges become network inputs
    input_planes: list[str] | None = None  # planes in the order of the network's inputs; None = as in the store
    batch_size: int = Field(default=1, ge=1)  # images
    max_voxels: int | None = Field(default=None, ge=1)  # a batch is closed before it grows beyond
    over_budget: Literal["fail", "skip", "crop"] = "fail"  # what happens to an image of more than max_voxels
    last: Literal["pad", "drop"] = "pad"  # batches that several processes cannot share evenly; validation always pads
    window: int = Field(default=256, ge=1)  # runs of images that are shuffled together
    num_workers: int = Field(default=0, ge=0)  # processes that prepare batches; 0: threads of this one
    start_method: Literal["fork", "spawn", "forkserver"] = "spawn"  # of these processes
    read_ahead_mb: float = Field(default=256.0, ge=0.0)  # batches that wait, at most; 0 = none is prepared ahead

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
        for key in ("train_i", "inference_i", "tpcs", "scale", "weights"):
            value = unquoted(values.get(key))
            for_all = isinstance(value, (int, float)) or (
                key not in ("scale", "weights")
                and isinstance(value, (list, tuple))
                and all(isinstance(item, int) for item in value)
            )
            if isinstance(value, list) and not for_all and len(value) != len(paths):
                raise ValueError(f"{key} has {len(value)} entries, data_path {len(paths)}")
            if key in values:
                spread[key] = [value] * len(paths) if for_all else value
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

    @field_validator("flips")
    @classmethod
    def _each_axis_once(cls, axes: list[str] | None) -> list[str] | None:
        if axes is not None and len(set(axes)) != len(axes):
            raise ValueError("name each axis once, for example [x, z]")
        return axes or None

    @model_validator(mode="after")
    def _weights_of_all_that_train(self) -> "DataConfig":
        if self.weights is None:
            if self.epoch_images is not None:
                raise ValueError("epoch_images needs weights, [1] for a single store")
            return self
        for path, files, weight in zip(self.data_path, self.train_i or (), self.weights, strict=False):
            if files is not None and weight is None:
                raise ValueError(f"weights has none for {path}, which train_i names")
        return self

    def sources(self, part: Literal["train", "inference"]) -> list[SourceConfig]:
        """The stores that take part in ``part``, each with its own range, TPCs and scale."""
        ranges = (self.train_i if part == "train" else self.inference_i) or []
        return [
            SourceConfig(
                path=self.data_path[i],
                files=files,
                tpcs=self.tpcs[i] if self.tpcs else None,
                scale=self.scale[i] if self.scale else 1.0,
                weight=self.weights[i] if self.weights else None,
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
    metric: str  # name among the metrics; higher is better
    patience: int = Field(default=10, ge=0)  # epochs
    factor: float = Field(default=0.1, gt=0.0, lt=1.0)  # on the learning rate


class OneCycleTrainer(Section):
    """Warm up, then fall along a cosine to ``final`` × the learning rate, over the steps or minutes of the run."""

    name: Literal["one_cycle"]
    warmup: float = Field(default=0.1, ge=0.0, lt=1.0)  # fraction of the run
    final: float = Field(default=0.01, ge=0.0, le=1.0)  # of the learning rate, at the end


class ScheduleTrainer(Section):
    """The learning rate follows a scheduler of torch.optim.lr_scheduler, or some in sequence or chained."""

    name: Literal["schedule"]
    scheduler: NamedSection  # its name and arguments; of SequentialLR and ChainedScheduler schedulers: a list of such
    interval: Literal["epoch", "step"] = "epoch"  # when it is asked for the next rate
    metric: str = "loss"  # of validation, the one that ReduceLROnPlateau looks at

    @field_validator("scheduler", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else unquoted(value)


Trainer = Annotated[BasicTrainer | PlateauTrainer | OneCycleTrainer | ScheduleTrainer, Field(discriminator="name")]


class TransferConfig(Section):
    """Weights to start from (`train.transfer`): ``from`` a checkpoint file or a run's directory, by matching names.

    Patterns are those of file names (`sparseModel.*`), on the names of the network's tensors.
    """

    path: str = Field(alias="from")
    exclude: list[str] = []  # tensors that stay as they were drawn
    freeze: bool | list[str] = False  # parameters that are not trained; true: all that were taken over

    @field_validator("exclude", "freeze", mode="before")
    @classmethod
    def _one_pattern(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class CheckpointConfig(Section):
    """When checkpoints are written, beside the one at the end of the run; null = not on this account.

    Those within an epoch replace ``last.pth.tar``; each ``epochs``-th epoch keeps one under its number.
    """

    epochs: int = Field(default=1, ge=1)  # each so many epochs
    minutes: float | None = Field(default=10.0, gt=0.0)  # within an epoch
    steps: int | None = Field(default=None, ge=1)  # of the optimiser


class JudgedBy(Section):
    """A value of an epoch's summary: of the validation, or ``train_…``."""

    metric: str  # its column, of the validation unless it begins with train_
    mode: Literal["min", "max"] | None = None  # None = as the metric's nature is


class BestConfig(Section):
    """By which value of its summary an epoch's checkpoint is the best one."""

    metric: str | None = None  # None = the validation's loss, where there is a validation
    mode: Literal["min", "max"] | None = None  # None = as the metric is meant


class EarlyStoppingConfig(JudgedBy):
    """End the run when the value has not got better by more than ``min_delta`` for ``patience`` epochs."""

    patience: int = Field(default=10, ge=1)  # epochs
    min_delta: float = Field(default=0.0, ge=0.0)  # what counts as better


class TrainConfig(Section):
    """How long and with what the network is trained."""

    n_epochs: int = Field(default=1, ge=1)  # times that every image is seen
    max_minutes: float | None = Field(default=None, gt=0.0)  # of the whole run, resumed ones included
    start_epoch: int | None = Field(default=None, ge=0)  # checkpoint that --resume starts from
    checkpoint_every: CheckpointConfig = CheckpointConfig()  # when states are kept
    keep: int | Literal["all"] = "all"  # checkpoints of the last so many epochs
    best: BestConfig = BestConfig()  # which epoch's checkpoint best.pth.tar is
    early_stopping: EarlyStoppingConfig | None = None  # ends the run where epochs get no better
    transfer: TransferConfig | None = None  # weights to begin with, of another run
    gradient_clip: float | None = Field(default=None, gt=0.0)  # largest norm, or number, of the gradient
    log_every_n_steps: int = Field(default=50, ge=1)  # steps whose loss goes to `loggers`
    gradient_clip_algorithm: Literal["norm", "value"] = "norm"  # of all gradients together, or each number's own
    accumulate: int = Field(default=1, ge=1)  # batches of each process a step; their losses are averaged as they are
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"  # bf16: of GPUs, on CPUs nothing is won; 16: GPUs only
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"  # auto: a GPU if there is one
    # None: as Slurm or torchrun started them, else one.
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None  # processes a node; auto: one a GPU
    num_nodes: int | None = Field(default=None, ge=1)  # nodes; None as for devices
    distributed_backend: Literal["auto", "gloo", "nccl"] = "auto"  # auto: nccl on GPUs, gloo on CPUs
    batch_norm: Literal["local", "sync", "frozen"] = "local"  # over a process's batch, or all; frozen: as transferred
    threads: int | None = Field(default=None, ge=1)  # on the CPU; None = its cores, shared by a node's processes
    backend: Literal["auto", "native", "spconv", "sparseconvnet"] = "auto"  # of the sparse convolutions

    @field_validator("precision", mode="before")
    @classmethod
    def _number_is_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

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
        if isinstance(value, str):
            return {"from": value}
        return None if value is False else value


class InferenceStoreConfig(Section):
    """Predictions written while training (`store_inference`)."""

    everyNepoch: int = Field(default=1, ge=1)  # noqa: N815  # only after every n-th epoch
    everyNsample: int = Field(default=1, ge=1)  # noqa: N815  # only every n-th image of validation
    outdir: str = "inference"  # middle of the prediction's name, RUN-OUTDIR-EPOCH


class Config(Section):
    """A whole configuration; see ``configs/ghost3d.yaml`` for one with comments."""

    output_dir: str  # directory of the run: checkpoints, summaries, log; environment variables are expanded
    seed: int = Field(default=0, ge=0)  # of the network's first weights, the order of images, and noise
    trainer: Trainer = BasicTrainer()  # how the learning rate changes
    store_inference: InferenceStoreConfig | None = None  # predictions while training; true: with the defaults
    data: DataConfig  # which images
    model: NamedSection  # the network and its arguments
    loss: NamedSection | None = None  # what is made small; inference needs none
    optimizer: NamedSection | None = None  # how; inference needs none
    train: TrainConfig = TrainConfig()  # how long, and on what
    metrics: dict[str, NamedSection] = {}  # further numbers in the summaries, each under a name of yours
    loggers: list[NamedSection] = []  # of Lightning, beside the run's own table; see docs/runs.md
    _origin: str = PrivateAttr(default="")  # the file it was read from, for errors

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        """``trainer: basic``, ``store_inference: true``, names of metrics and loggers as the blocks they stand for."""
        if not isinstance(values, dict):
            return values
        full = {key: value for key, value in values.items() if value is not None}  # a key with nothing behind it
        if isinstance(full.get("trainer"), str):
            full["trainer"] = {"name": full["trainer"]}
        if isinstance(full.get("store_inference"), bool):
            full["store_inference"] = {} if full["store_inference"] else None
        if isinstance(full.get("metrics"), dict):
            full["metrics"] = {k: {"name": v} if isinstance(v, str) else v for k, v in full["metrics"].items()}
        if isinstance(full.get("loggers"), list):
            full["loggers"] = [{"name": each} if isinstance(each, str) else each for each in full["loggers"]]
        return full

    @field_validator("model", "loss", "optimizer", "metrics", mode="before")
    @classmethod
    def _arguments_are_numbers(cls, values: Any) -> Any:
        """As in other blocks, whose types pydantic knows."""
        return unquoted(values)

    @model_validator(mode="after")
    def _limits_reach_into_the_network(self) -> "Config":
        size = self.model.arguments.get("spatial_size")
        sizes = size if isinstance(size, (list, tuple)) else [size] * 3
        for axis, limits, n in zip("xyz", self.data.coord_lim or (), sizes, strict=False):
            if self.data.train_i is not None and limits is not None and isinstance(n, int) and limits[0] >= n:
                raise ValueError(
                    f"data.coord_lim keeps {axis} from {limits[0]}, where model.spatial_size ends at {n}: the network "
                    "takes none of these voxels"
                )
        return self

    @model_validator(mode="after")
    def _metrics_have_their_names(self) -> "Config":
        for name in self.metrics:
            if name in ("loss", "time") or name.endswith("_loss"):
                raise ValueError(f"metrics.{name}: the summaries have a column of this name. Give the metric another")
        # Without training images, only inference is asked for, and what concerns training is not used.
        if self.data.train_i is not None and isinstance(self.trainer, PlateauTrainer | ScheduleTrainer):
            known = [*self.metrics, "loss"] if isinstance(self.trainer, ScheduleTrainer) else list(self.metrics)
            if self.trainer.metric not in known:
                raise ValueError(f"trainer.metric {self.trainer.metric!r} is not among the metrics {sorted(known)}")
        return self

    def plain(self) -> dict[str, Any]:
        """The configuration as YAML-like values, every default filled in."""
        return self.model_dump(mode="json", by_alias=True)
