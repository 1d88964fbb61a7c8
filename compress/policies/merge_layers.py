"""ECLM: runs of consecutive blocks become one block each, as long as the error stays in a budget (FastHMR Sec. 3.1)."""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import BeforeValidator, Field, model_validator
from torch import nn

from compress.context import Context, fingerprint
from compress.errors import BadInput
from compress.late import LateStack, stack_of
from compress.layers import search
from compress.layers.late_trials import LateTrials
from compress.layers.operators import FITTED, Aim, Operator, first_weight, merged_block, smallest_window
from compress.layers.trials import Trials
from compress.layers.units import units_of, with_bias
from compress.policy import Compressible, Knob, MadeFor, ModelSize, Plan, Policy, knob, misuse, of_stack
from compress.stack import LinearBlock, evaluating


class MergeLayers(Policy):
    """Merge runs of blocks into one block each, or replace blocks and runs of them by linear maps; which ones, a search
    finds (see `compress.layers.search`) or the user gives."""

    stage: ClassVar[int] = 0
    bounded: ClassVar[tuple[str, ...]] = ("layers",)

    policy: Literal["merge_layers"] = "merge_layers"
    stack: str | None = of_stack()
    strategy: Literal[search.Strategy, "explicit"] = Field(
        "window", description="how runs are found: Alg. 1, best or most alike first, or given"
    )
    operator: Operator = Field(
        "slm",
        description="how a run becomes one block; linear: a block or a run, a linear map; fold: one with a map in it",
    )
    aim: Aim = Field(
        "run",
        description="linear, fold: fitted to what the run makes of the tokens that reach it, or made of the original's",
        exclude_if=lambda aim: aim == "run",  # so that recipes without it keep their ids
    )
    threshold_mm: float = Field(
        0.1, ge=0, description="the error on calib rises by less; paper: 0.1", json_schema_extra=knob(0.0, 5.0, 0.25)
    )
    windows: Annotated[search.Windows, BeforeValidator(lambda given: tuples(given))] | None = Field(
        None,
        description="explicit: [first, last] block of each run, both included, blocks count from 0; with linear, the "
        "first may be the last",
    )
    layers: int | None = Field(
        None, ge=1, description="greedy, cka: blocks to leave, instead of a threshold", json_schema_extra=knob(1, 32, 1)
    )
    commit_open_window: bool = Field(True, description="window: merge a run that reaches block 0; false: as printed")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.strategy == "explicit" and self.windows is None:
            raise misuse("strategy", "strategy: explicit needs windows")
        of_strategy = {
            "windows": ("explicit",),
            "layers": ("greedy", "cka"),
            "threshold_mm": ("window", "greedy", "cka"),
            "commit_open_window": ("window",),
        }
        idle = [field for field, strategies in of_strategy.items() if self.strategy not in strategies]
        self.refuse_changed(idle, f"with strategy: {self.strategy}")
        if self.operator not in FITTED:
            self.refuse_changed(("aim",), f"with operator: {self.operator}")
        if self.layers is not None:
            self.refuse_changed(("threshold_mm",), "beside layers, which takes its place")
        try:
            search.explicit(self.windows or (), smallest=smallest_window(self.operator))
        except BadInput as wrong:
            raise misuse("windows", str(wrong)) from wrong
        return self

    @property
    def needs_calib(self) -> bool:
        return self.strategy != "explicit" or self.operator in FITTED

    @property
    def sizes_by_error(self) -> bool:
        return self.strategy != "explicit" and self.layers is None

    def knobs(self, size: ModelSize | None = None) -> dict[str, Knob]:
        idle = self.strategy == "explicit" or self.layers is not None
        return {name: knob for name, knob in super().knobs(size).items() if not (name == "threshold_mm" and idle)}

    def largest(self, size: ModelSize) -> dict[str, int]:
        return {"layers": size.depth(self.stack)}

    def fit(self, size: ModelSize) -> ModelSize:
        """As many blocks as `layers` or `windows` leave; a threshold may leave all. Raises as `check`."""
        smallest, depth = smallest_window(self.operator), size.depth(self.stack)
        windows = search.explicit(self.windows or (), depth, smallest)
        left = search.blocks_left(windows, depth, smallest) if self.layers is None else self.layers
        if self.layers is not None and self.layers > depth:
            raise BadInput(f"layers: {self.layers} blocks cannot be left of {depth}")
        return size.with_depth(self.stack, left)

    def check(self, model: Compressible) -> None:
        """Raise BadInput where `model` has no such stack, or one too shallow for `windows` or `layers`."""
        stack = stack_of(model, self.stack)
        self.fit(ModelSize.of(model).with_depth(self.stack, len(stack.blocks)))

    def plan(self, model: Compressible, context: Context) -> LayerPlan:
        """Search for the windows to merge; `model` stays as it is.

        The search keeps every trial in a journal, from which one that was killed goes on, and activations in at most
        MEMORY bytes (see `Trials`); block evaluations in the plan are those of this run alone. Raises BadInput as
        `Policy.plan`.
        """
        self.check(model)
        refuse_schedule(model, self.stack)
        if self.strategy == "explicit":
            return self._planned(model, context, self.windows or (), {})
        kind = "shared-searches" if context.shared else "searches"  # the latter go when their artefact is saved
        # a late stack is searched behind what the steps before it left
        behind = () if self.stack is None else (self.stack, *(plan.decided() for plan in context.plans))
        way = (self.operator,) if self.aim == "run" else (self.operator, self.aim)
        with context.place(kind, *way, *behind) as path, evaluating(model):
            trials = trials_of(model, self.stack, context, self.operator, self.aim)
            result = self._searched(trials, context, search.TrialJournal(path.with_suffix(".jsonl")))
        counts = {"block_evaluations": {"run": trials.run, "plain": trials.plain}, "activation_bytes": trials.memory}
        return self._planned(model, context, result.windows, measurements(result) | counts)

    def outline(self, model: Compressible) -> LayerPlan:
        if self.windows is None:
            super().outline(model)
        maps = ("",) * len(self.windows or ()) if self.operator in FITTED else ()
        made_for, windows = MadeFor.of(model, self.stack), self.windows or ()
        return LayerPlan(
            stack=self.stack, made_for=made_for, windows=windows, operator=self.operator, aim=self.aim, maps=maps
        )

    def _planned(
        self, model: Compressible, context: Context, windows: search.Windows, measured: dict[str, Any]
    ) -> LayerPlan:
        """The plan for these windows, the weights of whose maps go to `context.weights`."""
        maps = fitted_maps(model, self.stack, context, windows, self.operator, self.aim)
        names = tuple(map(fingerprint, maps))
        context.weights.update({name: block.state_dict() for name, block in zip(names, maps, strict=True)})
        return LayerPlan(
            stack=self.stack,
            made_for=MadeFor.of(model, self.stack),
            windows=windows,
            operator=self.operator,
            aim=self.aim,
            maps=names,
            measured=measured,
        )

    def _searched(
        self,
        trials: Trials | LateTrials,
        context: Context,
        known: MutableMapping[search.Windows, float],
    ) -> search.SearchResult:
        """What the search finds; where others work on the same journal, a greedy one walks its path with them."""
        depth = len(trials.blocks)

        def show(progress: search.TrialProgress) -> None:
            detail = f"{list(map(list, progress.windows))}: {progress.error:.2f} mm"
            context.observer("merging layers", detail, progress.done, progress.total)

        def to(layers: int | None) -> search.SearchResult:
            return search.error_constrained(
                trials,
                depth,
                cast(search.Strategy, self.strategy),
                threshold=self.threshold_mm,
                layers=layers,
                similarity=near,
                commit_open_window=self.commit_open_window,
                smallest=trials.smallest,
                known=known,
                progress=show,
            )

        near: list[float] = []
        if self.strategy == "cka":  # of two blocks that may merge, or of what goes into a block and what comes out
            near = trials.similarities(trials.smallest == 1)
        if context.shared and self.strategy == "greedy" and self.layers is not None:
            for left in range(depth, self.layers, -1):
                search.spread(trials, to(left).windows, depth, known, trials.smallest)
        return to(self.layers)


