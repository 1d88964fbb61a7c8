"""`fasthmr evaluate`, `depth` and `cost`: the errors and the cost of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from itertools import groupby
from typing import Annotated, Any

import typer
from rich.table import Table

from compress.errors import BadInput
from experiments.cli.options import AdapterFile, AsJson, Data, FrameCount, LabelFree, Masks, Mocap, Model
from experiments.cli.output import ERRORS, measurement_table, print_result, progress_bar, result_table

ROOT = ("true root mm", "root °")  # headings: MPJPE under the true root, and how far the root is off
CONVENTIONS = ("MACs", "linear, conv", "thop")
DECODER = "decoder-"  # of a size's name: `fasthmr cost decoder-paper`


def evaluate(
    model: Model,
    data: Data,
    frames: FrameCount = None,
    mocap: Mocap = None,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Another model, for the paired difference in error.")
    ] = None,
    label_free: LabelFree = False,
    masks: Masks = None,
    adapter: AdapterFile = None,
    as_json: AsJson = False,
) -> None:
    """Errors and speed of MODEL, next to baselines that see no image."""
    import hmr

    if label_free and against is None:
        raise BadInput("--label-free measures the distance to another model: name the original with --against")
    other = hmr.load(against, adapter=adapter) if against is not None else None
    facts = {"mocap": mocap, "masks": masks, "label_free": label_free}
    found = hmr.load(model, adapter=adapter)
    print_result(evaluation(found, data, frames, other, facts), as_json, evaluation_table)


def depth(
    model: Model, data: Data, frames: FrameCount = None, adapter: AdapterFile = None, as_json: AsJson = False
) -> None:
    """Importance of each block of MODEL: the error when that block is left out."""
    import hmr

    print_result(depth_of(hmr.load(model, adapter=adapter), data, frames), as_json, depth_table)


def cost(
    model: Annotated[str, typer.Argument(help="A model, the name of an architecture such as hmr2, or decoder-paper.")],
    recipe: Annotated[
        str | None, typer.Option(help="Count the model after this recipe, which must not need calibration frames.")
    ] = None,
    adapter: AdapterFile = None,
    as_json: AsJson = False,
) -> None:
    """Parameters, multiply-accumulates, latency and memory of MODEL per frame."""
    from compress.recipe import Recipe

    if model.startswith(DECODER):
        print_result(decoder_cost(model), as_json, decoder_table)
        return
    steps = () if recipe is None else Recipe.load(recipe).steps
    print_result(model_cost(model, steps, adapter), as_json, cost_table)


def evaluation(model: Any, data: str, count: int | None, other: Any | None, facts: dict[str, Any]) -> dict[str, Any]:
    """What `evaluate --json` prints, with progress on stderr."""
    import hmr
    from compress.provenance import provenance
    from hmr.adapters.adapted import gives_joints
    from hmr.evaluation.evaluate import evaluate
    from hmr.evaluation.label_free import labelled_by
    from hmr.models.device import best_device

    for each in (model, *([other] if other else [])):
        each.to(best_device())
        refuse_unlike(model.encoder, each.encoder)
    frames = hmr.frames(data, count, model=model.encoder, keep=False, **facts)
    for each in (model, *([other] if other else [])):
        refuse_frames(each, frames)
    mean = None if model.encoder.poses_hand or gives_joints(model) else mean_pose()
    rival = other
    if facts["label_free"]:
        frames, rival = labelled_by(other, frames), None
    with progress_bar() as bar:
        task = bar.add_task(f"{model.encoder.name} on {frames.spec}", total=len(frames))
        result = evaluate(model, frames, mean, rival, lambda done: bar.update(task, completed=done))
    if other is not None and rival is not None:
        result["paired"] = {"against": other.encoder.name, **result["paired"]}
    source = provenance("evaluate", model, best_device(), **frames.provenance(model))
    original = other.encoder.name if other is not None and facts["label_free"] else None
    return {**result, "provenance": source | {"label_free": original}}


def refuse_unlike(model: Any, other: Any) -> None:
    """Raise BadInput where two models do not give the same joints."""
    from hmr.adapters.adapted import gives_joints

    if other.poses_hand != model.poses_hand:
        raise BadInput(f"{model.name} and {other.name}: one poses a hand and one a body")
    if (gives_joints(model) or gives_joints(other)) and model.body.identity != other.body.identity:
        raise BadInput(f"{model.name} and {other.name}: joints of an adapter are compared with that adapter's alone")


@cache
def mean_pose() -> Any:
    """(24, 3, 3): what the trivial rows predict; seconds, once in a process.

    Of the shipped motion alone, whatever --mocap names, so that these rows are the same on every machine; in small
    crops, since only the poses of the training frames are looked at.
    """
    import hmr
    from hmr.evaluation.evaluate import mean_rotations

    return mean_rotations(hmr.frames("synth:train", size=(32, 24), keep=False))


def refuse_frames(model: Any, frames: Any) -> None:
    """Raise BadInput where frames lack what a model needs."""
    name = model.encoder.name
    if not frames.has_masks and model.encoder.protect is not None:
        raise BadInput(f"{name} needs person masks and these pictures have none: name some with --masks")
    if frames.times is not None and model.takes_clips:
        raise BadInput(f"{name} decodes motion at one rate, and these frames have several: re-encode the video at one")
    if frames.fps is None and model.takes_clips:
        raise BadInput(f"{name} decodes motion, and these frames do not follow each other: name synth-video")


def depth_of(model: Any, data: str, count: int | None) -> dict[str, Any]:
    """What `depth --json` prints, with progress on stderr."""
    import hmr
    from compress.provenance import provenance
    from hmr.adapters.adapted import gives_joints
    from hmr.evaluation.depth import depth
    from hmr.models.device import best_device

    model.to(best_device())
    frames = hmr.frames(data, count, model=model.encoder, label_free=gives_joints(model))
    refuse_frames(model, frames)
    with progress_bar() as bar:
        total = 1 + len(model.encoder.stack.blocks)
        task = bar.add_task(f"blocks of {model.encoder.name} on {frames.spec}", total=total)
        result = depth(model, frames, lambda done: bar.update(task, completed=done))
    return {**result, "provenance": provenance("depth", model, best_device(), **frames.provenance(model))}


def model_cost(name: str, steps: Sequence[Any], adapter: str | None = None) -> dict[str, Any]:
    """What `cost NAME --json` prints, after `steps`; nothing is timed where there are no weights.

    Raises BadInput for a name that is no model and for steps that do not fit it, make choices on frames or train.
    """
    import hmr
    from compress.context import Context
    from compress.pipeline import run_all_steps
    from compress.provenance import provenance
    from hmr.models.cost import measured_cost, stack_rows
    from hmr.models.device import best_device

    if trains := [step.policy for step in steps if step.trains]:
        raise BadInput(f"{trains[0]} is trained, which takes minutes: leave it out, or compress first")
    original = hmr.load(name, weightless=True, adapter=adapter)
    model = run_all_steps(original, steps, Context(original))
    timed: dict[str, Any] = {"latency_ms": None, "peak_memory_bytes": None}
    if not original.encoder.is_meta:
        timed = measured_cost(model.to(best_device()))
    latency = timed["latency_ms"] and timed["latency_ms"]["median"] / 1000
    device = next(model.parameters()).device
    stacks = stack_rows(model, latency)
    return {**asdict(model.cost()), "stacks": stacks, **timed, "provenance": provenance("cost", original, device)}


def decoder_cost(name: str) -> dict[str, Any]:
    """What `cost decoder-SIZE --json` prints: a clip's cost, and a frame's share of it."""
    import torch

    from compress.provenance import provenance
    from diffusion.decoded import clip_cost
    from diffusion.model.decoder import ClipDecoder
    from diffusion.model.sizes import sizes_of

    decoder = ClipDecoder(sizes_of(name.removeprefix(DECODER)), encoder="").eval()
    clip, frames = clip_cost(decoder), decoder.sizes.frames
    halves = (("denoiser", decoder.predictor), ("decoder of the VAE", decoder.vae.decoder))
    return {
        "name": name,
        "frames": frames,
        "params": clip.params,
        "macs_clip": asdict(clip.macs),
        "macs": {name: -(-count // frames) for name, count in asdict(clip.macs).items()},
        "parts": [
            {"name": part, "params": sum(p.numel() for p in module.parameters())} for part, module in halves if module
        ],
        "provenance": provenance("cost", None, torch.device("cpu")),
    }


def evaluation_table(result: dict[str, Any]) -> Table:
    """The rows of an evaluation."""
    from compress.card import formatted

    if "view" in result["rows"][0]:
        return views_table(result)
    original, rows = result["provenance"]["label_free"], []
    for row in result["rows"]:
        root = formatted(row["mpjpe_true_root_mm"]), number(row["root_error_deg"])
        rows.append((row["name"], *(formatted(row[key]) for key in ERRORS), *root))
        if means := row["frames_mean"]:
            rows.append((f"{row['name']}, mean over frames", *(number(means[key]) for key in ERRORS)))
    return measurement_table(
        result["provenance"],
        ("predictor", *ERRORS.values(), *ROOT),
        rows,
        above=difference(result)
        + (f"errors are distances to the joints of {original}, not to labels\n" if original else ""),
        speed=f"{result['frames_per_s']:.1f} frames/s, ",
    )


def views_table(result: dict[str, Any]) -> Table:
    """The rows of an evaluation on people by several cameras: all views, then each."""
    from compress.card import formatted

    errors_of = result["provenance"]["data"]["silver"]["error_mm"]
    errors = [errors_of[joint] for joint in result["rows"][0]["per_joint_mm"]]
    shown = {key: heading for key, heading in ERRORS.items() if key != "pve_mm"}
    rows = [
        (
            row["name"],
            row["view"] or "all",
            *(formatted(row[key]) for key in (*shown, "mpjpe_true_root_mm")),
            *(number(row[key]) for key in ("root_error_deg", "disagreement_mm")),
            number(row["keypoint_error_share"], ".1%"),
        )
        for row in result["rows"]
    ]
    return measurement_table(
        result["provenance"],
        ("predictor", "view", *shown.values(), *ROOT, "views apart mm", "2D of box"),
        rows,
        above=f"{difference(result)}truth is silver: BlazePose in the other views, with an error of {min(errors):.0f} "
        f"to {max(errors):.0f} mm by the jackknife;\nblazepose itself is favoured by that\n",
        speed=f"{result['frames_per_s']:.1f} frames/s, ",
        intervals="one recording: no intervals",
    )


def difference(result: dict[str, Any]) -> str:
    """The line of the paired difference from another model, where there is one."""
    from compress.card import formatted

    if "paired" not in result:
        return ""
    name, rise = result["paired"]["against"], formatted(result["paired"]["mpjpe_mm"])
    return f"MPJPE minus that of {name}, on the same frames: {rise} mm\n"


def number(value: float | None, form: str = ".1f") -> str:
    """A figure without an interval."""
    return "-" if value is None else f"{value:{form}}"


def depth_table(result: dict[str, Any]) -> Table:
    """The whole model's error, and by how much it rises without each block."""
    from compress.card import formatted

    rows = [(f"without {row['block']}", formatted(row["rise_mm"], "+.1f")) for row in result["rows"]]
    whole = ("all", formatted(result["mpjpe_mm"]))
    above = "errors are distances to the joints of the whole model\n" if result["provenance"]["label_free"] else ""
    return measurement_table(result["provenance"], ("blocks", "MPJPE mm"), [whole, *rows], above=above)


