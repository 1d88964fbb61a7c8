"""`fasthmr evaluate`, `depth` and `cost`: the errors and the cost of one model."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from compress.errors import BadInput
from experiments.cli.options import AsJson, Data, FrameCount, LabelFree, Masks, Mocap, Model
from experiments.cli.output import ERRORS, cell, measurement_table, print_result, progress_bar

if TYPE_CHECKING:
    import torch

    from hmr.data.dataset import DataSpec
    from hmr.load import Resolved


def evaluate(
    model: Model,
    data: Data,
    frames: FrameCount = None,
    mocap: Mocap = None,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Also say by how much MODEL's error differs from this one's.")
    ] = None,
    label_free: LabelFree = False,
    masks: Masks = None,
    as_json: AsJson = False,
) -> None:
    """Errors of MODEL, beside predictors that see no picture, and its frames/s."""
    from hmr.data.datasets import parse
    from hmr.load import resolve_model

    spec = parse(data, label_free, masks)
    if label_free and against is None:
        raise BadInput("--label-free measures the distance to another model: name the original with --against")
    other = resolve_model(against) if against is not None else None
    print_result(evaluation(resolve_model(model), spec, frames, mocap, other, label_free), as_json, evaluation_table)


def depth(model: Model, data: Data, frames: FrameCount = None, as_json: AsJson = False) -> None:
    """What each block of MODEL is worth: the error when that one is left out."""
    from hmr.data.datasets import parse
    from hmr.load import resolve_model

    print_result(depth_of(resolve_model(model), parse(data), frames), as_json, depth_table)


def cost(
    model: Annotated[str, typer.Argument(help="A MODEL as elsewhere, an architecture, as hmr2, or decoder-paper.")],
    recipe: Annotated[
        str | None, typer.Option(help="Count it after this recipe: one that does not have to look at data.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Parameters, multiply-accumulates, time and memory of MODEL per frame."""
    from compress.recipe import read_recipe
    from experiments.cost import PREFIX, decoder_cost, model_cost

    if model.startswith(PREFIX):
        print_result(decoder_cost(model), as_json, decoder_table)
        return
    print_result(model_cost(model, read_recipe(recipe)[0].steps if recipe is not None else ()), as_json, cost_table)


def evaluation(
    model: Resolved,
    spec: DataSpec,
    frames: int | None,
    mocap: Path | None,
    other: Resolved | None = None,
    label_free: bool = False,
) -> dict[str, Any]:
    """What `evaluate --json` prints, with progress on stderr."""
    from diffusion.policy import decoder_in
    from hmr.data.dataset import DataSpec
    from hmr.data.datasets import body_of, open_data, poses_hand
    from hmr.evaluation import evaluate
    from hmr.evaluation.label_free import labelled_by
    from hmr.evaluation.provenance import provenance

    device = best_device()
    model.model.to(device)
    if other and poses_hand(other.model) != poses_hand(model.model):
        raise BadInput(f"{model.name} and {other.name}: one poses a hand and one a body; name two of a kind")
    opened = open_data(spec, frames, mocap, model=model.model)
    body = body_of(opened, model.model).to(device)
    for looking in (model, *([other] if other else [])):
        if spec.mask_source == "none" and looking.model.protect is not None:
            raise BadInput(f"{looking.name} looks at person masks and these pictures have none: name some with --masks")
        if opened.fps is None and decoder_in(looking.model) is not None:
            raise BadInput(
                f"{looking.name} decodes motion, and these frames do not follow each other: name synth-video"
            )
    # the shipped motion alone, whatever --mocap says: trivial rows are the same on every machine;
    # and small crops: of the training frames only the poses are looked at
    bodies = None if poses_hand(model.model) else open_data(DataSpec("synth", "train"), size=(32, 24))
    mean = None if bodies is None else evaluate.mean_rotations(bodies)
    rival = other.model.to(device) if other else None
    if label_free and rival:
        opened, rival = labelled_by(rival, opened), None
    with progress_bar() as bar:
        task = bar.add_task(f"{model.name} on {spec.name}:{spec.split}", total=len(opened))
        result = evaluate.evaluate(model.model, opened, body, mean, device, lambda n: bar.advance(task, n), rival)
    if other and not label_free:
        result["paired"] = {"against": other.name, **result["paired"]}
    source = provenance("evaluate", model, body, opened, device)
    return {**result, "provenance": source | {"label_free": other.name if other and label_free else None}}


