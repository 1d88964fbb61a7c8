"""A model and the frames of one study, and what a recipe makes of them."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache, cached_property
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
from torch import Tensor

from compress.errors import BadInput
from compress.layer_search import Journal, joined, runs_of, windows_of
from compress.policies.merge_layers import LayerPlan, MergeLayers, Trials
from compress.policies.precision import PrecisionPlan
from compress.policies.prune_width import PruneWidth, importances
from compress.policies.recover import Recover
from compress.policy import Plan, Policy
from compress.recipe import Recipe
from experiments.cost import frame_cost, measurements
from experiments.locks import locked
from experiments.recover import Recovery
from experiments.run import Measured, Tell, applied, journal_of, measured, planned, refuse, refuse_test_only
from experiments.search.study import Best, Study
from experiments.search.trials import Interval, Macs, Part, Record, Worst
from hmr.body.model import BodyModel
from hmr.data.dataset import DataSpec, Frames
from hmr.data.datasets import body_of, open_data, parse
from hmr.evaluation import evaluate
from hmr.evaluation.evaluate import Errors
from hmr.evaluation.judge import JointJudge
from hmr.evaluation.label_free import labelled_by
from hmr.evaluation.provenance import dataset, provenance
from hmr.load import resolve_model
from hmr.models.model import HMRModel

WORST = 3  # recordings that a record names


class Lab:
    """The original model and the frames of each split, drawn and measured once, when they are first needed.

    What trials share is made once too. Errors of merged layers lie in a journal that all workers of a machine add to,
    so that a path of a layer search is walked by the first trial that needs it; activations are kept inside each walk;
    and the importance of heads and hidden units is kept for all ratios.
    """

    def __init__(
        self,
        asked: Study,
        label_free: bool = False,
        masks: str | None = None,
        tell: Tell = lambda what, word, done, total: None,
    ) -> None:
        self.asked, self.label_free, self.tell = asked, label_free, tell
        self.data = parse(asked.data, label_free, masks)
        self.resolved = resolve_model(asked.model)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = self.resolved.model.to(self.device)
        self.ranks: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.frames, self.original = cache(self._frames), cache(self._original)

    def spec(self, split: str) -> DataSpec:
        return replace(self.data, split=split)

    def _frames(self, split: str) -> Frames:
        found = open_data(self.spec(split), getattr(self.asked.frames, split), model=self.model).drawn(self.tell)
        return labelled_by(self.model, found) if self.label_free else found

    def _original(self, split: str) -> Measured:
        return measured(self.model, self.frames(split), self.body, f"original on {split}", self.tell)

    @cached_property
    def body(self) -> BodyModel:
        """What errors on these frames are measured on."""
        return body_of(self.frames("calib"), self.model).to(self.device)

    @cached_property
    def judge(self) -> JointJudge:
        return JointJudge(self.model, self.frames("calib"), self.body)

    @cached_property
    def recovery(self) -> Recovery:
        own = self.data.name == "frames"  # the user's pictures, where there are some
        return Recovery(self.model, self.body, self.frames("calib") if own else None)

    def refuse(self, recipe: Recipe) -> None:
        """Raise BadInput where this model or these frames make a recipe impossible, before anything is measured."""
        refuse_test_only(self.data)
        if "accel_mm_per_frame2" in self.asked.objectives:
            for split in ("val", "test"):
                if self.frames(split).fps is None:
                    raise BadInput(
                        f"objectives: accel_mm_per_frame2 needs every frame of videos, and {self.data.name}:{split} "
                        "has single ones"
                    )
        refuse(recipe, self.resolved, self.spec("val"))

    def copy(self) -> HMRModel:
        return copy.deepcopy(self.model)

    def measure(self, recipe: Recipe) -> Record:
        """Decide on calib, do it, measure on val; raises BadInput where a recipe cannot be done or breaks the model."""
        self.refuse(recipe)
        model, plans = self.copy() if recipe.steps else self.model, []  # type: tuple[HMRModel, list[Plan]]
        for step in recipe.steps:
            plans.append(applied(self.plan(step, model, plans), model))
        return self.record(recipe, model, plans, "val")

    def plan(self, step: Policy, model: HMRModel, before: Sequence[Plan]) -> Plan:
        """What a step decides after the plans `before` it; what earlier trials found out is not looked at again."""
        if isinstance(step, MergeLayers) and step.looks:
            journal = journal_of(self.resolved, step.operator, self.body, self.frames("calib"))
            kept = journal.parent / "studies" / journal.name  # `fasthmr compress` removes its own when it is done
            return self.walked(step, model, kept)
        if isinstance(step, PruneWidth) and step.looks:
            key = json.dumps([plan.decided() for plan in before])
            if key not in self.ranks:
                self.ranks[key] = importances(model, self.judge)
            return step.plan(model, self.judge, known=self.ranks[key])
        return step.plan(model, self.judge)

    def walked(self, step: MergeLayers, model: HMRModel, journal: Path) -> Plan:
        """What a layer search decides. Workers walk a greedy path to a number of layers together: each tries neighbours
        in an order of its own, and reads what the others have found. NOTE: with a lock around the whole walk all others
        waited for one, and two workers did 1.4 times the trials of one."""
        lock = journal.with_suffix(f".{step.strategy}.lock")  # also held to read: a torn last line would be cut off

        def decided(layers: int | None) -> LayerPlan:
            with locked(lock):
                goal = step.model_copy(update={"layers": layers})
                return cast(LayerPlan, planned(goal, model, self.judge, journal, self.tell))

        if step.strategy == "greedy" and step.layers is not None:
            depth = len(model.stack.blocks)
            trials, order = Trials(model.stack, self.judge, step.operator), Random(os.getpid())
            for left in range(depth, step.layers, -1):
                settled = decided(left).windows
                runs = runs_of(settled, depth)
                for place in order.sample(range(left - 1), left - 1):
                    windows = windows_of(joined(runs, place))
                    with locked(lock):
                        known = windows in Journal(journal)
                    if not known:
                        error = trials(windows, settled)
                        with locked(lock):
                            Journal(journal)[windows] = error
        return decided(step.layers)

    def rebuilt(self, record: Record) -> HMRModel:
        """The model of a record, from its plans: nothing is decided again."""
        model = self.copy() if record.plans else self.model
        for plan in record.plans:
            plan.apply(model)
        return model

    def again(self, record: Record) -> dict[str, Record]:
        """The same model on test."""
        return {"test": self.record(record.recipe, self.rebuilt(record), record.plans, "test")}

    def recovered(self, record: Record) -> dict[str, Record]:
        """The model of a record after the study's recovery, on val and on test. What is rounded is rounded after it."""
        step = cast(Best, self.asked.recover).step
        steps = sorted((*record.recipe.steps, step), key=lambda one: one.stage)
        recipe = record.recipe.model_copy(update={"steps": tuple(steps)})
        model, plans = self.copy(), []  # type: tuple[HMRModel, list[Plan]]
        bits = [plan for plan in record.plans if isinstance(plan, PrecisionPlan)]
        for plan in record.plans:
            if plan not in bits:
                plans.append(applied(plan, model))
        plans.append(applied(step.plan(model), model, self.recovery, self.tell))
        plans += [applied(plan, model) for plan in bits]
        return {split: self.record(recipe, model, plans, split) for split in ("val", "test")}

    def rival(self, name: str) -> dict[str, Record]:
        """Another model as it is, on val and on test."""
        other = resolve_model(name)
        named = {"name": other.name, "architecture": other.model.architecture, "sha256": other.sha256}
        recipe = Recipe(schema_version=1, name="as-it-is", steps=())
        found = {split: self.record(recipe, other.model.to(self.device), (), split) for split in ("val", "test")}
        source = {"model": named, **({"labels_of": self.resolved.sha256} if self.label_free else {})}
        return {
            split: record.model_copy(update={"provenance": {**record.provenance, **source}})
            for split, record in found.items()
        }

    def record(self, recipe: Recipe, model: HMRModel, plans: Sequence[Plan], split: str) -> Record:
        """Everything that is measured of a model on a split, beside where it comes from."""
        data, original = self.frames(split), self.original(split)
        name = f"{'+'.join(step.policy for step in recipe.steps) or 'original'} on {split}"
        now = original if model is self.model else measured(model, data, self.body, name, self.tell)
        counted = frame_cost(model, self.device)
        timed = {"latency_ms", "peak_memory_bytes"} & {*self.asked.objectives}
        cost: dict[str, Any] = measurements(model, self.device) if timed else {}
        errors = evaluate.row(name, now.errors, data.recordings, data.fps is not None)
        rise = evaluate.paired_rise(now.errors, original.errors, data.recordings)["mpjpe_mm"]
        accel = errors["accel_mm_per_frame2"]
        return Record(
            recipe=recipe,
            recipe_id=recipe.id,
            plans=tuple(plans),
            layers=counted.layers,
            tokens=tuple(counted.tokens),
            params=counted.params,
            macs=Macs(**asdict(counted.macs)),
            parts=tuple(Part(name=p.name, params=p.params, macs=Macs(**asdict(p.macs))) for p in counted.parts),
            latency_ms=cost["latency_ms"]["median"] if cost else None,
            peak_memory_bytes=cost.get("peak_memory_bytes"),
            frames_per_s=now.frames_per_s,
            mpjpe_mm=Interval(**errors["mpjpe_mm"]),
            pa_mpjpe_mm=Interval(**errors["pa_mpjpe_mm"]),
            pve_mm=Interval(**errors["pve_mm"]),
            accel_mm_per_frame2=Interval(**accel) if accel else None,
            mpjpe_rise_mm=Interval(**rise),
            per_joint_mm=errors["per_joint_mm"],
            per_clip=tuple(errors["per_clip"]),
            worst=worst(now.errors, original.errors, data.recordings),
            protected_merged_share=None if now.person_merged is None else now.person_merged.mean().item(),
            provenance=self.source(split, recipe),
        )

    def source(self, split: str, recipe: Recipe) -> dict[str, Any]:
        """Where a record's figures come from."""
        found = provenance("trial", self.resolved, self.body, self.frames(split), self.device)
        recovers = any(isinstance(step, Recover) for step in recipe.steps)
        return found | {
            "label_free": self.label_free,
            "calib": dataset(self.frames("calib")),
            "recover": dataset(self.recovery.frames) if recovers else None,
        }


def worst(now: Errors, original: Errors, clips: Sequence[str]) -> tuple[Worst, ...]:
    """In the recordings that compression harms most on average, the frame that it harms most."""
    error = now.per_joint_mm.mean(1)
    rise = error - original.per_joint_mm.mean(1)  # (N,) mm
    members: dict[str, list[int]] = {}
    for i, clip in enumerate(clips):
        members.setdefault(clip, []).append(i)
    ranked = sorted(members, key=lambda clip: -rise[members[clip]].mean().item())
    frames = {clip: max(members[clip], key=lambda i: rise[i].item()) for clip in ranked[:WORST]}
    return tuple(
        Worst(clip=clip, frame=i, mpjpe_mm=error[i].item(), rise_mm=rise[i].item()) for clip, i in frames.items()
    )
