"""The root document: its attributes and nodes, its own sha256, and what a root must be before anything believes it."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from larstore import root_checks
from larstore.errors import DamageError, StoreError, UnreadableError
from larstore.format import (
    ATTRIBUTE,
    FAILURE_COLUMNS,
    FORMAT_VERSION,
    GEOMETRY_COLUMNS,
    INPUT_COLUMNS,
    KEPT_BITS,
    TRUTH_COLUMNS,
    ArraySpec,
    Document,
    group_document,
    index_columns,
    row_arrays,
    to_bytes,
    width_of,
)
from larstore.locations import Place, WrongFileError, read_file
from larstore.shards import Layout, parse_layout


def seal(document: Document) -> str:
    """sha256 of a document, whatever its white space and order of keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Root:
    """The root document: the one file whose replacement is a commit."""

    document: Document

    @property
    def attributes(self) -> Document:
        """The store's own attributes."""
        attributes: Document = self.document["attributes"][ATTRIBUTE]
        return attributes

    @property
    def nodes(self) -> dict[str, Document]:
        """path -> ``zarr.json`` of every group and array below the root."""
        nodes: dict[str, Document] = self.document["consolidated_metadata"]["metadata"]
        return nodes

    @property
    def planes(self) -> list[str]:
        """Names of the planes in drift order."""
        return list(self.attributes["planes"])

    @property
    def truth_columns(self) -> tuple[str, ...]:
        """The optional truth columns that this store can hold."""
        return tuple(name for name in TRUTH_COLUMNS if f"truth/{name}" in self.nodes)

    @property
    def pixels(self) -> bool:
        """Whether this store can keep images at full resolution."""
        return "pixels/coords" in self.nodes

    @property
    def predictions(self) -> list[str]:
        """Names of all predictions."""
        paths = (path.split("/") for path in self.nodes)
        return [parts[1] for parts in paths if parts[0] == "predictions" and len(parts) == 2]

    @property
    def charge_bits(self) -> int | None:
        """Bits to which the mantissas of voxels' charges are rounded; None = not at all."""
        bits: int | None = self.nodes["voxels/charge"]["attributes"].get(KEPT_BITS)
        return bits

    @property
    def row_arrays(self) -> dict[str, dict[str, ArraySpec]]:
        """Kind of row -> the arrays of this store along it; see ``row_arrays``."""
        return row_arrays(self.truth_columns, self.pixels)

    def rows(self, path: str) -> int:
        """Length of an array."""
        return int(self.nodes[path]["shape"][0])

    def set_rows(self, path: str, rows: int) -> None:
        """Change the length of an array."""
        self.nodes[path]["shape"][0] = int(rows)

    def copy(self) -> "Root":
        """A root that can be changed without touching this one."""
        return Root(json.loads(json.dumps(self.document, allow_nan=False)))

    def sealed(self) -> bytes:
        """The file's bytes, with the sha256 of everything else. TypeError or ValueError for what is no JSON."""
        plain = self.copy()  # as it will be read: keys are text
        plain.attributes.pop("sha256", None)
        plain.attributes["sha256"] = seal(plain.document)
        self.document = plain.document
        data = to_bytes(self.document)
        if len(data) > root_checks.ROOT_BYTES:
            raise StoreError(
                f"the root document would have {len(data)} bytes, {root_checks.ROOT_BYTES} is the most. "
                "Fix: a smaller provenance, fewer predictions"
            )
        return data


def new_root(attributes: Document, nodes: dict[str, Document]) -> Root:
    """A root document from our attributes and all nodes below it."""
    document = group_document({ATTRIBUTE: attributes})
    metadata = {path: nodes[path] for path in sorted(nodes)}
    document["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": metadata}
    return Root(document)


def read_root(path: Place) -> Root:
    """Read and check the root of a store.

    Raises StoreError if there is no store of ours or it is of a newer format, DamageError if the seal is broken or it
    says what no store can be, UnreadableError if it cannot be read.
    """
    return parse_root(root_bytes(path), path / "zarr.json")