def depth_of(model: Resolved, spec: DataSpec, frames: int | None) -> dict[str, Any]:
    """What `depth --json` prints, with progress on stderr."""
    from hmr.data.datasets import body_of, open_data
    from hmr.evaluation.depth import depth
    from hmr.evaluation.provenance import provenance

    device = best_device()
    opened = open_data(spec, frames, model=model.model)
    body = body_of(opened, model.model).to(device)
    with progress_bar() as bar:
        task = bar.add_task(f"blocks of {model.name} on {spec.name}:{spec.split}", total=len(opened))
        result = depth(model.model.to(device), opened, body, device, lambda n: bar.advance(task, n))
    return {**result, "provenance": provenance("depth", model, body, opened, device)}


def best_device() -> torch.device:
    """The GPU where there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def evaluation_table(result: dict[str, Any]) -> Table:
    """The rows of an evaluation."""
    speed = f"{result['frames_per_s']:.1f} frames/s, "
    found = measurement_table(result["provenance"], speed)
    if original := result["provenance"]["label_free"]:
        found.caption = f"errors are distances to what {original} says, not to labels\n{found.caption}"
    if "paired" in result:
        name, rise = result["paired"]["against"], cell(result["paired"]["mpjpe_mm"])
        found.caption = f"MPJPE minus that of {name}, on the same frames: {rise} mm\n{found.caption}"
    found.add_column("predictor")
    for heading in ERRORS.values():
        found.add_column(heading, justify="right")
    for row in result["rows"]:
        found.add_row(row["name"], *(cell(row[key]) for key in ERRORS))
    return found


def depth_table(result: dict[str, Any]) -> Table:
    """The whole model's error, and by how much it rises without each block."""
    found = measurement_table(result["provenance"])
    found.add_column("blocks")
    found.add_column("MPJPE mm", justify="right")
    found.add_row("all", cell(result["mpjpe_mm"]), end_section=True)
    for row in result["rows"]:
        found.add_row(f"without {row['block']}", cell(row["rise_mm"], "+.1f"))
    return found


def cost_table(result: dict[str, Any]) -> Table:
    """The costs as people read them."""
    latency, memory = result["latency_ms"], result["peak_memory_bytes"]
    tokens = " → ".join(str(n) for n, _ in groupby(result["tokens"]))
    caption = f"per frame; {result['layers']} layers; tokens {tokens}"
    if latency:
        caption += f"\n{latency['median']:.1f} ms (median of {latency['runs']}; 95th percentile {latency['p95']:.1f})"
        caption += f", {result['provenance']['device']}, {result['provenance']['threads']} threads"
    if memory:
        caption += f"; peak memory {memory / 2**20:.0f} MiB"
    shown = Table(title=f"cost of {result['provenance']['model']['name']}", caption=caption)
    shown.add_column("part")
    for heading in ("parameters", "MACs", "linear, conv", "thop"):
        shown.add_column(heading, justify="right")
    whole = {"name": "whole model", "params": result["params"], "macs": result["macs"]}
    for part in (*result["parts"], whole):
        shown.add_row(part["name"], f"{part['params']:,}", *(f"{n:,}" for n in part["macs"].values()))
    return shown


def decoder_table(result: dict[str, Any]) -> Table:
    """The cost of a decoder as people read it."""
    parts = ", ".join(f"{part['name']} {part['params']:,}" for part in result["parts"])
    shown = Table(title=f"cost of {result['name']}", caption=f"parameters {result['params']:,}: {parts}")
    for heading in ("", "MACs", "linear, conv", "thop"):
        shown.add_column(heading, justify="right")
    shown.add_row(f"clip of {result['frames']}", *(f"{n:,}" for n in result["macs_clip"].values()))
    shown.add_row("frame", *(f"{n:,.0f}" for n in result["macs"].values()))
    return shown
