"""`fasthmr compress`: a recipe goes in, a smaller model comes out, its error and cost measured after each step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress import artefact
from compress.errors import BadInput
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.recover import Recover, RecoverPlan
from compress.policy import Plan, Policy
from compress.recipe import Recipe, read_recipe
from compress.stack import Schedule
from compress.tokens import DROPPED, Tokens, coverage
from diffusion.policy import decoder_in
from experiments.cost import frame_cost
from experiments.recover import Recovery
from experiments.reports.compression import COMPARED, looked_at, page
from hmr.body.model import BodyModel
from hmr.data.dataset import DataSpec, Frames
from hmr.data.datasets import SEED, body_of, open_data
from hmr.data.sample import Inputs
from hmr.evaluation import evaluate
from hmr.evaluation.evaluate import Errors
from hmr.evaluation.judge import JointJudge
from hmr.evaluation.label_free import labelled_by
from hmr.evaluation.provenance import commit, counted, dataset, provenance, versions
from hmr.home import fasthmr_home
from hmr.load import Resolved
from hmr.models.head import HMROutput
from hmr.models.model import HMRModel

ERRORS = ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "accel_mm_per_frame2")
Tell = Callable[[str, str, int, int], None]  # what is being done, a word on it, how much of it is done, of how much


@dataclass(frozen=True)
class Measured:
    """A model on the frames that report."""

    errors: Errors
    frames_per_s: float
    person_merged: Tensor | None  # (N,) see `person_merged`; None where no token is reduced


def compress(
    recipe_name: str,
    model: Resolved,
    spec: DataSpec,
    out: Path,
    frames: int | None = None,
    tell: Tell = lambda what, word, done, total: None,
    label_free: bool = False,
    calib_frames: int | None = None,
) -> dict[str, Any]:
    """Do what the recipe says to `model`, in place, and write the artefact `out`; returns what result.json says.

    The calibration split of the data decides, the split of `spec` reports; `frames` makes both smaller, and
    `calib_frames` the first alone. With `label_free`, errors are distances to what `model` says before anything is done
    to it. Raises BadInput for a recipe with a mistake or that does not fit the model, before anything is measured; for
    a model that was compressed before; and where `out` has something in it.
    """
    recipe, text = read_recipe(recipe_name)
    artefact.refuse_taken(out)
    refuse_test_only(spec)
    refuse(recipe, model, spec)
    base = artefact.Base(
        name=model.name,
        architecture=model.model.architecture,
        sizes=model.model.sizes.model_dump(mode="json"),
        sha256=model.sha256,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.model.to(device)
    opened = open_data(spec, frames, model=model.model)
    body = body_of(opened, model.model).to(device)
    test = opened.drawn(tell)
    decide = DataSpec(spec.name, "calib", spec.root, spec.masks)
    search = next((s for s in recipe.steps if isinstance(s, MergeLayers) and s.looks), None)
    recovers = any(isinstance(step, Recover) for step in recipe.steps)
    own = spec.name == "frames"  # recovery learns from the user's pictures where there are some
    looking = any(step.looks for step in recipe.steps) or (own and recovers)
    calib = open_data(decide, calib_frames or frames, model=model.model).drawn(tell) if looking else None
    if label_free:
        test, calib = labelled_by(model.model, test), calib and labelled_by(model.model, calib)
    judge = JointJudge(model.model, calib, body) if calib else None
    journal = journal_of(model, search.operator, body, calib) if search and calib else None
    compared = calib or open_data(decide, frames or COMPARED, model=model.model).drawn(tell)
    before = looked_at(model.model, test, compared)
    recovery = Recovery(model.model, body, calib if own else None) if recovers else None

    plans, rows = worked_through(recipe, model.model, judge, journal, recovery, test, body, tell)

    source = provenance("compress", model, body, test, device)
    source["label_free"] = label_free
    source["calib"] = dataset(calib) if calib else None
    source["recover"] = dataset(recovery.frames) if recovery else None
    said = {"artefact": {"path": str(out)}, "recipe_id": recipe.id, "rows": rows, "provenance": source}
    html = page(before, model.model, test, plans, recipe, text, said, body)
    words = artefact.Words(recipe=text, card=card(recipe, rows, source), result=said, report=html)
    origin = artefact.Origin(base=base, seed=SEED, commit=commit(), versions=versions())
    made = artefact.save(out, model.model, plans, origin, words)
    if journal:
        journal.unlink(missing_ok=True)
    if recovery:
        recovery.forget()
    return {**said, "artefact": {"path": str(out), "id": made}}


def worked_through(
    recipe: Recipe,
    model: HMRModel,
    judge: JointJudge | None,
    journal: Path | None,
    recovery: Recovery | None,
    test: Frames,
    body: BodyModel,
    tell: Tell,
) -> tuple[list[Plan], list[dict[str, Any]]]:
    """Plan, apply and measure each step, one after the other: the plans, and a row for the original and each step."""
    original = measured(model, test, body, "original", tell)
    plans: list[Plan] = []
    rows = [row("original", None, model, original, original, test)]
    for step in recipe.steps:
        plans.append(applied(planned(step, model, judge, journal, tell), model, recovery, tell))
        rows.append(row(step.policy, plans[-1], model, measured(model, test, body, step.policy, tell), original, test))
    return plans, rows


def refuse(recipe: Recipe, model: Resolved, spec: DataSpec) -> None:
    """Raise BadInput for what cannot come to a good end, before anything is measured."""
    if model.compressed:
        raise BadInput(f"{model.name} was compressed already, and merges are made from original weights: name those")
    if spec.split in ("train", "calib"):
        raise BadInput(f"{spec.name}:{spec.split} cannot report, because it decides: name {spec.name}:test or :val")
    for step in recipe.steps:
        step.check(model.model)
        if spec.mask_source == "none" and isinstance(step, MergeTokens) and step.protect == "mask":
            raise BadInput("merge_tokens protects the person and these pictures have no masks: name some with --masks")


def refuse_test_only(spec: DataSpec) -> None:
    """Raise BadInput for data that has no split to decide on."""
    if spec.test_only:
        raise BadInput(
            f"{spec.name}@{spec.root} is a test set alone, and compressing looks at calib too: compress on synth or "
            "on the folder of 3dpw, then evaluate what comes out here"
        )


def journal_of(model: Resolved, operator: str, body: BodyModel, calib: Frames) -> Path:
    """Where a search on these frames writes its trials, so that one that was killed goes on: in $FASTHMR_HOME."""
    device = next(model.model.parameters()).device.type
    bodies = " ".join(body.identity.values())
    digest = hashlib.sha256(f"{model.sha256} {operator} {bodies} {torch.__version__} {device}".encode())
    for sample in calib:
        for array in (sample.image, sample.rotations, sample.betas):
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return fasthmr_home() / "searches" / f"{digest.hexdigest()[:32]}.jsonl"


def planned(step: Policy, model: HMRModel, judge: JointJudge | None, journal: Path | None, tell: Tell) -> Plan:
    """What a step decides; a search takes up its journal."""
    if not isinstance(step, MergeLayers):
        return step.plan(model, judge)
    return step.plan(
        model,
        judge,
        journal=journal,
        progress=lambda p: tell("merging layers", f"{list(map(list, p.windows))}: {p.error:.2f} mm", p.done, p.total),
    )


def applied(
    plan: Plan,
    model: HMRModel,
    recovery: Recovery | None = None,
    tell: Tell = lambda what, word, done, total: None,
) -> Plan:
    """Apply a plan and return it, with what was measured on the way.

    Raises RuntimeError where it is not empty and yet the model stays as it was.
    """
    before = outline(model)
    if isinstance(plan, RecoverPlan) and recovery:
        plan = recovery.follow(plan, model, tell)
    else:
        plan.apply(model)
    if not plan.empty and outline(model) == before:
        raise RuntimeError(f"the plan of {plan.policy} is not empty, and the model is as it was")
    return plan


def outline(model: HMRModel) -> tuple[dict[str, tuple[torch.Size, float]], Schedule, float | None]:
    """What tells a model that was changed: shapes and sums of its weights, its schedule, its mask threshold."""
    weights = {name: (value.shape, value.sum().item()) for name, value in model.state_dict().items()}
    return weights, model.schedule, model.protect


def measured(model: HMRModel, data: Frames, body: BodyModel, name: str, tell: Tell) -> Measured:
    """Errors, speed and merged persons of `model` on every frame."""
    parts, merged, seconds = [], [], 0.0
    looked = model.schedule != Schedule()
    tokens: list[Tokens] = []  # of the newest batch

    def forward(crop: Tensor, mask: Tensor | None, condition: Tensor | None) -> HMROutput:
        tokens[:] = [model.encode(crop, mask)]
        return model.read(tokens[0], condition)

    with torch.inference_mode():
        look = partial(lost_person, model, tokens) if looked else None
        device = next(model.parameters()).device
        found = evaluate.predictions(forward, decoder_in(model), data, device, look)
        for i, predicted in enumerate(found):
            seconds += predicted.seconds
            parts.append(evaluate.errors(body, predicted.said, predicted.truth))
            merged += [] if predicted.looked is None else [predicted.looked]
            tell(f"measuring {name}", "", min(len(data), (i + 1) * evaluate.BATCH), len(data))
    return Measured(evaluate.joined(parts), len(data) / seconds, torch.cat(merged).cpu() if merged else None)


def lost_person(model: HMRModel, tokens: list[Tokens], given: Inputs) -> Tensor | None:
    """Share (B,) of the person's patches without a token of their own in the newest of `tokens`; None without masks."""
    if given[1] is None:
        return None
    return person_merged(tokens[0], coverage(given[1], model.grid) > (model.protect or 0.0))


