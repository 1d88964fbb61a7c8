"""report.html of a compression: one file, no network, for a person to decide from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import Environment, PackageLoader
from torch import Tensor

from compress.policies.merge_layers import LayerPlan
from compress.policies.merge_tokens import TokenPlan
from compress.policies.precision import PrecisionPlan
from compress.policies.prune_width import WidthPlan
from compress.policies.recover import RecoverPlan
from compress.policy import Plan
from compress.recipe import Recipe
from compress.similarity import layer_similarity
from compress.stack import Schedule
from diffusion.policy import DecoderPlan
from experiments.reports import pictures, plots
from hmr.body.model import BodyModel
from hmr.data.dataset import Frames
from hmr.data.sample import Sample, batch, known
from hmr.evaluation import metrics
from hmr.evaluation.provenance import counted
from hmr.models.head import HMROutput
from hmr.models.model import HMRModel

SHOWN = 6  # frames as pictures
COMPARED = 64  # frames that the similarity of layers is taken over
BATCH = 16
COLUMNS = (
    *("after", "layers", "tokens", "M params", "GMACs", "frames/s"),
    *("MPJPE mm", "rise mm", "PA-MPJPE mm", "PVE mm", "Accel mm/frame²", "person merged"),
)
TOKENS = "Tokens: pixels where a patch has its own, one outlined colour where patches share one"


@dataclass(frozen=True)
class Before:
    """What the original model was like, before it was changed in place."""

    depth: int
    similarity: Tensor  # (L, L)
    compared: int  # frames
    frames: tuple[int, ...]  # indices of those that are shown
    output: HMROutput  # of the shown frames


def looked_at(model: HMRModel, samples: Frames, calib: Frames) -> Before:
    """Look at an original model: its layers on `calib` frames, what it sees in a few of the frames that report."""
    device = next(model.parameters()).device
    some = [calib[i] for i in range(min(COMPARED, len(calib)))]
    crops = [batch(some[i : i + BATCH], device).crops for i in range(0, len(some), BATCH)]
    frames = tuple(pictures.spread(len(samples), SHOWN))
    output = seen(model, [samples[i] for i in frames])
    return Before(len(model.stack.blocks), layer_similarity(model.stack, crops), len(some), frames, output)


@torch.no_grad()
def seen(model: HMRModel, samples: Sequence[Sample]) -> HMROutput:
    """What a model says of frames."""
    return model(*batch(samples, next(model.parameters()).device).inputs)


def page(
    before: Before,
    model: HMRModel,
    samples: Frames,
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
    changed = [point(i, row, rows[0]) for i, row in enumerate(rows) if row["changed"] or i == 0]
    return rendered(
        "report.html",
        title=f"{source['model']['name']} after {recipe.name}",
        subtitle=f"{data['name']}:{data['split']}, {counted(data)}; "
        f"{source['device']}, {source['threads']} threads, {source['precision']}",
        headline=headline(rows[0], rows[-1]),
        columns=COLUMNS,
        rows=[cells(i, row) for i, row in enumerate(rows)],
        label_free=source["label_free"],
        decisions=[(plan.policy, told(plan)) for plan in plans],
        plot=plots.error_against_macs(changed),
        layers=plots.layer_map(before.depth, layers.windows) if layers else "",
        path=path_of(layers) if layers else "",
        similarity=plots.similarity_map(before.similarity, layers.windows if layers else ()),
        calib=f"linear CKA over {before.compared} frames of {decided['name']}:{decided['split']}",
        tokens=[(pictures.data_uri(picture), words) for picture, words in token_pictures(model, chosen)],
        masked=any(sample.mask is not None and sample.mask.any() for sample in chosen),
        bodies=body_pictures(before, model, chosen, body),
        command=f"fasthmr compress {said['artefact']['path']}/recipe.yaml --model {source['model']['name']} "
        f"--data {asked(data)} --frames {data['frames']}{' --label-free' if source['label_free'] else ''}"
        f"{calibrated(source)} --out DIR",
        recipe=text,
        provenance=json.dumps(source, indent=1),
    )


@torch.no_grad()
def token_pictures(model: HMRModel, samples: Sequence[Sample]) -> list[tuple[pictures.Picture, str]]:
    """(picture, what is on it) of each frame's tokens; none where no token was merged or dropped."""
    if model.schedule == Schedule():
        return []
    given = batch(samples, next(model.parameters()).device)
    tokens = model.encode(given.crops, given.masks)
    found = []
    for i, sample in enumerate(samples):
        alone, groups, grouped, gone = pictures.counted(tokens, i)
        counts = {f"{alone} kept": alone, f"{grouped} merged into {groups}": groups, f"{gone} dropped": gone}
        words = ", ".join(said for said, count in counts.items() if count)
        found.append((pictures.tokens_drawn(sample, tokens, i), words))
    return found