class LayerPlan(Plan):
    """Which runs of blocks become one block, or a linear map, and how."""

    noun: ClassVar[str] = "the plan to merge layers"

    policy: Literal["merge_layers"] = "merge_layers"
    windows: search.Windows
    operator: Operator = "slm"
    aim: Aim = Field("run", exclude_if=lambda aim: aim == "run")
    # sha256 of W and c of each window, or of the block that a map is folded into; without any it stays out of JSON
    maps: tuple[str, ...] = Field((), exclude_if=lambda maps: not maps)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        search.explicit(self.windows, self.made_for.depth, smallest_window(self.operator))
        if len(self.maps) != (len(self.windows) if self.operator in FITTED else 0):
            raise ValueError(f"{len(self.windows)} windows of operator {self.operator} have {len(self.maps)} maps")
        return self

    @property
    def empty(self) -> bool:
        return not self.windows

    def check(self, model: Compressible) -> None:
        super().check(model)
        refuse_schedule(model, self.stack)

    def describe(self) -> str:
        of = "" if self.stack is None else f" of {self.stack}"
        if self.empty:
            return f"No blocks{of} were merged: each merge raised the error by more than the threshold."
        runs = ", ".join(f"{low} to {high}" if low < high else str(low) for low, high in self.windows)
        noun = "Block" if runs.isdigit() else "Blocks"
        one = "one linear map" if self.operator == "linear" else "one block"
        each = one if len(self.windows) == 1 else f"{one} each"
        aimed = "" if self.aim == "run" else ", fitted to the original's tokens"
        merged = f"{noun} {runs}{of} became {each}, by operator {self.operator}{aimed}."
        if not self.measured:
            return merged
        before, after, depths = (self.measured[key] for key in ("original_mm", "error_mm", "path"))
        error = f"On calib the error went from {before:.1f} to {after:.1f} mm"
        return f"{merged} {error}; the search tried {len(depths)} depths."

    def shape(self, model: Any) -> Any:
        """Leave as many blocks and maps as planned, of any weights. Raises as `check`."""
        runs = self._runs(model)
        if self.operator == "linear":
            return self._replaced(model, [LinearBlock(self.made_for.dim).to(first_weight(run[0])) for run in runs])
        if self.operator == "fold":
            for run in runs:
                with_bias(units_of(stack_of(model, self.stack), run[0]).down)
        return self._replaced(model, [run[0] for run in runs])

    def apply(self, model: Any, context: Context) -> Any:
        """Put the merged blocks or the maps in place of the runs. Maps that `context.weights` has not are fitted again.

        Raises as `check`, and BadInput where they cannot be, or come out otherwise.
        """
        runs = self._runs(model)
        if self.operator not in FITTED:
            return self._replaced(model, [merged_block(run, self.operator) for run in runs])
        if any(name not in context.weights for name in self.maps):
            again = fitted_maps(model, self.stack, context, self.windows, self.operator, self.aim)
            if tuple(map(fingerprint, again)) != self.maps:
                raise BadInput("these linear maps were fitted on other frames or another machine: make the plan again")
            context.weights.update({name: one.state_dict() for name, one in zip(self.maps, again, strict=True)})
        states = [context.weights[name] for name in self.maps]
        if self.operator == "linear":
            return self._replaced(model, [LinearBlock.of(**state) for state in states])
        model = self.shape(model)
        kept = [i for i, run in enumerate(search.runs_of(self.windows, self.made_for.depth)) if run in self.windows]
        for place, state in zip(kept, states, strict=True):
            stack_of(model, self.stack).blocks[place].load_state_dict(state)
        return model

    def _runs(self, model: Any) -> list[list[nn.Module]]:
        """The blocks of each window."""
        self.check(model)
        blocks = list(stack_of(model, self.stack).blocks)
        return [blocks[low : high + 1] for low, high in self.windows]

    def _replaced(self, model: Any, by: Sequence[nn.Module]) -> Any:
        """`model` with `by`, one for each window, in their place."""
        if self.empty:
            return model
        stack = stack_of(model, self.stack)
        if isinstance(stack, LateStack):
            by = [stack.map_of(block) if isinstance(block, LinearBlock) else block for block in by]
        replacements, blocks = dict(zip(self.windows, by, strict=True)), list(stack.blocks)
        runs = search.runs_of(self.windows, self.made_for.depth)
        left = [replacements.get(run, blocks[run[0]]) for run in runs]
        stack.blocks = nn.ModuleList(left)
        if [*map(id, stack_of(model, self.stack).blocks)] != [*map(id, left)]:
            raise RuntimeError(f"{len(self.windows)} windows were to be merged and the model kept all of its blocks")
        return model


