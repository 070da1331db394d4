"""RUN/index.html: how a run goes and what it is made of, rewritten at the end of each epoch; small, without scripts."""

import math
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from larstore.report import Page
from train.records.folder import column_order
from train.records.git_state import in_words
from train.records.line_charts import Line, chart
from train.schema import Config

NAME = "index.html"
REFRESH_S = 30  # while the training runs
LAST_ROWS = 100  # that the page lists; the table in the CSV has all
TIMES = ("train_time", "valid_time", "wait_time")
LOG_RATIO = 20  # a quantity that spans more than this factor is drawn on a logarithmic axis


def run_page(config: Config, rows: Sequence[dict[str, Any]], start: dict[str, Any], state: str, running: bool) -> Page:
    """The page of a run.

    Args:
        config: of this start.
        rows: a summary an epoch, as in the CSV.
        start: as `train.records.about.describe_start` gives it.
        state: what the run does, in a few words.
        running: let the browser load the page again.
    """
    now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
    title = Path(config.output_dir).resolve().name
    page = Page(f"Training {title}", f"{state} · as of {now} UTC", refresh=REFRESH_S if running else None)
    page.cards(_headline(config, rows, running))
    page.drawings(_drawings(rows))
    page.heading("Epochs")
    _add_table(page, rows)
    page.heading("Go on with it")
    page.code("\n".join(commands(config, start)))
    page.heading("What it is made of")
    page.table(["", ""], _facts(start))
    page.table(
        ["store", "commit", "units", "sha256 of its root"],
        [(s["path"], s["commit"], s["units"], s["sha256"]) for s in start["stores"]],
    )
    page.code(
        yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True), "configuration, every default filled in"
    )
    page.code("\n".join(f"{name} {version}" for name, version in start["versions"].items()), "versions")
    changed = [f"{s['path']}/{name}" for s in start["git"].values() for name in s.get("changed", ())]
    if changed:
        page.code("\n".join(changed), "files that differ from their commit")
    page.links([("log", "out_0.log"), ("table", "summaries_0.csv"), ("all of this for programs", "about.json")])
    return page


def commands(config: Config, start: dict[str, Any]) -> list[str]:
    """How to resume the run and to predict with it, as a user types it in the directory it was started from."""
    path = config._origin or start["config"] or "CONFIG.yaml"
    lines = [shlex.join(["larstore", "train", path, "--resume"])]
    name = Path(config.output_dir).resolve().name
    for source in config.data.sources("inference"):
        first, last = source.files
        command = ["larstore", "infer", path, "--store", source.path, "--name", name, "--files", f"{first}:{last}"]
        lines.append(shlex.join(command))
        lines.append(
            shlex.join(["larstore", "evaluate", source.path, "--prediction", name, "-o", f"evaluation-{name}"])
        )
    if lines and start.get("directory"):
        lines.insert(0, shlex.join(["cd", start["directory"]]))
    return lines


def _headline(config: Config, rows: Sequence[dict[str, Any]], running: bool) -> list[tuple[str, str]]:
    done = int(rows[-1]["epoch"]) + 1 if rows else 0
    cards = [("epochs", f"{done} of {config.train.n_epochs}")]
    if not rows:
        return cards
    cards.append(("training loss", _text(_number(rows[-1].get("train_loss")))))
    valid = [(v, int(r["epoch"])) for r in rows if math.isfinite(v := _number(r.get("valid_loss")))]
    if valid:
        best, epoch = min(valid)
        cards.append(("validation loss", _text(_number(rows[-1].get("valid_loss")))))
        cards.append((f"its least, in epoch {epoch}", _text(best)))
    cards += [
        (f"validation {name}", _text(_number(rows[-1].get(f"valid_{name}"))))
        for name in config.metrics
        if f"valid_{name}" in rows[-1]
    ]
    recent = [sum(_finite(row.get(name)) for name in TIMES[:2]) for row in rows[-3:]]
    left = config.train.n_epochs - done
    if running and left > 0:
        minutes = left * sum(recent) / len(recent) / 60
        limit = "at most " if config.train.max_minutes else "about "
        cards.append(("to go", f"{limit}{minutes:.0f} min" if minutes >= 1 else "less than 1 min"))
    return cards


def _drawings(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    names = column_order(rows)
    pairs = [n for n in names if n.partition("_")[0] in ("train", "valid") and n not in TIMES]
    quantities = list(dict.fromkeys(name.partition("_")[2] for name in pairs)) or ["loss"]
    drawn = []
    for quantity in quantities:
        lines = [
            _line(rows, f"{part}_{quantity}", label)
            for part, label in (("train", "training"), ("valid", "validation"))
            if f"{part}_{quantity}" in names
        ]
        wide = quantity.endswith("loss") and _is_wide(lines)
        drawn.append((chart(lines, "epoch", quantity, log_y=wide), ""))
    rate = _line(rows, "lr", "learning rate at the end of each epoch")
    drawn.append((chart([rate], "epoch", "learning rate", log_y=_is_wide([rate])), ""))
    labels = ("training", "validation", "waiting for data (part of the training)")
    times = [_line(rows, name, label) for name, label in zip(TIMES, labels, strict=True)]
    drawn.append((chart(times, "epoch", "seconds an epoch"), ""))
    return drawn


def _line(rows: Sequence[dict[str, Any]], name: str, label: str) -> Line:
    return Line(label, [_number(row["epoch"]) for row in rows], [_number(row.get(name)) for row in rows])


def _is_wide(lines: Sequence[Line]) -> bool:
    values = [y for line in lines for y in line.y if math.isfinite(y)]
    return bool(values) and min(values) > 0 and max(values) / min(values) > LOG_RATIO


def _add_table(page: Page, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        page.paragraph("The first epoch is not over yet.")
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    shown = rows[-LAST_ROWS:]
    body = [
        [str(int(row["epoch"])), *(_text(_number(row.get(name))) for name in names if name != "epoch")] for row in shown
    ]
    page.table(["epoch", *(name for name in names if name != "epoch")], body)
    if len(shown) < len(rows):
        page.paragraph(f"The last {len(shown)} of {len(rows)} epochs; summaries_0.csv has all.", note=True)


def _facts(start: dict[str, Any]) -> list[tuple[str, str]]:
    host = start["host"]
    gpus = f", {', '.join(host['gpus'])}" if host["gpus"] else ""
    facts = [
        ("started", f"{start['started']}, from epoch {start['first_epoch']}"),
        ("command", start["command"]),
        ("directory", start["directory"]),
        ("host", f"{host['name']}, {host['system']}, {host['cores']} cores{gpus}, {start['threads']} threads used"),
    ]
    facts += [(name, str(value)) for name, value in host.items() if name.isupper()]  # of a batch system
    facts += [(f"git, {where}", in_words(state)) for where, state in start["git"].items()]
    if start["frozen"]:
        facts.append(("frozen", f"{start['frozen']} tensors"))
    return facts


def _number(value: Any) -> float:
    """A value of a row; NaN for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _finite(value: Any) -> float:
    number = _number(value)
    return number if math.isfinite(number) else 0.0


def _text(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}".replace("-", "−")
