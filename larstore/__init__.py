"""larstore: sparse 3D images of LArTPC events in one Zarr store; open, select, append, verify."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from larstore.block import BlockFull, write_block
    from larstore.block_writer import BlockWriter
    from larstore.comparison import diff
    from larstore.creation import create
    from larstore.geometry import Geometry, TpcGeometry
    from larstore.image import Image
    from larstore.maintenance import compact, copy_images
    from larstore.merging import merge
    from larstore.predictions import PredictionWriter
    from larstore.provenance import provenance_of
    from larstore.records import BlockSpec, Failure, ImageRecord, ImageRows, InputFile, Pixels, Receipt
    from larstore.repairing import repair
    from larstore.selection import Selection
    from larstore.store import Store, open
    from larstore.truth_sums import TruthBlocks, truth_blocks
    from larstore.verification import Report, verify
    from larstore.writer import StoreWriter

# Name -> module, loaded when first used: the command line starts without pandas.
_WHERE = {
    "BlockFull": "block",
    "BlockSpec": "records",
    "BlockWriter": "block_writer",
    "Failure": "records",
    "Geometry": "geometry",
    "Image": "image",
    "ImageRecord": "records",
    "ImageRows": "records",
    "InputFile": "records",
    "Pixels": "records",
    "PredictionWriter": "predictions",
    "Receipt": "records",
    "Report": "verification",
    "Selection": "selection",
    "Store": "store",
    "StoreWriter": "writer",
    "TpcGeometry": "geometry",
    "TruthBlocks": "truth_sums",
    "compact": "maintenance",
    "copy_images": "maintenance",
    "create": "creation",
    "diff": "comparison",
    "merge": "merging",
    "open": "store",
    "provenance_of": "provenance",
    "repair": "repairing",
    "truth_blocks": "truth_sums",
    "verify": "verification",
    "write_block": "block",
}

__all__ = [
    "BlockFull",
    "BlockSpec",
    "BlockWriter",
    "Failure",
    "Geometry",
    "Image",
    "ImageRecord",
    "ImageRows",
    "InputFile",
    "Pixels",
    "PredictionWriter",
    "Receipt",
    "Report",
    "Selection",
    "Store",
    "StoreWriter",
    "TpcGeometry",
    "TruthBlocks",
    "compact",
    "copy_images",
    "create",
    "diff",
    "merge",
    "open",
    "provenance_of",
    "repair",
    "truth_blocks",
    "verify",
    "write_block",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(import_module(f"larstore.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    if name in ("testing", "xarray"):
        return import_module(f"larstore.{name}")
    raise AttributeError(f"module 'larstore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "testing"]