MergeLayers.makes = LayerPlan


def trials_of(
    model: Compressible, stack: str | None, context: Context, operator: Operator, aim: Aim
) -> Trials | LateTrials:
    """Trials of a stack of a model on the context's frames."""
    found = stack_of(model, stack)
    if isinstance(found, LateStack):
        return LateTrials(model, found, context.judge, operator, aim)
    return Trials(found, context.judge, operator, aim=aim)


def fitted_maps(
    model: Compressible,
    stack: str | None,
    context: Context,
    windows: search.Windows,
    operator: Operator = "linear",
    aim: Aim = "run",
) -> list[nn.Module]:
    """What stands for each window of a stack by an operator of FITTED, fitted on the context's frames from the lowest
    up, each on the tokens that those below it leave; none by another. Raises BadInput where there are no frames, or the
    model's tokens are not finite."""
    if not windows or operator not in FITTED:
        return []
    with evaluating(model):
        maps = trials_of(model, stack, context, operator, aim).blocks_for(windows)
    for window, block in zip(windows, maps, strict=True):
        if not all(value.isfinite().all() for value in block.state_dict().values()):
            raise BadInput(f"no linear map fits blocks {list(window)}: their tokens are not finite on these frames")
    return maps


def tuples(given: Any) -> Any:
    """Lists of lists, as YAML has them, as tuples of tuples; anything else as it is."""
    return tuple(tuple(x) if isinstance(x, list) else x for x in given) if isinstance(given, list | tuple) else given


def measurements(result: search.SearchResult) -> dict[str, Any]:
    """What a search measured, as JSON values."""
    path = [
        {"layers": step.depth, "windows": [list(window) for window in step.windows], "error_mm": finite(step.error)}
        for step in result.path
    ]
    return {"error_mm": finite(result.error), "original_mm": finite(result.path[0].error), "path": path}


def finite(error: float) -> float | None:
    """JSON knows no infinity."""
    return error if math.isfinite(error) else None


def refuse_schedule(model: Compressible, stack: str | None) -> None:
    """Raise BadInput where `model` has fewer tokens on the way through an encoder whose blocks are to merge: its
    schedule counts the blocks there are now."""
    if stack is None and (any(model.schedule.merges) or model.schedule.drop):
        raise BadInput("this model reduces its tokens already: put merge_layers before merge_tokens")
