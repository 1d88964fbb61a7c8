"""ECLM: runs of consecutive blocks become one block each, as long as the error stays in a budget (FastHMR Sec. 3.1)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from compress import layer_search as search
from compress.context import Context
from compress.errors import BadInput
from compress.frames import Judge
from compress.policy import Compressible, Knob, MadeFor, Plan, Policy, knob, misuse
from compress.similarity import MEMORY, layer_similarity, neighbours
from compress.stack import Stack, through
from compress.tokens import Tokens

State = Mapping[str, Tensor]
Operator = Literal["slm", "mean", "drop"]


def slm(run: Sequence[State]) -> dict[str, Tensor]:
    """The block in the place of a run i .. i + n: theta_i + sum_k (theta_{i+k} - theta_i), k = 1 .. n (FastHMR Eq. 4,
    from sliding layer merging, arXiv:2502.19159).

    That is the sum of the upper n blocks less n - 1 times the lowest, and computed so. For a pair it is the upper block
    alone: this operator merges two blocks by dropping the lower one. Raises BadInput as `combined`.
    """
    return combined(run, lambda values: total(values[1:]) - (len(values) - 2) * values[0].double())


def mean(run: Sequence[State]) -> dict[str, Tensor]:
    """The block in the place of a run: the mean of all. Raises BadInput as `combined`."""
    return combined(run, lambda values: total(values) / len(values))


def drop(run: Sequence[State]) -> dict[str, Tensor]:
    """The block in the place of a run: the lowest alone. Raises BadInput as `combined`."""
    return combined(run, lambda values: values[0])


OPERATORS: dict[Operator, Callable[[Sequence[State]], dict[str, Tensor]]] = {"slm": slm, "mean": mean, "drop": drop}


def combined(run: Sequence[State], rule: Callable[[list[Tensor]], Tensor]) -> dict[str, Tensor]:
    """rule(values of the blocks, lowest first) of every parameter, in its own type again.

    Integers (indices, counts) are the lowest block's. Raises BadInput where the blocks are not of one shape, or were
    rounded to int8, whose integers mean nothing under another block's scales.
    """
    first = run[0]
    if any(value.dtype == torch.int8 for value in first.values()):
        raise BadInput("blocks in int8 cannot be merged: put merge_layers before precision")
    for state in run[1:]:
        for name in {**first, **state}:
            if name not in first or name not in state or first[name].shape != state[name].shape:
                raise BadInput(f"blocks of unlike shape ({name}) cannot be merged: put merge_layers before prune_width")
    return {
        name: rule([state[name] for state in run]).to(value.dtype) if value.is_floating_point() else value
        for name, value in first.items()
    }


def total(values: Sequence[Tensor]) -> Tensor:
    """The sum, in float64."""
    return cast(Tensor, sum(value.double() for value in values))


def merged_block(blocks: Sequence[nn.Module], operator: Operator) -> nn.Module:
    """A new block in the place of a run of them, lowest first; they stay as they are."""
    block = copy.deepcopy(blocks[0])
    block.load_state_dict(OPERATORS[operator]([other.state_dict() for other in blocks]))
    return block


class MergeLayers(Policy):
    """Merge runs of blocks into one block each, found by a search or given (see `compress.layer_search`)."""

    stage: ClassVar[int] = 0

    policy: Literal["merge_layers"] = "merge_layers"
    strategy: Literal[search.Strategy, "explicit"] = Field(
        "window", description="how runs are found: Alg. 1, best or most alike first, or given"
    )
    operator: Operator = Field("slm", description="how a run becomes one block")
    threshold_mm: float = Field(
        0.1, ge=0, description="the error on calib rises by less; paper: 0.1", json_schema_extra=knob(0.0, 5.0, 0.25)
    )
    windows: Annotated[search.Windows, BeforeValidator(lambda given: tuples(given))] | None = Field(
        None, description="explicit: [first, last] block of each run, both included, blocks count from 0"
    )
    layers: int | None = Field(
        None, ge=1, description="greedy, cka: blocks to leave, instead of a threshold", json_schema_extra=knob(1, 32, 1)
    )
    commit_open_window: bool = Field(True, description="window: merge a run that reaches block 0; false: as printed")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.strategy == "explicit" and self.windows is None:
            raise misuse("strategy", "strategy: explicit needs windows")
        for field, strategies in {
            "windows": ("explicit",),
            "layers": ("greedy", "cka"),
            "threshold_mm": ("window", "greedy", "cka"),
            "commit_open_window": ("window",),
        }.items():
            default = type(self).model_fields[field].default
            if self.strategy not in strategies and getattr(self, field) != default:
                raise misuse(field, f"{field} has no meaning with strategy: {self.strategy}")
        if self.layers is not None and self.threshold_mm != type(self).model_fields["threshold_mm"].default:
            raise misuse("threshold_mm", "threshold_mm has no meaning beside layers, which takes its place")
        try:
            search.explicit(self.windows or ())
        except BadInput as wrong:
            raise misuse("windows", str(wrong)) from wrong
        return self

    @property
    def needs_calib(self) -> bool:
        return self.strategy != "explicit"

    def knobs(self) -> dict[str, Knob]:
        idle = self.strategy == "explicit" or self.layers is not None
        return {name: found for name, found in super().knobs().items() if not (name == "threshold_mm" and idle)}

    def check(self, model: Compressible) -> None:
        """Raise BadInput where `model` is too shallow for `windows` or `layers`."""
        depth = len(model.stack.blocks)
        search.explicit(self.windows or (), depth)
        if self.layers is not None and self.layers > depth:
            raise BadInput(f"layers: {self.layers} blocks cannot be left of {depth}")

    def plan(self, model: Compressible, context: Context) -> LayerPlan:
        """Search for the windows to merge; `model` stays as it is.

        The search keeps every trial in a journal, from which one that was killed goes on, and activations in at most
        MEMORY bytes (see `Trials`); block evaluations in the plan are those of this run alone. Raises BadInput as
        `Policy.plan`.
        """
        self.check(model)
        refuse_schedule(model)
        made_for = MadeFor.of(model)
        if self.strategy == "explicit":
            return LayerPlan(made_for=made_for, windows=self.windows or (), operator=self.operator)
        kind = "shared-searches" if context.shared else "searches"  # the latter go when their artefact is saved
        with context.place(kind, self.operator) as path, evaluating(model):
            trials = Trials(model.stack, context.judge, self.operator)
            found = self._searched(trials, model, context, search.Journal(path.with_suffix(".jsonl")))
        counts = {"block_evaluations": {"run": trials.run, "plain": trials.plain}, "activation_bytes": trials.memory}
        measured = measurements(found) | counts
        return LayerPlan(made_for=made_for, windows=found.windows, operator=self.operator, measured=measured)

    def _searched(
        self, trials: Trials, model: Compressible, context: Context, known: MutableMapping[search.Windows, float]
    ) -> search.Found:
        """What the search finds; where others work on the same journal, a greedy one walks its path with them."""
        depth = len(model.stack.blocks)

        def show(progress: search.Progress) -> None:
            detail = f"{list(map(list, progress.windows))}: {progress.error:.2f} mm"
            context.observer("merging layers", detail, progress.done, progress.total)

        def to(layers: int | None) -> search.Found:
            return search.error_constrained(
                trials,
                depth,
                cast(search.Strategy, self.strategy),
                threshold=self.threshold_mm,
                layers=layers,
                similarity=near,
                commit_open_window=self.commit_open_window,
                known=known,
                progress=show,
            )

        near = neighbours(layer_similarity(model.stack, trials.judge.crops, band=1)) if self.strategy == "cka" else ()
        if context.shared and self.strategy == "greedy" and self.layers is not None:
            for left in range(depth, self.layers, -1):
                search.spread(trials, to(left).windows, depth, known)
        return to(self.layers)


class LayerPlan(Plan):
    """Which runs of blocks become one block, and how."""

    noun: ClassVar[str] = "the plan to merge layers"

    policy: Literal["merge_layers"] = "merge_layers"
    windows: search.Windows
    operator: Operator = "slm"

    @model_validator(mode="after")
    def _possible(self) -> Self:
        search.explicit(self.windows, self.made_for.depth)
        return self

    @property
    def empty(self) -> bool:
        return not self.windows

    @property
    def left(self) -> int:
        """Blocks after merging."""
        return search.blocks_left(self.windows, self.made_for.depth)

    def check(self, model: Compressible) -> None:
        super().check(model)
        refuse_schedule(model)

    def describe(self) -> str:
        if self.empty:
            return "No blocks were merged: each merge raised the error by more than the threshold."
        runs = ", ".join(f"{low} to {high}" for low, high in self.windows)
        each = "one block" if len(self.windows) == 1 else "one block each"
        merged = f"Blocks {runs} became {each}, by operator {self.operator}."
        if not self.measured:
            return merged
        before, after, depths = (self.measured[key] for key in ("original_mm", "error_mm", "path"))
        return f"{merged} On calib the error went from {before:.1f} to {after:.1f} mm, by way of {len(depths)} depths."

    def shape(self, model: Any) -> Any:
        """Leave as many blocks as planned, of any weights. Raises as `check`."""
        return self._replaced(model, lambda run: run[0])

    def apply(self, model: Any, context: Context) -> Any:
        """Put the merged blocks in place of the runs. Raises as `check`."""
        return self._replaced(model, lambda run: merged_block(run, self.operator))

    def _replaced(self, model: Any, block: Callable[[list[nn.Module]], nn.Module]) -> Any:
        self.check(model)
        if self.empty:
            return model
        blocks, runs = list(model.stack.blocks), search.runs_of(self.windows, self.made_for.depth)
        left = [block(blocks[low : high + 1]) if low < high else blocks[low] for low, high in runs]
        model.stack.blocks = nn.ModuleList(left)
        if len(model.stack.blocks) != self.left:
            raise RuntimeError(f"{len(self.windows)} windows were to be merged and the model kept all of its blocks")
        return model


MergeLayers.makes = LayerPlan


class Trials:
    """The error of a stack with some windows merged; runs only the blocks that can differ from what has run before.

    The search goes from the last block to the first, so what lies below a trial's lowest new window is the settled
    model's. Its tokens on the way are kept for all batches, on the model's device, and a trial starts from the nearest
    ones below its window. They take at most `memory` bytes, 0.94 MiB a frame and block at HMR2.0's size in float32;
    where those of all blocks do not fit, every k-th block's are kept, and the blocks between run again: of 32 blocks
    that do not merge, six kept leave 59 % of the block evaluations to run, four 62 %, one 76 %. Errors are those of
    running everything, to the bit.

    `run` counts blocks times batches that did run, `plain` what running every trial whole would have taken.
    """

    def __init__(self, stack: Stack, judge: Judge, operator: Operator, memory: int = MEMORY) -> None:
        self.stack, self.judge, self.operator, self.memory = stack, judge, operator, memory
        self.blocks = list(stack.blocks)
        self.settled = search.runs_of((), len(self.blocks))
        self.kept: list[dict[int, Tokens]] = [{} for _ in judge.crops]  # per batch: what goes into the i-th settled run
        self.places = range(0)  # the blocks whose input is kept
        self.merged: dict[search.Window, nn.Module] = {}
        self.run = self.plain = 0

    @torch.no_grad()
    def __call__(self, windows: search.Windows, settled: search.Windows = ()) -> float:
        """Mean error in mm over all frames of the judge."""
        self._settle(search.runs_of(settled, len(self.blocks)))
        runs = search.runs_of(windows, len(self.blocks))
        self.merged = {window: self.merged.get(window) or self._merged(window) for window in windows}
        blocks = [self.merged[run] if run in self.merged else self.blocks[run[0]] for run in runs]
        shared = min(common(runs, self.settled), len(self.settled) - 2)  # any further, and nothing is left to try
        errors = [self._errors(index, blocks, shared) for index in range(len(self.judge.crops))]
        self.plain += len(blocks) * len(errors)
        return torch.cat(errors).double().mean().item()

    def _merged(self, window: search.Window) -> nn.Module:
        return merged_block(self.blocks[window[0] : window[1] + 1], self.operator)

    def _settle(self, runs: list[search.Window]) -> None:
        """Forget what the model that is settled now does not share."""
        same, self.settled = common(runs, self.settled), runs
        self.kept = [{i: tokens for i, tokens in kept.items() if i <= same} for kept in self.kept]

    def _errors(self, index: int, blocks: list[nn.Module], shared: int) -> Tensor:
        """Errors (B,) in mm of one batch; on the way, keeps what goes into the first `shared` + 1 blocks."""
        kept = self.kept[index]
        start = max((i for i in kept if i <= shared), default=-1)
        tokens = kept[start] if start >= 0 else self._embedded(index)
        start = max(start, 0)
        stops = [i for i in self.places if start < i <= shared]
        for stop in [*stops, len(blocks)]:
            tokens = through(self.stack, blocks[start:stop], tokens)
            self.run += stop - start
            start = stop
            if stop <= shared:
                kept[stop] = tokens
        return self.judge.errors(index, self.stack.finish(tokens))

    def _embedded(self, index: int) -> Tokens:
        tokens = self.stack.embed(self.judge.crops[index])
        frames = sum(len(crop) for crop in self.judge.crops)
        self.places = kept_places(len(self.blocks), self.memory // (frames * frame_bytes(tokens)))
        if 0 in self.places:
            self.kept[index][0] = tokens
        return tokens


def kept_places(depth: int, room: int) -> range:
    """Of `depth` blocks, at most `room` whose input is kept: all that a trial can start from, or every k-th.

    The last block's input is none of them, since a window takes two. Where room is short, so is the first one's, which
    would save the embedding alone.
    """
    if room >= depth - 1:
        return range(depth - 1)
    step = math.ceil((depth - 1) / (room + 1))
    return range(step, depth - 1, step)


def frame_bytes(tokens: Tokens) -> int:
    """Bytes of one frame's tokens."""
    parts = (tokens.x, tokens.size, tokens.protected, tokens.source)
    return sum(part.nbytes for part in parts) // len(tokens.x)