def body_pictures(
    before: Before, model: HMRModel, samples: Sequence[Sample], body: BodyModel
) -> list[tuple[str, str, str]]:
    """(the original's mesh over the picture, the compressed model's, their errors) of each frame."""
    now = seen(model, samples)
    given = batch(samples, now.betas.device)
    rotations, betas = known(given.rotations, "poses"), known(given.betas, "shapes")
    joints = body.joints_from_pelvis(rotations.float(), betas.float(), given.people)
    errors = [
        metrics.mpjpe(
            body.joints_from_pelvis(said.rotations.float(), said.betas.float()), joints, aligned=True
        ).tolist()
        for said in (before.output, now)
    ]
    found = []
    for i, sample in enumerate(samples):
        one, two = (
            pictures.data_uri(pictures.body_drawn(sample, body, output, i, who))
            for who, output in (("original", before.output), ("compressed", now))
        )
        found.append((one, two, f"MPJPE {errors[0][i]:.0f} mm → {errors[1][i]:.0f} mm"))
    return found


def asked(data: dict[str, Any]) -> str:
    """The words of the command that name a data set and its masks."""
    place = f"@{data['path']}" if "path" in data else ""
    return f"{data['name']}:{data['split']}{place}" + (f" --masks {data['masks']}" if data.get("masks") else "")


def calibrated(source: dict[str, Any]) -> str:
    """The words of the command that say how many frames decided."""
    return f" --calib-frames {source['calib']['frames']}" if source["calib"] else ""


def headline(first: dict[str, Any], last: dict[str, Any]) -> list[tuple[str, str]]:
    """(figure, what it is) of the whole recipe."""
    rise = last["mpjpe_rise_mm"]
    return [
        (f"{last['macs']['true'] / first['macs']['true']:.0%}", "of the multiply-accumulates"),
        (f"{last['frames_per_s'] / first['frames_per_s']:.2f}×", "the frames per second here"),
        (f"{last['params'] / first['params']:.0%}", "of the parameters"),
        ("0.0 mm" if rise is None else f"{rise['mean']:+.1f} mm", "MPJPE, on the same frames"),
    ]


def cells(i: int, row: dict[str, Any]) -> tuple[str, ...]:
    share, accel = row["protected_merged_share"], row["accel_mm_per_frame2"]
    return (
        f"{i}  {row['step']}" + ("" if row["changed"] or i == 0 else " (changed nothing)"),
        str(row["layers"]),
        str(row["tokens"][-1] if row["tokens"] else "-"),
        f"{row['params'] / 1e6:.2f}",
        f"{row['macs']['true'] / 1e9:.3f}",
        f"{row['frames_per_s']:.1f}",
        interval(row["mpjpe_mm"], ".1f"),
        interval(row["mpjpe_rise_mm"], "+.1f"),
        f"{row['pa_mpjpe_mm']['mean']:.1f}",
        f"{row['pve_mm']['mean']:.1f}",
        "-" if accel is None else f"{accel['mean']:.1f}",
        "-" if share is None else f"{share:.1%}",
    )


