"""report.html of a compression: one file, no network, for a person to decide from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader
from torch import Tensor

from compress.card import counted, formatted, machine
from compress.layers.similarity import layer_similarity
from compress.pipeline import Compressed
from compress.policy import Plan
from compress.stack import Schedule
from experiments.reports import pictures, plots
from hmr.adapters.adapted import gives_joints
from hmr.data.dataset import Frames
from hmr.data.sample import batch
from hmr.evaluation.depth import mpjpe
from hmr.evaluation.errors import labelled, predicted
from hmr.evaluation.measure import body_for
from hmr.evaluation.predict import outputs_at, times_faster
from hmr.models.head import HMROutput

SHOWN = 6  # frames as pictures
CKA_FRAMES = 64  # frames that the similarity of layers is taken over
BATCH = 16
TOKENS = "Tokens: pixels where a patch has its own, one outlined colour where patches share one"


def page(made: Compressed, test: Frames, calib: Frames, folder: Path) -> str:
    """The HTML of a compression, of what `compress` returned: `test` are its frames, `folder` is its artefact, and the
    similarity of the original's layers is taken over `calib`."""
    rows, source, plans = made.rows, made.provenance, made.plans
    shown = pictures.spread(len(test), SHOWN)
    data = source["data"]
    windows = next((plan["windows"] for plan in decisions(plans) if of_encoder(plan)), None)
    depth = len(made.original.encoder.stack.blocks)
    changed = [point(i, row, rows[0]) for i, row in enumerate(rows) if row["changed"] or i == 0]
    error = plots.FIDELITY if source["label_free"] else plots.ERROR
    return rendered(
        "report.html",
        title=f"{source['model']['name']} after {made.recipe.name}",
        subtitle=f"{data['name']}:{data['split']}, {counted(data)}; {machine(source)}",
        headline=headline(rows[0], rows[-1], times_faster(made.original, made.model, test), error),
        columns=[*cells(rows[0])],
        rows=[numbered(i, cells(row).values()) for i, row in enumerate(rows)],
        label_free=source["label_free"],
        decisions=[(plan.label, plan.describe()) for plan in plans],
        plot=plots.error_against_macs(changed, error),
        error=error,
        layers=plots.layer_map(depth, windows) if windows else "",
        path=path_of(plans, error),
        similarity=plots.similarity_map(similarity(made.original, calib), windows or ()),
        calib=f"linear CKA over {min(len(calib), CKA_FRAMES)} frames of {calib.spec}",
        tokens=[(pictures.data_uri(drawn), words) for drawn, words in token_pictures(made.model, test, shown)],
        masked=test.has_masks,
        bodies=body_pictures(made, test, shown),
        command=f"fasthmr compress {folder}/recipe.yaml --model {source['model']['name']} "
        f"--data {data_arguments(data)} --frames {data['frames']}{' --label-free' if source['label_free'] else ''}"
        f"{calibrated(source)} --out DIR",
        recipe=made.recipe.text,
        provenance=json.dumps(source, indent=1),
    )


