"""The page of one evaluation, drawn from its summary and tables alone."""

from typing import Any

import pandas as pd

from larstore.report import Page
from train.results.lit_pages import add_lit_charge
from train.results.merit_pages import add_merits
from train.results.pages import add_kept, add_methods, fixed, headline, histogram_figure, images_figure

MOST_IMAGES = 3000  # that a figure shows as points


def evaluation_page(summary: dict[str, Any], tables: dict[str, pd.DataFrame]) -> Page:
    """The page of one evaluation: figures where there is truth, counts and score histogram where there is none."""
    names = [each["name"] for each in summary["predictions"].values()]
    sample = summary["sample"] or "unnamed sample"
    title = f"Evaluation of {', '.join(map(repr, names))}"
    page = Page(title, f"{summary['store']} · {summary['detector']} · {sample}")
    if summary["has_truth"]:
        page.cards(headline(summary))
    else:
        kept = next((row for row in summary["kept"] if row["threshold"] == 0.5), summary["kept"][0])
        page.cards(
            [
                (f"voxels kept of {summary['voxels']:,} (score ≥ {kept['threshold']:g})", f"{kept['kept']:,}"),
                ("kept fraction", fixed(kept["kept_fraction"])),
            ]
        )
        page.paragraph("There is no truth in this store: neither purity nor efficiency can be known.")
    page.paragraph(_images_sentence(summary), note=True)
    if summary["has_truth"]:
        page.heading("Network and baselines" if len(names) == 1 else "Predictions and baselines")
        add_methods(page, summary, tables["curves"])
        add_merits(page, summary, tables)
    page.heading("Scores")
    page.figure(histogram_figure(summary), "Voxels per bin of the score. The vertical axis is logarithmic.")
    page.heading("What a cut on the score keeps")
    add_kept(page, summary)
    add_lit_charge(page, summary, tables["lit_charge"])
    images = tables["images"]
    if summary["has_truth"] and len(images) > 1:
        page.heading("Image by image")
        shown = images.iloc[:: -(-len(images) // MOST_IMAGES)]
        part = "" if len(shown) == len(images) else f" Every {-(-len(images) // MOST_IMAGES)}th image."
        page.figure(
            images_figure(summary, shown), f"Average precision of each image against its purity after tiling.{part}"
        )
    page.heading("Definitions")
    for each in summary["methods"].values():
        page.paragraph(f"{each['label']}: {each['definition']}.")
    page.paragraph(
        f"A voxel is true where truth > {summary['truth_threshold']:g} {summary['truth_units']}, else a ghost; voxel "
        f"size {' × '.join(map(str, summary['downsample']))} (ticks × pixels × pixels). Purity = true and kept / kept. "
        "Efficiency = true and kept / true and tiled; efficiency (all) = true and kept / all true voxels. "
        "Average precision = Σ (efficiency − efficiency before) × purity over all thresholds, without interpolation."
    )
    return page


def _images_sentence(summary: dict[str, Any]) -> str:
    parts = [f"{summary['images']:,} of {summary['images_selected']:,} selected images, {summary['voxels']:,} voxels."]
    if summary["has_truth"]:
        parts.append(f"{summary['voxels_true']:,} are true, of {summary['truth_voxels']:,} true voxels in all.")
    if summary["images_not_predicted"]:
        parts.append(f"{summary['images_not_predicted']:,} images without a complete prediction are left out.")
    if summary["has_truth"] and summary["images_without_truth"]:
        parts.append(f"{summary['images_without_truth']:,} images have no truth and count for scores only.")
    if summary["images_untiled_unknown"]:
        parts.append(
            f"Of {summary['images_untiled_unknown']:,} images only the truth of tiled voxels is known (joined TPCs, "
            "some without truth), so nothing is said of all true voxels."
        )
    if summary["images_without_collected"]:
        parts.append(
            f"{summary['images_without_collected']:,} images with truth do not tell the electrons that reach the wires "
            "(collected): they are in no figure of a charge that is compared with these."
        )
    if summary["scores_rounded"]:
        parts.append("To bound memory, scores that differ in their last bits only were taken as equal.")
    return " ".join(parts)
