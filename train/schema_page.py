"""docs/configuration.md, made from the schema: every key with its type, its default and the comment beside it.

python -m train.schema_page > docs/configuration.md
"""

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from train import schema
from train.objective.optimisers import NOT_FOR_US
from train.objective.schedules import OF_FUNCTIONS
from train.objective.torch_losses import NOT_PER_VOXEL, OF_CLASSES, OF_LOGITS

WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "anything"}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}

# Keys that the 2021 research code's configurations have, by the path here; what differs is said.
SAME = "same"
RESEARCH = {
    "output_dir": SAME,
    "trainer": SAME,
    "trainer.name": SAME,
    "trainer.metric": SAME,
    "trainer.patience": SAME,
    "trainer.factor": SAME,
    "store_inference": SAME,
    "store_inference.everyNepoch": SAME,
    "store_inference.everyNsample": SAME,
    "store_inference.outdir": "directory of files; predictions are in the stores here",
    "data": SAME,
    "data.name": SAME,
    "data.data_path": "directories of `xy` files; stores here",
    "data.train_i": SAME,
    "data.inference_i": SAME,
    "data.tpcs": SAME,
    "data.scale": SAME,
    "data.threshold": SAME,
    "data.coord_lim": SAME,
    "data.z_segments": SAME,
    "data.noise": "in thousands of electrons; what looks so is told",
    "data.noise.mean": "in thousands of electrons",
    "data.noise.sd": "in thousands of electrons",
    "data.round": "of thousands of electrons: its 2 is −1 here",
    "data.full_y": SAME,
    "data.batch_size": "always 1: a file was a batch; images here",
    "model": SAME,
    "loss": SAME,
    "optimizer": SAME,
    "train": SAME,
    "train.n_epochs": SAME,
    "train.start_epoch": SAME,
    "train.transfer": "`true`, and files copied into `output_dir`; a path here",
    "metrics": SAME,
}

NEW = (schema.OneCycleTrainer, schema.ScheduleTrainer)  # whose keys have known names by chance

