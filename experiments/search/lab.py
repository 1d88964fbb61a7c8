"""A model and the frames of one study, and what a recipe makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

import hmr
from compress.atomic import atomic_write
from compress.context import Context, Observer, silent
from compress.errors import BadInput
from compress.pipeline import refuse_misfit, result_provenance, row, run_all_steps
from compress.policy import ModelSize, Policy
from compress.ranking.budget import MACBudget, recipe_for
from compress.ranking.layout import EncoderSizes
from compress.ranking.measures import Measures, measures_of
from compress.recipe import Recipe
from experiments.search.blocks import BlockSpace
from experiments.search.early import measured_first, per_recording, worse
from experiments.search.space import Space
from experiments.search.study import Study
from experiments.search.trials import Record, Worst, of_row
from hmr.data.dataset import Frames
from hmr.data.datasets import with_split
from hmr.evaluation.errors import Errors
from hmr.evaluation.measure import Measurement
from hmr.models.cost import measured_cost
from hmr.models.device import best_device
from hmr.resolver import load_original

FAILURES = (BadInput, RuntimeError, MemoryError)  # that end a trial and not a night's search
WORST = 3  # recordings that a record names


class Lab:
    """The original model and the frames of each split, drawn and measured once, when they are first needed.

    Trials share the context's memory and its journals: errors of merged layers lie in a file that all workers of a
    machine add to, so that a path of a layer search is walked by the first trial that needs it.
    """

    def __init__(
        self,
        study: Study,
        label_free: bool = False,
        masks: str | None = None,
        observer: Observer = silent,
        shared: Path | None = None,
    ) -> None:
        self.study, self.label_free, self.masks, self.observer, self.shared = study, label_free, masks, observer, shared
        self.model = load_original(study.model).to(best_device())
        self.opened, self.frames, self.original = cache(self._opened), cache(self._frames), cache(self._original)

    def _frames(self, split: str) -> Frames:
        return self.opened(split).drawn(self.observer)

    def _opened(self, split: str) -> Frames:
        """The frames of a split, drawn when they are asked for."""
        data, count = with_split(self.study.data, split), getattr(self.study.frames, split)
        return hmr.frames(data, count, model=self.model, masks=self.masks, label_free=self.label_free)

    def _original(self, split: str) -> Measurement:
        """The original on a split; where a folder is shared, of all workers one measures it."""
        frames = self.frames(split)
        if self.shared is None:
            return frames.measure(self.model, f"original on {split}", self.observer)
        file = self.shared / f"{split}.safetensors"
        with FileLock(f"{file}.lock"):
            if not file.exists():
                found = frames.measure(self.model, f"original on {split}", self.observer)
                atomic_write(file, found.to_bytes())
            return Measurement.of_bytes(file.read_bytes(), frames)

    @cached_property
    def space(self) -> Space:
        """What is drawn; raises BadInput where no recipe of the study fits the model."""
        size = ModelSize.of(self.model)
        if not self.study.per_block:
            return Space(self.study, size)
        encoder = EncoderSizes.of(self.model, self.opened("calib").has_masks)
        return BlockSpace(self.study, size, encoder, self.measures)

    def measures(self) -> Measures:
        """What recipes of budgets follow from, taken on calib once."""
        return measures_of(self.model, self.context, self.opened("calib").has_masks)

    def after(self, steps: Sequence[Policy]) -> Space:
        """What is drawn behind steps of which a search for an error decides how many blocks they leave; where they or
        all that is behind them cannot be done, what is drawn anyway, which its measurement then says."""
        try:
            return Space(self.study, ModelSize.of(self.made(steps)[0]))
        except FAILURES:
            return self.space

    @cached_property
    def context(self) -> Context:
        """What all trials share."""
        return Context(self.model, self.frames("calib"), self.observer, shared=True)

    def budgeted(self, share: float) -> Recipe:
        """The recipe that a ranking on calib makes for a share of the MACs. Raises BadInput where it cannot."""
        return recipe_for(self.model, MACBudget(share), self.context, self.frames("calib").has_masks)

    def refuse(self, recipe: Recipe) -> None:
        """Raise BadInput where this model or these frames make a recipe impossible, before anything is measured."""
        if "accel_mm_per_frame2" in self.study.objectives:
            for split in ("val", "test"):
                if not self.opened(split).follow:
                    raise BadInput(
                        f"objectives: accel_mm_per_frame2 needs videos, and {self.opened(split).spec} has single ones"
                    )
        refuse_misfit(self.model, recipe.steps, self.opened("calib"), self.opened("val"))

    def measure(self, recipe: Recipe, others: Sequence[Record] = ()) -> Record:
        """A recipe planned on calib and measured on val. Raises BadInput where it cannot be done, and NoFurther where
        it is worse than one of `others`."""
        self.refuse(recipe)
        try:
            return self.record(recipe, *self.made(recipe.steps), "val", others)
        finally:
            self.context.forget("recover")  # of a worker that is killed it stays, and its trial goes on from there

    def made(self, steps: Sequence[Any]) -> tuple[Any, Context]:
        """The model after steps, of which those that are plans are done again without another look at frames."""
        context = self.context.fresh()
        return run_all_steps(self.model, steps, context), context

    def again(self, record: Record) -> dict[str, Record]:
        """The same model on test."""
        found = {"test": self.record(record.recipe, *self.made(record.plans), "test")}
        self.context.forget("recover")
        return found

    def recovered(self, record: Record) -> dict[str, Record]:
        """The model of a record after the study's recovery, on val and on test. What is rounded is rounded after it."""
        assert self.study.recover is not None  # who calls this has seen that the study asks for it
        step = self.study.recover.step
        pairs = [*zip(record.recipe.steps, record.plans, strict=True), (step, step)]
        pairs.sort(key=lambda pair: pair[0].stage)
        recipe = record.recipe.model_copy(update={"steps": tuple(spec for spec, _ in pairs)})
        model, context = self.made([planned for _, planned in pairs])
        found = {split: self.record(recipe, model, context, split) for split in ("val", "test")}
        self.context.forget("recover")
        return found

    def rival(self, name: str) -> dict[str, Record]:
        """Another model as it is, on val and on test."""
        other = hmr.load(name, adapter=self.study.model).to(best_device())
        recipe = Recipe(schema_version=1, name="as-it-is", steps=())
        context = Context(other)
        source = {"labels_of": self.model.sha256} if self.label_free else {}
        found = {split: self.record(recipe, other, context, split) for split in ("val", "test")}
        return {
            split: record.model_copy(update={"provenance": {**record.provenance, **source}})
            for split, record in found.items()
        }

    def record(self, recipe: Recipe, model: Any, context: Context, split: str, others: Sequence[Record] = ()) -> Record:
        """Everything that is measured of a model on a split, beside where it comes from. Raises as `measure`."""
        frames = self.frames(split)
        name = f"{'+'.join(step.label for step in recipe.steps) or 'original'} on {split}"
        now = None
        if model is not self.model and others:
            macs, rivals = model.cost().macs.true, [*map(per_recording, others)]
            now = measured_first(model, frames, name, self.observer, lambda seen: worse(seen, macs, rivals))
        elif model is not self.model:
            now = frames.measure(model, name, self.observer)
        original = self.original(split)  # after it: meanwhile another worker may have measured that
        now = now or original
        timed = {"latency_ms", "peak_memory_bytes"} & {*self.study.objectives}
        cost: dict[str, Any] = measured_cost(model) if timed else {}
        source = {
            **result_provenance(context, frames),
            "schema": "fasthmr.trial/1",
            "calib": self.frames("calib").described(),
        }
        record = of_row(row(name, None, model, now, original), recipe, context.plans, source)
        more = {
            "latency_ms": cost["latency_ms"]["median"] if cost else None,
            "peak_memory_bytes": cost.get("peak_memory_bytes"),
            "worst": worst(now.errors, original.errors, frames.recordings),
        }
        return record.model_copy(update=more)


def worst(now: Errors, original: Errors, recordings: Sequence[str]) -> tuple[Worst, ...]:
    """In the recordings that compression harms most on average, the frame that it harms most."""
    error = now.per_joint_mm.mean(1)
    rise = error - original.per_joint_mm.mean(1)  # (N,) mm
    members: dict[str, list[int]] = {}
    for i, recording in enumerate(recordings):
        members.setdefault(recording, []).append(i)
    ranked = sorted(members, key=lambda one: -rise[members[one]].mean().item())
    frames = {one: max(members[one], key=lambda i: rise[i].item()) for one in ranked[:WORST]}
    return tuple(
        Worst(clip=one, frame=i, mpjpe_mm=error[i].item(), rise_mm=rise[i].item()) for one, i in frames.items()
    )