def cost_table(result: dict[str, Any]) -> Table:
    """The costs as people read them."""
    from compress.card import machine

    latency, memory = result["latency_ms"], result["peak_memory_bytes"]
    tokens = " → ".join(str(n) for n, _ in groupby(result["tokens"]))
    caption = f"per frame; {result['layers']} layers; tokens {tokens}"
    if latency:
        caption += f"\n{latency['median']:.1f} ms (median of {latency['runs']}; 95th percentile {latency['p95']:.1f})"
        caption += f", {machine(result['provenance'])}"
    if memory:
        caption += f"; peak memory {memory / 2**20:.0f} MiB"
    for row in result["stacks"]:
        time = "" if row["time_share"] is None else f", {row['time_share']:.1%} of the time"
        share = row["macs"]["true"] / result["macs"]["true"]
        caption += f"\n{row['name']}: {share:.1%} of the true MACs{time}"
    whole = {"name": "whole model", "params": result["params"], "macs": result["macs"]}
    rows = [
        (part["name"], f"{part['params']:,}", *(f"{n:,}" for n in part["macs"].values()))
        for part in (*result["parts"], whole)
    ]
    title = f"cost of {result['provenance']['model']['name']}"
    return result_table(title, caption, ("part", "parameters", *CONVENTIONS), rows)


def decoder_table(result: dict[str, Any]) -> Table:
    """The cost of a decoder as people read it."""
    parts = ", ".join(f"{part['name']} {part['params']:,}" for part in result["parts"])
    rows = [
        (name, *(f"{n:,}" for n in macs.values()))
        for name, macs in ((f"clip of {result['frames']}", result["macs_clip"]), ("frame", result["macs"]))
    ]
    caption = f"parameters {result['params']:,}: {parts}"
    return result_table(f"cost of {result['name']}", caption, ("", *CONVENTIONS), rows)