HEAD = """# Configuration

Every key of the YAML file that `larstore train` and `larstore infer` take. A key that is not here is refused, with
the one that was probably meant; so are wrong arguments of networks, losses, optimisers, schedulers and metrics.
`configs/` holds examples with comments for each task, `configs/small/` the same for a CPU and a few minutes. They are
installed as well: `larstore examples` lists them, `larstore examples small/ghost3d -o my-net.yaml` copies one, and
`larstore examples -o configs` all.

- `--set a.b=VALUE` changes one key from the command line, values in YAML: `--set data.tpcs='[1, 5]'`,
  `--set optimizer.lr=1e-3`. Numbers may be written as `1e-3`, and in quotation marks.
- `larstore config FILE.yaml` checks a file without any data and prints what it says, every default filled in; also
  with `--set`.
- Environment variables (`$SCRATCH`, `${USER}`) and `~` are expanded in paths; one that is not set is an error.
- Charges and truth are in electrons, coordinates and ranges of them in voxels, numbers of files and TPCs are the
  store's.
- The column 2021 is about the key in the research code's configurations. They work as they are, but for what is said
  there.

This page is made from `train/schema.py` by `python -m train.schema_page > docs/configuration.md`.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## Top level\n", _table(schema.Config, "")]
    for name, field in schema.Config.model_fields.items():
        parts += _sections(name, field)
    return "\n".join([*parts, _names()])


def _sections(path: str, field: FieldInfo) -> list[str]:
    """Headings and tables of the blocks that a field may hold, deeper ones after it."""
    parts = []
    for model in _models(field.annotation):
        if model is schema.NamedSection:
            continue
        branch = _branch(model)
        parts += [f"## `{path}{branch}`\n", f"{_docstring(model)}\n", _table(model, path)]
        for name, inner in model.model_fields.items():
            parts += _sections(f"{path}.{inner.alias or name}", inner)
    return parts


def walk(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, FieldInfo, str]]:
    """Path, field and meaning of every key below ``model``."""
    meanings = comments(model)
    for name, field in model.model_fields.items():
        own = f"{path}.{field.alias or name}".lstrip(".")
        yield own, field, meanings.get(name, "")
        for inner in _models(field.annotation):
            if inner is not schema.NamedSection:
                yield from walk(inner, own)


def _branch(model: type[BaseModel]) -> str:
    """``: NAME`` for one of several blocks that differ by their name."""
    options = get_args(model.model_fields["name"].annotation) if "name" in model.model_fields else ()
    return f": {options[0]}" if len(options) == 1 and model is not schema.DataConfig else ""


def _table(model: type[BaseModel], path: str) -> str:
    """One row a key."""
    meanings = comments(model)
    rows = ["| key | type | default | meaning | 2021 |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        key = field.alias or name
        known = "–" if model in NEW else RESEARCH.get(f"{path}.{key}" if path else key, "–")
        meaning = re.sub(r"\bNone\b", "null", meanings.get(name, ""))
        cells = (f"`{key}`", type_text(field), _default(field), meaning, known)
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def comments(model: type[BaseModel]) -> dict[str, str]:
    """What the source says of each field: the comments in its lines, or those right above it.

    Without any, of a block: the first sentence of its class's docstring.
    """
    found: dict[str, str] = {}
    for kind in (base for base in reversed(model.__mro__) if base.__module__ == model.__module__):
        source = inspect.getsource(kind)
        lines: dict[int, str] = {}
        alone = set()
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                lines[token.start[0]] = _plain(token.string)
                if not token.line[: token.start[1]].strip():
                    alone.add(token.start[0])
        (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
        for node in body:
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            text = [lines[n] for n in range(node.lineno, (node.end_lineno or node.lineno) + 1) if n in lines]
            if not text:
                above = node.lineno - 1
                while above in alone:
                    text.insert(0, lines[above])
                    above -= 1
            found[node.target.id] = " ".join(filter(None, text))
    for name, field in model.model_fields.items():
        blocks = _models(field.annotation)
        if not found[name] and len(blocks) == 1 and blocks[0] is not schema.NamedSection:
            found[name] = re.split(r"[.;:]\s", _docstring(blocks[0]) + " ")[0]
    return found


def _plain(comment: str) -> str:
    """Without the marks that are for linters."""
    pieces = [piece.strip() for piece in comment.split("#")]
    return " ".join(piece for piece in pieces if piece and not piece.startswith(("noqa", "type: ")))


def type_text(field: FieldInfo) -> str:
    """A field's type in words, with its bounds."""
    return _in_words(field.annotation, field.metadata)


def _in_words(annotation: Any, metadata: Any = ()) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _in_words(arguments[0], arguments[1:])
    if origin in (Union, UnionType):
        options = [_in_words(each, metadata) for each in arguments if each is not NoneType]
        return " or ".join(dict.fromkeys(options)) + (" or null" if NoneType in arguments else "")
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        parts = [_in_words(each) for each in arguments]
        alike = len(parts) > 2 and len(set(parts)) == 1
        return f"{len(parts)} × {_together(parts[0])}" if alike else f"[{', '.join(parts)}]"
    if origin is list:
        return f"list of {_together(_in_words(arguments[0]))}"
    if origin is dict:
        return "names and blocks"
    if _is_model(annotation):
        return "block"
    bounds = [
        f"{BOUNDS[name]} {getattr(each, name):g}"
        for each in metadata
        if isinstance(each, annotated_types.BaseMetadata)
        for name in BOUNDS
        if hasattr(each, name)
    ]
    word = WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))
    return " ".join([word, ", ".join(bounds)]).strip()


def _together(words: str) -> str:
    """In parentheses where it would be read wrongly without."""
    return f"({words})" if " or " in words or " × " in words else words


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        name = getattr(value, "name", None)
        return f"`{name}`" if name else "see below"
    shown = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else None
    if value is PydanticUndefined or value in ({}, []):
        return "none"
    return f"`{shown or value}`"