def person_merged(tokens: Tokens, person: Tensor) -> Tensor:
    """Share (B,) of the person's patches, person (B, N0) bool, that have no token of their own: merged or dropped.

    0 for a frame without a person. Above 0 with protect: mask means that merges were forced, because the mask left too
    few unprotected tokens.
    """
    here = tokens.source.clamp_min(0)
    sharing = torch.zeros_like(tokens.size).scatter_add(1, here, (tokens.source != DROPPED).to(tokens.size.dtype))
    lost = (tokens.source == DROPPED) | (sharing.gather(1, here) > 1)
    return (lost & person).sum(1) / person.sum(1).clamp_min(1)


def row(
    step: str, plan: Plan | None, model: HMRModel, now: Measured, original: Measured, data: Frames
) -> dict[str, Any]:
    """The figures after a step; macs and tokens are per frame, as `fasthmr cost` has them."""
    counted = frame_cost(model, next(model.parameters()).device)
    errors = evaluate.row(step, now.errors, data.recordings, data.fps is not None)
    rise = evaluate.paired_rise(now.errors, original.errors, data.recordings)["mpjpe_mm"] if plan else None
    person = now.person_merged
    return {
        "step": step,
        "changed": plan is not None and not plan.empty,
        "layers": counted.layers,
        "tokens": list(counted.tokens),
        "params": counted.params,
        "macs": asdict(counted.macs),
        "frames_per_s": now.frames_per_s,
        **{key: errors[key] for key in (*ERRORS, "per_joint_mm", "per_clip")},
        "parts": [asdict(part) for part in counted.parts],
        "mpjpe_rise_mm": rise,  # over the original model, on the same frames
        "protected_merged_share": None if person is None else person.mean().item(),
        "protected_merged_frames": None if person is None else (person > 0).double().mean().item(),
        "measured": plan.measured if plan else {},
    }