def common(runs: Sequence[search.Window], others: Sequence[search.Window]) -> int:
    """How many runs are the same, from the first on."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(runs, others, strict=False)))


def tuples(given: Any) -> Any:
    """Lists of lists, as YAML has them, as tuples of tuples; anything else as it is."""
    return tuple(tuple(x) if isinstance(x, list) else x for x in given) if isinstance(given, list | tuple) else given


def measurements(found: search.Found) -> dict[str, Any]:
    """What a search measured, as JSON values."""
    path = [
        {"layers": step.depth, "windows": [list(window) for window in step.windows], "error_mm": finite(step.error)}
        for step in found.path
    ]
    return {"error_mm": finite(found.error), "original_mm": finite(found.path[0].error), "path": path}


def finite(error: float) -> float | None:
    """JSON knows no infinity."""
    return error if math.isfinite(error) else None


def refuse_schedule(model: Compressible) -> None:
    """Raise BadInput where `model` has fewer tokens on the way: its schedule counts the blocks there are now."""
    if any(model.schedule.merges) or model.schedule.drop:
        raise BadInput("this model reduces its tokens already: put merge_layers before merge_tokens")


@contextmanager
def evaluating(model: Compressible) -> Iterator[None]:
    """The model in evaluation mode, and every module of it in its own mode again afterwards."""
    modules = list(cast(nn.Module, model).modules())
    modes = [module.training for module in modules]
    try:
        cast(nn.Module, model).eval()
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