def _models(annotation: Any) -> list[type[BaseModel]]:
    """All models in an annotation, in order."""
    if _is_model(annotation):
        return [annotation]
    return [model for each in get_args(annotation) for model in _models(each)]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _docstring(model: type[BaseModel]) -> str:
    """A class's docstring, for readers of Markdown."""
    return inspect.cleandoc(model.__doc__ or "").replace("``", "`")


def _names() -> str:
    """Which names the blocks take that hold a name and its arguments."""
    not_losses = "\n".join(f"| {name} | {reason} | {fix} |" for name, (reason, fix) in NOT_PER_VOXEL.items())
    not_optimisers = "; ".join(f"not {name}, which {reason}" for name, (reason, _) in NOT_FOR_US.items())
    return f"""## Names and their arguments

`model`, `loss`, `optimizer`, `trainer.scheduler` and each of `metrics` hold a `name` and the arguments of what it
stands for; `metrics`, `trainer` and `scheduler` may be the name alone. Arguments are checked when a run is made, before
it writes anything.

**model**: see [Networks](networks.md). `cellnet_sparse` and the names of the classes are understood too.

**loss**: weighted means over voxels, the same for any number of processes.

| name | arguments | |
|---|---|---|
| MSELoss, L1Loss, HuberLoss, SmoothL1Loss, PoissonNLLLoss | torch's | compare with the truth × `data.scale` |
| BCELoss | torch's | scores against labels: needs `data.threshold` |
| {", ".join(OF_CLASSES)} | torch's; `weight: [ghosts, real]` | a score p is the probabilities (1 − p, p) of both |
| HingeEmbeddingLoss | torch's | scores of ghosts to 0, of real voxels above `margin` |
| {", ".join(OF_LOGITS)} | torch's | for outputs of any size, as of cellnet_charge; not for scores |
| BCEL1Loss | `L1_lambda` | BCE + `L1_lambda` × mean score |
| LabelWeightedBCELoss | `positive_weight` | BCE in which a real voxel weighs that much |
| ChargeWeightedBCELoss, also as WeightedBCELoss | `negative_weight` | BCE; real voxels weigh their truth, ghosts that |
| DownsampleMSELoss | `downsample`, `weight: 1` | charge summed over blocks: see `configs/charge_downsample.yaml` |
| MultiTaskLoss | see [Networks](networks.md) | score and charge of cellnet_multi |

Of torch.nn's others:

| name | why not | instead |
|---|---|---|
{not_losses}

**optimizer**: any of torch.optim; {not_optimisers}. Adam, AdamW and SGD are `fused` unless told otherwise.

**trainer: schedule**: any of torch.optim.lr_scheduler; not {" and ".join(OF_FUNCTIONS)}, which take functions.
`T_max` of CosineAnnealingLR and `total_steps` of OneCycleLR are the whole run where they are left out. A warm-up and a
cosine:

```yaml
trainer:
  name: schedule
  interval: step
  scheduler:
    name: SequentialLR
    milestones: [500]
    schedulers:
      - {{ name: LinearLR, start_factor: 0.1, total_iters: 500 }}
      - {{ name: CosineAnnealingLR, T_max: 20000 }}
```

**metrics**: binary and regression metrics of torchmetrics, with or without their "Binary"; `BinAccuracy` is
BinaryAccuracy. Binary ones compare scores with truth > 0, those of regression with the truth. Those of a fixed
precision, recall … give the value, not its threshold. Those that keep every score (AveragePrecision without
`thresholds`) are computed for validation only. Ours, whose memory does not grow: PooledAveragePrecision, and of charges
ChargeBias, ChargeHalfWidth and ChargeResolution ([definitions](evaluating.md#figures)).
"""


if __name__ == "__main__":
    print(page(), end="")