def interval(value: dict[str, float] | None) -> str:
    return "-" if value is None else f"{value['mean']:.1f} [{value['lo']:.1f}, {value['hi']:.1f}]"


def card(recipe: Recipe, rows: Sequence[dict[str, Any]], source: dict[str, Any]) -> str:
    """What was done, what it costs, how wrong it is: Markdown for people."""
    model, data, calib = source["model"], source["data"], source["calib"]
    table = ["| after | layers | tokens | parameters | MACs | MPJPE mm |", "|---|--:|--:|--:|--:|--:|"]
    for r in rows:
        done = r["step"] if r["changed"] or r is rows[0] else f"{r['step']} (changed nothing)"
        tokens = r["tokens"][-1] if r["tokens"] else "-"
        cells = (done, r["layers"], tokens, r["params"], r["macs"]["true"], interval(r["mpjpe_mm"]))
        table.append(f"| {' | '.join(map(str, cells))} |")
    decided = f"{calib['name']}:{calib['split']}, {calib['frames']} frames" if calib else "no data: the recipe decides"
    taught = source["recover"]
    learnt = f" Recovered on {taught['name']}:{taught['split']}, without its labels." if taught else ""
    return "\n".join(
        [
            f"# {model['name']} after {recipe.name}",
            "",
            f"{model['architecture']} with weights {model['sha256']}, compressed by recipe {recipe.id}.",
            "",
            *table,
            "",
            "Parameters and MACs (every product counted) are per frame; tokens are those after the last layer.",
            *(
                ["Errors are distances to the original model: no labels were looked at.", ""]
                if source["label_free"]
                else []
            ),
            f"Errors are on {data['name']}:{data['split']}, with 95 % bootstrap intervals over recordings: "
            f"{counted(data)}.",
            f"Decided on {decided}.{learnt} Commit {source['commit']}, seed {source['seed']}, {source['device']}.",
            "",
            "The licence of these weights is that of the weights they were made from. The code is under Apache-2.0.",
            "",
        ]
    )