def interval(value: dict[str, float] | None, form: str) -> str:
    return "-" if value is None else f"{value['mean']:{form}} [{value['lo']:{form}}, {value['hi']:{form}}]"


def point(i: int, row: dict[str, Any], original: dict[str, Any]) -> plots.Point:
    """A step's error, with the interval of its rise over the original, frame by frame: recordings differ far more."""
    base, mm = original["mpjpe_mm"]["mean"], row["mpjpe_mm"]["mean"]
    rise = row["mpjpe_rise_mm"] or {"lo": 0.0, "hi": 0.0}
    # of a single recording, both ends are the mean itself, give or take its last bit
    return plots.Point(str(i), row["macs"]["true"] / 1e9, mm, min(mm, base + rise["lo"]), max(mm, base + rise["hi"]))


def path_of(plan: LayerPlan) -> str:
    """The search's path as a figure; nothing where it took less than two steps."""
    path = [(step["layers"], step["error_mm"]) for step in plan.measured.get("path", ())]
    return plots.error_against_depth(path, plan.left) if len(path) > 2 else ""


def told(plan: Plan) -> str:
    """What was decided, in words."""
    match plan:
        case LayerPlan(empty=True):
            return "No layers were merged: each merge cost more than the threshold allows."
        case LayerPlan():
            runs = ", ".join(f"{low} to {high}" for low, high in plan.windows)
            each = "one block" if len(plan.windows) == 1 else "one block each"
            return f"Blocks {runs} became {each}, by operator {plan.operator}." + searched(plan.measured)
        case TokenPlan(empty=True) | WidthPlan(empty=True) | PrecisionPlan(empty=True):
            return "Nothing to do."
        case TokenPlan():
            return reduced(plan)
        case WidthPlan():
            heads, hidden = (sum(len(getattr(b, part).removed) for b in plan.blocks) for part in ("heads", "hidden"))
            return f"{heads} attention heads and {hidden} hidden units were cut out of {len(plan.blocks)} blocks."
        case RecoverPlan(empty=True):
            return "Nothing had changed, so there was nothing to recover."
        case RecoverPlan():
            found = plan.measured
            apart = "{before:.3f} to {after:.3f}".format(**found["distance"])
            return (
                f"{found['steps']} steps in {found['seconds'] / 60:.1f} minutes brought the distance to the original "
                f"from {apart}, on pictures that were held out."
            )
        case PrecisionPlan():
            return f"The blocks compute in {plan.dtype}."
        case DecoderPlan():
            steps = f"{plan.steps} step" + "s" * (plan.steps > 1)
            how = f"diffusion in {steps}" if plan.predictor == "diffusion" else "a regressor"
            return f"Clips of {plan.sizes.frames} frames are decoded by {how}, in the place of the pose head."
    return ""


def searched(found: dict[str, Any]) -> str:
    """What a search saw and took, in words; nothing for windows that were given."""
    if not found:
        return ""
    return (
        f" On the frames that decide, the error went from {found['original_mm']:.1f} to {found['error_mm']:.1f} mm, in "
        f"a search through {len(found['path'])} depths."
    )


def reduced(plan: TokenPlan) -> str:
    """What becomes of the tokens, in words."""
    rows, columns = plan.made_for.grid
    if plan.schedule.drop:
        return f"Of {rows * columns} tokens, the {plan.schedule.drop} least covered by the person go at the input."
    around = "of any place" if plan.coverage is None else "around the person"
    merging = [(i, left) for i, left in enumerate(plan.schedule.counts(rows * columns, len(plan.schedule.merges)))
               if plan.schedule.merges[i]]  # fmt: skip
    counts = " → ".join(map(str, (rows * columns, *(left for _, left in merging))))
    return f"Tokens {around} merge in blocks {merging[0][0]} to {merging[-1][0]}: {counts}."


def rendered(template: str, **values: Any) -> str:
    """A page from one of the templates."""
    environment = Environment(loader=PackageLoader("experiments.reports"), autoescape=True, trim_blocks=True)
    return environment.get_template(template).render(**values)
