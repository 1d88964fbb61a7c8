"""Study files: what to search over, on what model and frames, and what is asked of the trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from pydantic import Field, ValidationError, model_validator

from compress.choices import nearest
from compress.errors import BadInput
from compress.files import document
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.recover import Recover
from compress.policy import FrozenModel, Knob, ModelSize, Policy, misuse
from compress.recipe import Recipe
from compress.registry import Step, policy_in

Objective = Literal["macs", "latency_ms", "mpjpe_mm", "accel_mm_per_frame2", "peak_memory_bytes"]
Sampler = Literal["tpe", "nsga2", "random", "gp", "budgets"]
Lever = Literal["merge_layers", "prune_width", "merge_tokens"]
COSTS = ("macs", "latency_ms")
Span = tuple[float | str, ...]  # [low, high] or [low, high, step]


class Split(FrozenModel):
    """At most so many frames of each split: a trial makes its choices on calib, a study its own on val, and results are
    reported on test."""

    calib: int | None = Field(None, ge=1)
    val: int | None = Field(None, ge=1)
    test: int | None = Field(None, ge=1)


class Best(FrozenModel):
    """What happens to the best points of the front: recovery for longer than each trial of a search has time for."""

    points: int = Field(2, ge=1, description="those that the front would lose most without (hypervolume)")
    minutes: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"

    @property
    def step(self) -> Recover:
        return Recover(minutes=self.minutes, steps=self.steps, precision=self.precision)

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.minutes is None) == (self.steps is None):
            raise misuse("minutes" if self.steps else "points", "recover needs either minutes or steps, and not both")
        return self


class Study(FrozenModel):
    """`MODEL` and `DATA` as on the command line. What is searched are knobs of `steps`."""

    schema_version: int = Field(ge=1, le=1)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    model: str
    data: str = Field(description="DATA without a split: calib, val and test all have their part")
    frames: Split = Split()
    steps: tuple[Step, ...]
    space: dict[str, Annotated[Span, Field(min_length=2, max_length=3)]] = Field(
        default_factory=dict,
        description="policy.field: [low, high] or [low, high, step], within the field's knob; what is not named stays "
        "as in steps, and where nothing is named, every knob is searched",
    )
    per_block: tuple[Lever, ...] = Field(
        (), description="policies with knobs for each block of the model, before steps: none of them is among these"
    )
    objectives: tuple[Objective, ...] = ("macs", "mpjpe_mm")
    sampler: Sampler = "tpe"
    seed: int = Field(0, ge=0)
    max_error_mm: float | None = Field(None, gt=0, description="a trial whose MPJPE on val is above is infeasible")
    baselines: tuple[str, ...] = Field((), description="RECIPEs made by hand")
    budgets: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (), description="shares of the true MACs: baselines that follow from a ranking and no search"
    )
    rivals: tuple[str, ...] = Field((), description="other MODELs, measured as they are")
    recover: Best | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._recipe()
        if len({*self.objectives}) < max(2, len(self.objectives)):
            raise misuse("objectives", "name two or more objectives, each once")
        if "mpjpe_mm" not in self.objectives or not {*COSTS} & {*self.objectives}:
            raise misuse("objectives", "objectives need an error, mpjpe_mm, and a cost, macs or latency_ms")
        if ":" in self.data.partition("@")[0]:
            raise misuse("data", f"'{self.data}' names a split: leave it out, a study uses calib, val and test")
        for step in self.steps:
            if step.trains and "steps" not in step.knobs():
                what = f"leave {step.policy} out, or give recover steps, not minutes"
                raise misuse("steps", f"trials do not train, but for a recovery of so many steps: {what}")
            if step.trains and self.recover:
                raise misuse("recover", "steps have a recovery of every trial already: leave one of both out")
            if step.model_specific:
                raise misuse("steps", f"{step.policy} fits one model, and each trial makes another: leave it out")
        if self.per_block and (early := [step.policy for step in self.steps if step.stage < 2]):
            raise misuse("steps", f"{early[0]} goes before what per_block makes of each block: leave it out")
        if self.sampler == "budgets" and not self.per_block:
            raise misuse("sampler", "budgets draws recipes block by block: name policies in per_block")
        if not self.knobs() and not self.per_block:
            raise misuse("steps", "these steps have no knobs, so there is nothing to search")
        self.ranges()
        return self

    def _recipe(self) -> Recipe:
        """The steps as a recipe. Raises a misuse, of a field of theirs, where they are none."""
        try:
            return Recipe(schema_version=1, name=self.name, steps=self.steps)
        except ValidationError as error:
            raise misuse(**error.errors()[0]["ctx"]) from error

    @property
    def recipe(self) -> Recipe:
        """The steps as they stand, that every drawn recipe is a variation of."""
        return self._recipe()

    def knobs(self, size: ModelSize | None = None) -> dict[str, Knob]:
        """The policies' own, by `policy.field`, in the order in which they are drawn; for a model of some size, as far
        as that goes."""
        return {f"{step.label}.{field}": knob for step in self.steps for field, knob in step.knobs(size).items()}

    def bounded(self) -> list[str]:
        """Those that the size of a model bounds."""
        return [f"{step.label}.{field}" for step in self.steps for field in step.bounded]

    def ranges(self, size: ModelSize | None = None) -> dict[str, Knob]:
        """What is searched: the knobs that `space` names, narrowed, or all where it names none. Raises a misuse where
        that cannot be, and BadInput where a range lies beyond a model of this size."""
        own, most = self.knobs(), self.knobs(size)
        named = {name: narrowed(name, span, own, self.bounded()) for name, span in self.space.items()}
        found = {name: named.get(name, most[name]) for name in own if name in named or not named}
        for name, knob in found.items():
            if knob.low > most[name].high:
                raise BadInput(f"space: {name}: begins at {knob.low:g}, and in this model ends at {most[name].high:g}")
        return {name: knob.up_to(min(knob.high, most[name].high)) if size else knob for name, knob in found.items()}

    def distributions(self) -> dict[str, BaseDistribution]:
        """The ranges in optuna's words."""
        return {name: distribution(knob) for name, knob in self.ranges().items()}

    def drawn(self, values: dict[str, Any]) -> Recipe:
        """The recipe of values by `policy.field`; raises BadInput where they contradict each other."""
        chosen = words(values, self.knobs())
        try:
            steps = tuple(turned(step, chosen) for step in self.steps)
            return Recipe(schema_version=1, name=self.name, steps=steps)
        except ValidationError as error:
            raise BadInput(f"{chosen}: {error.errors()[0]['msg']}") from error

    def made_by_hand(self) -> dict[str, Recipe]:
        """The baselines, that are measured before anything is drawn: by what they are."""
        alone = {f"{step.label} alone": (step,) for step in self.steps if not step.trains}
        named = {name: Recipe.load(name).steps for name in self.baselines}
        for name, steps in named.items():
            if trained := [step.policy for step in steps if step.trains or step.model_specific]:
                raise BadInput(f"baselines: {name} has {trained[0]}, and trials do not train: name a recipe without")
        sets: dict[str, tuple[Policy, ...]] = {"original": (), **alone, "all steps": self.steps, "FastHMR": PAPER}
        sets |= named
        recipes = {name: Recipe(schema_version=1, name=self.name, steps=steps) for name, steps in sets.items()}
        first = {recipe.id: name for name, recipe in reversed(recipes.items())}
        return {name: recipe for name, recipe in recipes.items() if first[recipe.id] == name}


