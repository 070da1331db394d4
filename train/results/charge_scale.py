"""What a prediction's charges are multiplied by."""

from collections.abc import Mapping
from typing import Any

from larstore.errors import StoreError


def charge_scale(about: Mapping[str, Any], where: str = "", fix: str = "train with one data.scale") -> float:
    """Electrons × scale are the numbers of a prediction of charges: ``data.scale`` of a network's training, else 1.

    Args:
        about: the prediction's attributes, as in `Store.predictions`.
        where, fix: what an error begins and ends with.

    Raises:
        StoreError: stores of the training had different scales, so that the unit is not known.
    """
    scale = (about.get("config") or {}).get("data", {}).get("scale") or 1.0
    scales = {float(each) for each in (scale if isinstance(scale, list) else [scale]) if each is not None} or {1.0}
    if len(scales) > 1:
        raise StoreError(
            f"{where}a network trained with several scales {sorted(scales)}: the unit of its charges is not known. "
            f"Fix: {fix}"
        )
    return scales.pop()
