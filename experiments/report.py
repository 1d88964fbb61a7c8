"""report.html of a compression: one file, no network, for a person to decide from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import Environment, PackageLoader
from torch import Tensor

from compress.merge_layers import LayerPlan
from compress.policy import Plan
from compress.similarity import layer_similarity
from compress.stack import Schedule
from experiments import pictures, plots
from experiments.recipe import Recipe
from hmr.body import BodyModel
from hmr.crop import normalised
from hmr.data.view import Sample
from hmr.head import HMROutput
from hmr.judge import stacked
from hmr.model import HMRModel

SHOWN = 6  # frames as pictures
COMPARED = 64  # frames that the similarity of layers is taken over
BATCH = 16
TOKENS = "Tokens: pixels where a patch has its own, one outlined colour where patches share one"


@dataclass(frozen=True)
class Before:
    """What the original model was like, before it was changed in place."""

    depth: int
    similarity: Tensor  # (L, L)
    compared: int  # frames
    frames: tuple[int, ...]  # indices of those that are shown
    output: HMROutput  # of the shown frames


def looked_at(model: HMRModel, samples: Sequence[Sample], calib: Sequence[Sample]) -> Before:
    """Look at an original model: its layers on `calib` frames, what it sees in a few of the frames that report."""
    device = next(model.parameters()).device
    some = calib[:COMPARED]
    crops = [normalised(stacked(some[i : i + BATCH], "image").to(device)) for i in range(0, len(some), BATCH)]
    frames = tuple(pictures.spread(len(samples), SHOWN))
    output = seen(model, [samples[i] for i in frames])
    return Before(len(model.stack.blocks), layer_similarity(model.stack, crops), len(some), frames, output)


@torch.no_grad()
def seen(model: HMRModel, samples: Sequence[Sample]) -> HMROutput:
    """What a model says of frames."""
    device = next(model.parameters()).device
    return model(normalised(stacked(samples, "image").to(device)), stacked(samples, "mask").to(device))


def page(
    before: Before,
    model: HMRModel,
    samples: Sequence[Sample],
    plans: Sequence[Plan],
    recipe: Recipe,
    text: str,
    said: dict[str, Any],
    body: BodyModel,
) -> str:
    """The HTML of what `fasthmr compress` did: `said` is its result, `text` the recipe's YAML."""
    rows, source = said["rows"], said["provenance"]
    chosen = [samples[i] for i in before.frames]
    layers = next((plan for plan in plans if isinstance(plan, LayerPlan)), None)
    data = source["data"]
    decided = source["calib"] or {"name": data["name"], "split": "calib"}
    calibrated = f"--calib-frames {source['calib']['frames']} " if source["calib"] else ""
    return rendered(
        "report.html",
        title=f"{source['model']['name']} after {recipe.name}",
        subtitle=f"{data['frames']} frames of {data['clips']} recordings of {data['name']}:{data['split']}, masks: "
        f"{data['mask_source']}; {source['device']}, {source['threads']} threads, {source['precision']}",
        headline=headline(rows[0], rows[-1]),
        columns=("after", "layers", "tokens", "M params", "GMACs", "frames/s", "MPJPE mm", "rise mm", "person merged"),
        rows=[cells(i, row) for i, row in enumerate(rows)],
        note="Intervals are 95 % bootstraps over recordings; the rise is paired, frame by frame. Person merged: share "
        "of the person's patches that have no token of their own.",
        plot=plots.error_against_macs([point(row, rows[0]) for row in rows if row["changed"] or row is rows[0]]),
        layers=plots.layer_map(before.depth, layers.windows) if layers else "",
        merged=told(layers) if layers else "",
        similarity=plots.similarity_map(before.similarity),
        calib=f"linear CKA over {before.compared} frames of {decided['name']}:{decided['split']}",
        frames=before.frames,
        strips=[(name, [pictures.data_uri(p) for p in row]) for name, row in strips(before, model, chosen, body)],
        command=f"fasthmr compress {recipe.name} --model {source['model']['name']} --data "
        f"{data['name']}:{data['split']} --frames {data['frames']} {calibrated}--out DIR",
        recipe=text,
        provenance=json.dumps(source, indent=1),
    )