# FastHMR (arXiv:2510.10868) Sec. 3.1, 3.2: Alg. 1 with tau = 0.1 mm, then 192 tokens become 90, 40 a layer.
PAPER = (MergeLayers(strategy="window", threshold_mm=0.1), MergeTokens(keep=90, per_layer=40))


def read_study(path: str) -> Study:
    """The study of a YAML file; raises BadInput with every mistake in it."""
    return parsed(document.read_text(path), path)


def parsed(text: str, file: str) -> Study:
    """The study in the YAML or JSON `text` of `file`; raises BadInput with every mistake in it."""
    return document.parse(text, file, Study, policy_in)


def turned(step: Policy, values: dict[str, Any]) -> Policy:
    """A step with its knobs turned; raises ValidationError where that contradicts its other fields."""
    mine = {field: values[f"{step.label}.{field}"] for field in step.knobs() if f"{step.label}.{field}" in values}
    return type(step)(**{**step.model_dump(exclude_unset=True), **mine})


def distribution(knob: Knob) -> BaseDistribution:
    """A knob in optuna's words. Choices too are integers there: those of a study cannot change later."""
    if knob.whole:
        return IntDistribution(int(knob.low), int(knob.high), step=int(knob.step))
    return FloatDistribution(knob.low, knob.high, step=knob.step)


def narrowed(name: str, span: Sequence[float | str], knobs: dict[str, Knob], bounded: Sequence[str]) -> Knob:
    """A knob that goes from span[0] to span[1], in its own steps or some of them; raises a misuse where it cannot. How
    far `bounded` ones go is the model's to say."""
    if name not in knobs:
        raise misuse("space", f"there is no knob '{name}' in these steps: {nearest(name, knobs)}")
    knob = knobs[name]
    places = [knob.choices.index(str(v)) if v in knob.choices else v for v in span]
    numbers = [value for value in places if not isinstance(value, str)]
    low, high, step = (*numbers, knob.step)[:3] if len(numbers) == len(span) else (1.0, 0.0, 1.0)
    on_grid = all(((value - knob.low) / knob.step).is_integer() for value in (low, high))
    inside = knob.low <= low <= high and (high <= knob.high or name in bounded)
    if not (on_grid and inside and step > 0 and (step / knob.step).is_integer() and ((high - low) / step).is_integer()):
        end = "the model's" if name in bounded else knob.high
        goes = ", ".join(knob.choices) if knob.choices else f"{knob.low} to {end} in steps of {knob.step}"
        raise misuse("space", f"{name}: {list(span)} is not part of the knob's range, {goes}")
    kind = int if knob.whole else float
    return Knob(kind(low), kind(high), kind(step), knob.choices)


def words(values: dict[str, Any], ranges: dict[str, Knob]) -> dict[str, Any]:
    """Values as a recipe has them, where optuna counts words."""
    return {name: ranges[name].choices[value] if ranges[name].choices else value for name, value in values.items()}
