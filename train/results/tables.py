"""Tables as CSV and Parquet, summaries as JSON; StoreError where they cannot be written."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from larstore.errors import StoreError


def write_table(table: pd.DataFrame, folder: Path, name: str) -> None:
    """Write ``folder``/NAME.csv (six digits) and NAME.parquet (all of them)."""
    _written(folder / f"{name}.csv", lambda path: table.to_csv(path, index=False, float_format="%.6g"))
    _written(folder / f"{name}.parquet", lambda path: table.to_parquet(path, engine="pyarrow", index=False))


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write a summary, NaN as null."""
    text = json.dumps(without_nan(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    _written(path, lambda target: target.write_text(text, encoding="utf-8"))


def _written(path: Path, write: Any) -> None:
    try:
        write(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}. Fix: another output directory") from error


def without_nan(value: Any) -> Any:
    """A copy in which NaN and infinite numbers are None, as JSON has none of them."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
