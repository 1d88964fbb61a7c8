"""card.md of an artefact: what was done, what it costs and how wrong it is, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compress.recipe import Recipe

COUNTS = {  # of pictures, by their names in a provenance's `data`
    "left_out": "people left out",
    "without_mask": "without a mask",
    "empty_masks": "with an empty mask",
    "full_masks": "that are masked altogether",
    "small_people": "with people of a few pixels",
    "boxes_outside": "boxes outside of their picture",
    "rows_without_picture": "boxes without a picture",
    "rows_left_out": "boxes that do not count",
    "pictures_without_row": "pictures without a box",
}


def card(
    recipe: Recipe, rows: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any], licence: str | None = None
) -> str:
    """Markdown of a compression's rows and where they come from; licence: of the weights, where it is known."""
    model = provenance["model"]
    return "\n".join(
        [
            f"# {model['name']} after {recipe.name}",
            "",
            f"{model['architecture']} with weights {model['sha256']}, compressed by recipe {recipe.id}.",
            "",
            "| after | layers | tokens | parameters | MACs | MPJPE mm |",
            "|---|--:|--:|--:|--:|--:|",
            *(f"| {' | '.join(map(str, cells(row)))} |" for row in rows),
            "",
            "Parameters and MACs (every product counted) are per frame; tokens are those after the last layer.",
            *reported(provenance),
            "",
            "The licence of these weights is that of the weights they were made from"
            f"{f': {licence}' if licence else ''}. The code is under Apache-2.0.",
            "",
        ]
    )


def cells(row: Mapping[str, Any]) -> tuple[object, ...]:
    """A row of the table."""
    unchanged = row["step"] != "original" and not row["changed"]
    return (
        row["step"] + (" (changed nothing)" if unchanged else ""),
        row["layers"],
        row["tokens"][-1] if row["tokens"] else "-",
        row["params"],
        row["macs"]["true"],
        formatted(row.get("mpjpe_mm")),
    )


def reported(provenance: Mapping[str, Any]) -> list[str]:
    """Which frames the errors are of, and which frames choices were made on."""
    data, calib, recover = (provenance.get(key) for key in ("data", "calib", "recover"))
    lines = []
    if data:
        lines.append(
            f"Errors are on {data['name']}:{data['split']}, {counted(data)}; 95 % t intervals over recordings."
        )
    if provenance.get("label_free"):
        lines.append("Errors are distances to the original model: no labels were used.")
    frames = f"{calib['name']}:{calib['split']}, {calib['frames']} frames" if calib else "no frames"
    taught = f" Recovered on {recover['name']}:{recover['split']}, without its labels." if recover else ""
    where = f"Commit {provenance['commit']}, seed {provenance['seed']}, {provenance['device']}."
    return [*lines, f"Choices were made on {frames}.{taught} {where}"]


def formatted(interval: Mapping[str, float | None] | None, form: str = ".1f") -> str:
    """An interval's fields for people: `79.7 [76.1, 83.4]`; of one recording, which has no interval, the mean alone."""
    if interval is None:
        return "-"
    mean = f"{interval['mean']:{form}}"
    return mean if interval["lo"] is None else f"{mean} [{interval['lo']:{form}}, {interval['hi']:{form}}]"


def machine(provenance: Mapping[str, Any]) -> str:
    """Where figures were measured, for people: `cpu, 1 thread, float32`."""
    threads = provenance["threads"]
    return f"{provenance['device']}, {threads} thread{'s' * (threads != 1)}, {provenance['precision']}"


def counted(data: Mapping[str, Any]) -> str:
    """How many frames of a provenance's `data` a figure comes from and where their masks come from, for people."""
    lost = "".join(f"; {data[key]} {words}" for key, words in COUNTS.items() if data.get(key))
    joints = f"; joints and pelvis: {data['convention']}" if "convention" in data else ""
    masks = f"; masks: {data['mask_source']}" if "mask_source" in data else ""
    return f"{data['frames']} frames of {data['clips']} recordings{lost}{masks}{joints}"