def root_bytes(path: Place) -> bytes:
    """The bytes of a store's root; raises as ``read_root`` where there are none."""
    file = path / "zarr.json"
    try:
        return read_file(file, root_checks.ROOT_BYTES)
    except FileNotFoundError as error:
        there = not isinstance(path, Path) or path.is_dir()
        found = "no zarr.json in it" if there else "no such directory"
        raise StoreError(f"{path}: not a larstore store ({found}). Fix: give the path of a store") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        kind = DamageError if isinstance(error, WrongFileError) else UnreadableError
        raise kind(f"{file}: cannot read ({reason}). Fix: check the path and its permissions") from error


def parse_root(data: bytes, file: Place) -> Root:
    """Check the bytes of a root document; ``file`` is for the messages."""
    damaged = f"Fix: restore the file from a copy, or run 'larstore verify {file.parent}'"
    try:
        document = root_checks.load(data)
    except ValueError as error:
        raise DamageError(f"{file}: not readable as JSON ({error}). {damaged}") from error
    attributes = document.get("attributes") if isinstance(document, dict) else None
    ours = attributes.get(ATTRIBUTE) if isinstance(attributes, dict) else None
    if not isinstance(attributes, dict) or not isinstance(ours, dict):
        raise StoreError(f"{file}: a Zarr group, but not a larstore store. Fix: give the path of a store")
    version = ours.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise StoreError(
            f"{file}: format version {version}, this larstore reads up to {FORMAT_VERSION}. Fix: {_installing(ours)}"
        )
    sealed = {key: value for key, value in ours.items() if key != "sha256"}
    rest = document | {"attributes": attributes | {ATTRIBUTE: sealed}}
    if ours.get("sha256") != seal(rest):
        raise DamageError(f"{file}: its sha256 does not match its content (damaged or edited by hand). {damaged}")
    root = Root(document)
    try:
        check(root)
    except ValueError as error:
        raise DamageError(f"{file}: says what no store can be: {error}. {damaged}") from error
    return root


def _installing(ours: Document) -> str:
    """The command that installs what reads a newer store: at least what made it, where that is recorded."""
    made_by: Any = ours.get("provenance")
    for key in ("versions", "larstore"):
        made_by = made_by.get(key) if isinstance(made_by, dict) else None
    known = isinstance(made_by, str) and re.fullmatch(r"[0-9]+(\.[0-9]+){0,3}[0-9A-Za-z.]{0,20}", made_by)
    return f"pip install 'larstore>={made_by}'" if known else "pip install --upgrade larstore"


def check(root: Root) -> None:
    """ValueError unless all attributes and nodes are what format version 1 makes them."""
    root_checks.check_attributes(root.attributes)
    nodes = root_checks.nodes_of(root.document)
    root_checks.check_groups(nodes, ("geometry",))
    tables = {"index": index_columns(root.planes, root.truth_columns, root.pixels)}
    tables |= {"inputs": INPUT_COLUMNS, "failures": FAILURE_COLUMNS, "geometry": GEOMETRY_COLUMNS}
    for group, columns in tables.items():
        root_checks.check_table(nodes, group, columns)
    for path, spec in (pair for arrays in root.row_arrays.values() for pair in arrays.items()):
        if path not in nodes:
            raise ValueError(f"array {path} is missing")
        _check_array(parse_layout(path, nodes[path]), nodes[path], spec, root)
    for name in root.predictions:
        path = f"predictions/{name}"
        root_checks.check_prediction(path, nodes[path]["attributes"])
        if f"{path}/score" in nodes:
            layout = parse_layout(f"{path}/score", nodes[f"{path}/score"])
            if layout.dtype != np.dtype("<f4") or layout.width:
                raise ValueError(f"{path}/score: {layout.dtype}, {layout.width} where one float32 a voxel is expected")


def _check_array(layout: Layout, node: Document, spec: ArraySpec, root: Root) -> None:
    """ValueError for an array of other types or sizes than the root's attributes tell."""
    width = width_of(spec, len(root.planes))
    found = (str(layout.dtype), node["fill_value"], layout.width, layout.shard_rows, layout.chunk_rows)
    sizes = (root.attributes["shard_rows"], root.attributes["chunk_rows"])
    expected = (spec.dtype, spec.fill, () if width is None else (width,), *sizes)
    if found != expected:
        raise ValueError(f"{layout.path}: {ascii(found)[:100]} where {expected} is expected")