def decisions(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """Plans as JSON values, which reports read: a plan of another package's is drawn by the same fields as ours."""
    return [plan.model_dump(mode="json") for plan in plans]


def of_encoder(plan: dict[str, Any]) -> bool:
    """Whether a plan, as JSON values, says which blocks of the image encoder became one."""
    return bool(plan.get("windows")) and plan.get("stack") is None


def similarity(model: Any, calib: Frames) -> Tensor:
    """CKA (L, L) of a model's layers over some frames."""
    device = next(model.parameters()).device
    some = [calib[i] for i in range(min(len(calib), CKA_FRAMES))]
    crops = [batch(some[i : i + BATCH], device).crops for i in range(0, len(some), BATCH)]
    return layer_similarity(model.encoder.stack, crops)


@torch.no_grad()
def token_pictures(model: Any, frames: Frames, indices: Sequence[int]) -> list[tuple[pictures.Picture, str]]:
    """(picture, what is on it) of the tokens of some frames; none where no token was merged or dropped."""
    encoder = model.encoder
    if encoder.schedule == Schedule():
        return []
    samples = [frames[i] for i in indices]
    seen = batch(samples, next(encoder.parameters()).device)
    tokens = encoder.encode(seen.crops, seen.masks)
    drawn = []
    for i, sample in enumerate(samples):
        alone, groups, grouped, gone = pictures.counted(tokens, i)
        counts = {f"{alone} kept": alone, f"{grouped} merged into {groups}": groups, f"{gone} dropped": gone}
        words = ", ".join(text for text, count in counts.items() if count)
        drawn.append((pictures.tokens_drawn(sample, tokens, i), words))
    return drawn


Seen = dict[str, list[pictures.Picture]]


def bodies_drawn(models: dict[str, Any], frames: Frames, indices: Sequence[int]) -> tuple[Seen, dict[str, HMROutput]]:
    """By model, the pictures of some frames with the body it predicts, and its output; `models` begin with the
    original. Nothing where that is an adapter's, which predicts none."""
    if gives_joints(next(iter(models.values()))):
        return {}, {}
    body, samples = body_for(frames, next(iter(models.values()))), [frames[i] for i in indices]
    outputs = {who: outputs_at(model, frames, indices) for who, model in models.items()}
    drawn = {
        who: [pictures.body_drawn(sample, body, output, i, who) for i, sample in enumerate(samples)]
        for who, output in outputs.items()
    }
    return drawn, outputs


def body_pictures(made: Compressed, frames: Frames, indices: Sequence[int]) -> list[tuple[str, str, str]]:
    """(the original's mesh over the picture, the compressed model's, their errors) of some frames."""
    drawn, outputs = bodies_drawn({"original": made.original, "compressed": made.model}, frames, indices)
    if not drawn:
        return []
    body = body_for(frames, made.original)
    truth = labelled(batch([frames[i] for i in indices], body.v_template.device))
    errors = [mpjpe(body, [predicted(output)], [truth]) for output in outputs.values()]
    words = [f"MPJPE {one:.0f} mm → {two:.0f} mm" for one, two in zip(*errors, strict=True)]
    return list(zip(*(map(pictures.data_uri, some) for some in drawn.values()), words, strict=True))


def data_arguments(data: dict[str, Any]) -> str:
    """The words of the command that name a data set and its masks."""
    place = f"@{data['path']}" if "path" in data else ""
    return f"{data['name']}:{data['split']}{place}" + (f" --masks {data['masks']}" if data.get("masks") else "")


def calibrated(source: dict[str, Any]) -> str:
    """The options of the command for the number of calib frames."""
    return f" --calib-frames {source['calib']['frames']}" if source["calib"] else ""


def headline(
    first: dict[str, Any], last: dict[str, Any], faster: float, error: str = plots.ERROR
) -> list[tuple[str, str]]:
    """(figure, what it is) of the whole recipe, which is `faster` times as fast as the original beside it."""
    rise = last["mpjpe_rise_mm"]
    return [
        (f"{last['macs']['true'] / first['macs']['true']:.0%}", "of the multiply-accumulates"),
        (f"{faster:.2f}×", "as fast, side by side here"),
        (f"{last['params'] / first['params']:.0%}", "of the parameters"),
        ("0.0 mm" if rise is None else f"{rise['mean']:+.1f} mm", f"{error}, on the same frames"),
    ]


def cells(row: dict[str, Any]) -> dict[str, str]:
    """A step's figures for people, by their headings."""
    share, accel, pve = (row[key] for key in ("protected_merged_share", "accel_mm_per_frame2", "pve_mm"))
    unchanged = row["step"] != "original" and not row["changed"]
    return {
        "after": row["step"] + (" (changed nothing)" if unchanged else ""),
        "layers": str(row["layers"]),
        "tokens": str(row["tokens"][-1] if row["tokens"] else "-"),
        "M params": f"{row['params'] / 1e6:.2f}",
        "GMACs": f"{row['macs']['true'] / 1e9:.3f}",
        "frames/s": f"{row['frames_per_s']:.1f}",
        "MPJPE mm": formatted(row["mpjpe_mm"]),
        "rise mm": formatted(row["mpjpe_rise_mm"], "+.1f"),
        "PA-MPJPE mm": f"{row['pa_mpjpe_mm']['mean']:.1f}",
        "PVE mm": "-" if pve is None else f"{pve['mean']:.1f}",
        "Accel mm/frame²": "-" if accel is None else f"{accel['mean']:.1f}",
        "person merged": "-" if share is None else f"{share:.1%}",
    }


def numbered(i: int, texts: Iterable[str]) -> list[str]:
    """Cells of a row, the first with its number, by which the plot names it."""
    first, *rest = texts
    return [f"{i}  {first}", *rest]


def point(i: int, row: dict[str, Any], original: dict[str, Any]) -> plots.Point:
    """A step's error, with the interval of its rise over the original, which is paired: recordings differ far more."""
    base, mm = original["mpjpe_mm"]["mean"], row["mpjpe_mm"]["mean"]
    rise = row["mpjpe_rise_mm"] or {"lo": None, "hi": None}
    if rise["lo"] is None:
        return plots.Point(str(i), row["macs"]["true"] / 1e9, mm)
    # an interval without width may leave out its own mean by the last bit
    return plots.Point(str(i), row["macs"]["true"] / 1e9, mm, min(mm, base + rise["lo"]), max(mm, base + rise["hi"]))


def path_of(plans: Sequence[Plan], error: str = plots.ERROR) -> str:
    """The depths that a layer search came through and the one it took; nothing where none searched."""
    searched = next((plan for plan in plans if plan.measured.get("path") and plan.stack is None), None)
    if searched is None:
        return ""
    windows = decisions([searched])[0]["windows"]
    left = next(step["layers"] for step in searched.measured["path"] if step["windows"] == windows)
    path = [(step["layers"], step["error_mm"]) for step in searched.measured["path"]]
    return plots.error_against_depth(path, left, error)


def rendered(template: str, **values: Any) -> str:
    """A page from one of the templates."""
    environment = Environment(loader=PackageLoader("experiments.reports"), autoescape=True, trim_blocks=True)
    return environment.get_template(template).render(**values)
