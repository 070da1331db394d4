"""What a root document may say: whoever wrote it may have meant harm, and its own sha256 is no protection.

Every check raises ValueError with what is wrong; ``root.parse_root`` adds the file. Limits are far beyond any real
store: they bound the memory that a lie can cost.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

ROOT_BYTES = 1 << 23  # of a root document; a usual one has 60 kB
DEPTH = 64  # of values in values
MOST_ROWS = 1 << 48
MOST_CHUNK_ROWS = 1 << 20  # a chunk has 16,384 rows, one of the index 262,144
MOST_CHUNKS = 1 << 16  # of a shard; usual are 128
MOST_PLANES = 7
NAME_LENGTH = 200
KINDS = ("bool", "string", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
KINDS += ("float32", "float64")
HALF_A_CHARACTER = re.compile(rb"\\\\u[dD][89a-fA-F]")

Document = dict[str, Any]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def load(data: bytes) -> Any:
    """The JSON value of a root document: no NaN, no more than ``DEPTH`` levels, only text that can be printed."""
    try:
        document = json.loads(data.decode(), parse_constant=_refuse_constant, parse_float=_finite)
        if type(document) is not dict:
            raise ValueError(f"{_short(document)} is no object")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    level: list[Any] = [document]
    for _ in range(DEPTH):
        values = (value.values() if type(value) is dict else value for value in level)
        level = [item for inner in values for item in inner if type(item) in (dict, list)]
        if not level:
            break
    else:
        raise ValueError(f"nested more than {DEPTH} levels deep")
    if HALF_A_CHARACTER.search(data):
        json.dumps(
            document, ensure_ascii=False
        ).encode()  # UnicodeEncodeError, a ValueError, where the other half lacks
    return document


def check_attributes(ours: Document) -> None:
    """The store's own attributes, as far as reading depends on them."""
    for name in ("detector", "units", "geometry_hash"):
        _expect(isinstance(ours.get(name), str) and ours[name].isprintable(), f"{name} {_short(ours.get(name))}")
    whole(ours.get("format_version"), 1, 2**31, "format_version")
    whole(ours.get("commit"), 0, 2**31, "commit")
    whole(ours.get("chunk_rows"), 1, MOST_CHUNK_ROWS, "chunk_rows")
    whole(ours.get("shard_rows"), 1, ours["chunk_rows"] * MOST_CHUNKS, "shard_rows")
    _expect(ours["shard_rows"] % ours["chunk_rows"] == 0, f"shard_rows {ours['shard_rows']} are no whole chunks")
    planes = ours.get("planes")
    _expect(isinstance(planes, list) and 1 <= len(planes) <= MOST_PLANES, f"planes {_short(planes)}")
    for plane in ours["planes"]:
        check_name(plane)
    _expect(len(set(ours["planes"])) == len(ours["planes"]), f"planes {_short(planes)} twice")
    steps = ours.get("downsample")
    _expect(isinstance(steps, list) and len(steps) == 3, f"downsample {_short(steps)}")
    for step in ours["downsample"]:
        whole(step, 1, 2**16, "downsample")
    _expect(isinstance(ours.get("voxel_mm"), list), f"voxel_mm {_short(ours.get('voxel_mm'))}")
    _expect(isinstance(ours.get("provenance"), dict), f"provenance {_short(ours.get('provenance'))}")


def nodes_of(document: Document) -> dict[str, Document]:
    """The consolidated metadata; names that lead out of the store, and nodes that are none, are refused."""
    consolidated = document.get("consolidated_metadata")
    nodes = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    if not isinstance(nodes, dict):
        raise ValueError("no consolidated metadata")
    for path, node in nodes.items():
        for part in path.split("/"):
            check_name(part)
        known = isinstance(node, dict) and node.get("node_type") in ("group", "array")
        _expect(known and isinstance(node.get("attributes"), dict), f"node {_short(path)} is none of Zarr's")
    return nodes


def check_name(part: Any) -> None:
    """One part of a path below the root."""
    fine = isinstance(part, str) and 0 < len(part) <= NAME_LENGTH and part.isprintable() and part not in (".", "..")
    _expect(fine and not set(part) & set("/\\"), f"name {_short(part)}")


def check_groups(nodes: Mapping[str, Document], names: Iterable[str]) -> None:
    """These groups must be there."""
    for name in names:
        _expect(nodes.get(name, {}).get("node_type") == "group", f"group {name} is missing")


def check_table(nodes: Mapping[str, Document], group: str, kinds: Mapping[str, str]) -> None:
    """A table's columns: those in ``kinds`` (name -> type) must be there, others may; all are equally long."""
    lengths = {}
    missing = sorted(kinds.keys() - {path.partition("/")[2] for path in nodes if path.startswith(f"{group}/")})
    _expect(not missing, f"{group}: columns {missing} are missing")
    for path, node in nodes.items():
        name = path.removeprefix(f"{group}/")
        if name != path:
            try:
                lengths[name] = _column(node, kinds.get(name))
            except (KeyError, TypeError, IndexError, ValueError) as error:
                raise ValueError(f"{path} is no column of larstore's ({_reason(error)})") from error
    _expect(len(set(lengths.values())) < 2, f"{group}: columns differ in length: {lengths}")


def _column(node: Document, kind: str | None) -> int:
    """Rows of a column."""
    (rows,), (chunk,) = node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"]
    whole(rows, 0, MOST_ROWS, "shape")
    whole(chunk, 1, MOST_CHUNK_ROWS, "chunk_shape")
    _expect(node["data_type"] in KINDS and kind in (None, node["data_type"]), f"type {_short(node['data_type'])}")
    first, blosc, crc = (codec["name"] for codec in node["codecs"])
    expected = "vlen-utf8" if node["data_type"] == "string" else "bytes"
    _expect((first, blosc, crc) == (expected, "blosc", "crc32c"), f"codecs {_short([first, blosc, crc])}")
    return int(rows)


def check_prediction(path: str, attributes: Document) -> None:
    """The shards of a prediction that are done, as [first, last] pairs, and the hash of its checkpoint."""
    done = attributes.get("done")
    _expect(isinstance(attributes.get("checkpoint_sha256"), str), f"{path}: checkpoint_sha256")
    _expect(isinstance(done, list) and all(isinstance(p, list) and len(p) == 2 for p in done), f"{path}: done")
    for number in (number for pair in attributes["done"] for number in pair):
        whole(number, -MOST_ROWS, MOST_ROWS, f"{path}: done")


def whole(value: Any, low: int, high: int, name: str) -> None:
    """A whole number within limits; True is none."""
    _expect(type(value) is int and low <= value <= high, f"{name} {_short(value)}")


def _expect(fine: bool, what: str) -> None:
    if not fine:
        raise ValueError(what)


def _short(value: Any) -> str:
    """A value for one line, whatever it is."""
    text = ascii(value) if not isinstance(value, int) or value.bit_length() < 256 else "of a huge size"
    return text if len(text) <= 80 else f"{text[:77]}…"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__} {error}" if isinstance(error, KeyError | TypeError) else str(error)