def strips(
    before: Before, model: HMRModel, samples: list[Sample], body: BodyModel
) -> list[tuple[str, list[pictures.Picture]]]:
    """Rows of pictures of the same frames, each with what it shows."""
    found = [("The crop, faded outside the person mask", [pictures.masked(sample) for sample in samples])]
    every = range(len(samples))
    if model.schedule != Schedule():
        found.append((TOKENS, tokens_strip(model, samples)))
    now = seen(model, samples)
    for who, output in (("original", before.output), ("compressed", now)):
        meshes = [pictures.body_drawn(samples[i], body, output, i, who) for i in every]
        found.append((f"Body that the {who} model sees", meshes))
    return found


@torch.no_grad()
def tokens_strip(model: HMRModel, samples: Sequence[Sample]) -> list[pictures.Picture]:
    """Frames as the tokens of a model stand for them."""
    device = next(model.parameters()).device
    crop, mask = stacked(samples, "image").to(device), stacked(samples, "mask").to(device)
    tokens = model.encode(normalised(crop), mask)
    return [pictures.tokens_drawn(sample, tokens, i) for i, sample in enumerate(samples)]


def headline(first: dict[str, Any], last: dict[str, Any]) -> list[tuple[str, str]]:
    """(figure, what it is) of the whole recipe."""
    rise = last["mpjpe_rise_mm"]
    return [
        (f"{last['macs']['true'] / first['macs']['true']:.0%}", "of the multiply-accumulates"),
        (f"{last['frames_per_s'] / first['frames_per_s']:.2f}×", "the frames per second"),
        (f"{last['params'] / first['params']:.0%}", "of the parameters"),
        ("0.0 mm" if rise is None else f"{rise['mean']:+.1f} mm", "MPJPE, on the same frames"),
    ]


def cells(i: int, row: dict[str, Any]) -> tuple[str, ...]:
    share = row["protected_merged_share"]
    return (
        f"{i}  {row['step']}" + ("" if row["changed"] or i == 0 else " (changed nothing)"),
        str(row["layers"]),
        str(row["tokens"][-1] if row["tokens"] else "-"),
        f"{row['params'] / 1e6:.2f}",
        f"{row['macs']['true'] / 1e9:.3f}",
        f"{row['frames_per_s']:.1f}",
        interval(row["mpjpe_mm"], ".1f"),
        interval(row["mpjpe_rise_mm"], "+.1f"),
        "-" if share is None else f"{share:.1%}",
    )


def interval(value: dict[str, float] | None, form: str) -> str:
    return "-" if value is None else f"{value['mean']:{form}} [{value['lo']:{form}}, {value['hi']:{form}}]"


def point(row: dict[str, Any], original: dict[str, Any]) -> plots.Point:
    """A step's error, with the interval of its rise over the original, frame by frame: recordings differ far more."""
    base, mm = original["mpjpe_mm"]["mean"], row["mpjpe_mm"]["mean"]
    rise = row["mpjpe_rise_mm"] or {"lo": 0.0, "hi": 0.0}
    return plots.Point(row["step"], row["macs"]["true"] / 1e9, mm, base + rise["lo"], base + rise["hi"])


def told(plan: LayerPlan) -> str:
    """Which layers were merged, in words."""
    if plan.empty:
        return "No layers were merged: each merge cost more than the threshold allows."
    runs = ", ".join(f"{low} to {high}" for low, high in plan.windows)
    return f"Blocks {runs} became one block each, by operator {plan.operator}."


def rendered(template: str, **values: Any) -> str:
    """A page from one of the templates."""
    environment = Environment(loader=PackageLoader("experiments"), autoescape=True, trim_blocks=True)
    return environment.get_template(template).render(**values)
