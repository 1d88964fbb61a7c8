"""Other levers at equal MACs: `python -m experiments.paper.equal_macs.levers --out levers.json`.

Patches kept by importance in the place of a mask or beside it, a smaller picture, and one set of weights for several
numbers of patches: each beside dropping background by the mask, at as many MACs or fewer. Choices are made on calib
and rows measured on val, which is where levers are chosen. Recoveries follow the original's outputs alone; one that was
killed goes on from its checkpoint in $FASTHMR_HOME/levers, where the parts of this command find them: remove that
folder when all are done.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import hmr
from compress.atomic import atomic_write
from compress.card import formatted
from compress.context import Observer
from compress.errors import BadInput
from compress.pipeline import result_provenance, run_all_steps
from compress.policies.merge_tokens import MergeTokens
from compress.policies.prune_width import PruneWidth
from compress.training.loop import Progress
from experiments.cli.main import ended
from experiments.cli.output import progress_bar, progress_callback
from experiments.paper.equal_macs.closed_form import errors
from experiments.paper.equal_macs.following import RING, Answers, dropping, recovered
from experiments.paper.equal_macs.importance import (
    PER_LAYER,
    RankedModel,
    Ranking,
    SmallerPicture,
    macs_of,
    most_within,
)
from experiments.paper.equal_macs.shares import SharesComparison
from hmr.evaluation.intervals import interval, paired_interval

GRID = (12, 9)  # of the smaller picture
FEW = 64  # patches of the second target
NUMBERS = (FEW, 80, 128)  # patches that one set of weights drops to, beside as many as the smaller picture pays for
RANKED = (  # what `recipe_for` finds within the smaller picture's MACs on 24 frames of calib, in minutes
    PruneWidth(heads=(4, *[6] * 11), hidden=(1344, *[1536] * 4, *[1152] * 2, *[768] * 5), refit=True),
    MergeTokens(mode="drop", keep=128, dilate=RING),
)
PARTS = ("importance", "merging", "pictures", "numbers")
SCORES = {
    "norm": "its norm",
    "class": "the class token's attention",
    "query": "the head's query's attention",
    "whole": "all that the head attends to, found for nothing",
}
MASKS = {None: "no mask", 0: "the person first", RING: "the person and a ring first"}
DEPTHS = (0, 1, 3)  # blocks that may see every token
Errors = dict[str, Any]  # of each frame (N,), by what is measured
Row = dict[str, Any]


class Levers:
    """The original, frames to choose on and to report on, and what all levers are held against."""

    def __init__(self, model: Any, frames: int, calib_frames: int, steps: int, observer: Observer) -> None:
        self.model, self.steps, self.observer = model, steps, observer
        self.val = SharesComparison(model, "synth:val", frames, calib_frames, observer)
        self.context, self.total = self.val.context, macs_of(model)
        self.before = errors(self.val.original, self.val.truth).numpy()
        self.smaller = SmallerPicture(model, GRID)
        self.target = macs_of(self.smaller)
        self.keep = self.affordable(self.target)

    def dropped(self, keep: int, model: Any = None) -> Any:
        """The original, or another `model`, dropping to `keep` patches by the mask."""
        return dropping(copy.deepcopy(model or self.model), keep)

    # ---- rows

    def row(self, group: str, name: str, model: Any, rival: Errors | None, **more: Any) -> tuple[Row, Errors]:
        """The figures of a model as JSON values, and its errors; what is `over_rival` is paired with the rival's, which
        is itself where there is none."""
        self.observer(group, name, 0, 1)
        now, clips = self.val.moved(model), self.val.frames.recordings
        other = rival or now
        return {
            "group": group,
            "name": name,
            **more,
            "macs_share": macs_of(model) / self.total,
            "distance_mm": asdict(interval(now["distance"], clips)),
            "distance_over_rival_mm": asdict(paired_interval(now["distance"], other["distance"], clips)),
            "mpjpe_mm": asdict(interval(now["mpjpe"], clips)),
            "mpjpe_rise_mm": asdict(paired_interval(now["mpjpe"], self.before, clips)),
            "mpjpe_over_rival_mm": asdict(paired_interval(now["mpjpe"], other["mpjpe"], clips)),
        }, now

    def together(self, group: str, models: Sequence[tuple[str, Any, dict[str, Any]]]) -> Iterator[Row]:
        """Rows of several models, (name, model, what else is said of it), the first of which is the others' rival."""
        rival: Errors | None = None
        for name, model, more in models:
            row, found = self.row(group, name, model, rival, **more)
            rival = rival or found
            yield row

    def rows(self, parts: Sequence[str]) -> Iterator[Row]:
        """Those of some of PARTS, in that order."""
        for part in parts:
            yield from getattr(self, part)()

    # ---- importance

    def importance(self) -> Iterator[Row]:
        """Dropping by each score at both targets."""
        for keep in (self.keep, FEW):
            yield from self.by_importance(keep)

    def by_importance(self, keep: int) -> Iterator[Row]:
        """Dropping by each score, without a mask and with it, at the MACs of dropping to `keep` patches by the mask."""
        rival = self.dropped(keep)
        models = [("the mask and a ring", rival, {"keep": keep})]
        for score, told in SCORES.items():
            for rings, mask in MASKS.items() if score != "whole" or keep == FEW else ():
                found = self.best_ranking(score, rings, macs_of(rival), keep)
                models.append((f"{told}, {mask}", found, {"keep": found.keep, **asdict(found.ranking)}))
        yield from self.together(f"dropping as the mask to {keep}", models)

    def best_ranking(self, score: Any, rings: int | None, wanted: int, keep: int, merge: bool = False) -> RankedModel:
        """The one of a score that moves joints least on calib. A pass that costs nothing takes as many as the rival."""
        found = [
            RankedModel(self.model, one, keep if score == "whole" else self.affordable(wanted, one, merge), merge)
            for one in rankings(score, rings)
        ]
        return min(found, key=self.moved_on_calib) if len(found) > 1 else found[0]

    def affordable(self, wanted: int, ranking: Ranking | None = None, merge: bool = False) -> int:
        """Patches that a ranking, or the mask, may leave within `wanted` MACs; no mask or sign makes a difference."""

        def make(keep: int) -> Any:
            return self.dropped(keep) if ranking is None else RankedModel(self.model, ranking, keep, merge)

        at = ranking.at if ranking else 0
        key = ("keep", ranking and (ranking.score, at), merge, wanted)
        return self.context.remembered(key, lambda: most_within(make, self.model, wanted, at, merge))

    @torch.no_grad()
    def moved_on_calib(self, model: Any) -> float:
        """How far joints lie from the original's, in mm."""
        self.observer("choosing on calib", "", 0, 1)
        aim = self.context.remembered("said", lambda: self.said_on_calib(self.model))
        return float(errors(self.said_on_calib(model), aim).mean())

    @torch.no_grad()
    def said_on_calib(self, model: Any) -> list[Tensor]:
        """Joints (B, J, 3) in mm of each batch of calib."""
        judge: Any = self.context.judge
        every = enumerate(zip(judge.crops, judge.masks, strict=True))
        return [1000 * judge.joints(i, model.encode(crop, mask), model) for i, (crop, mask) in every]

    def merging(self) -> Iterator[Row]:
        """Who merges last: by the mask, nobody, or by each score."""

        def merged(keep: int, **how: Any) -> Any:
            step = MergeTokens(keep=keep, per_layer=PER_LAYER, **how)
            return run_all_steps(self.model, (step,), self.context.fresh())

        wanted, models = macs_of(self.dropped(self.keep)), []
        for name, how in (("the mask and a ring", {"dilate": RING}), ("ToMe, nobody", {"protect": "none"})):
            keep = most_within(partial(merged, **how), self.model, wanted, merge=True)
            models.append((name, merged(keep, **how), {"keep": keep}))
        for score in ("norm", "class", "query"):
            for rings in (None, RING):
                best = self.best_ranking(score, rings, wanted, self.keep, merge=True)
                more = {"keep": best.keep, **asdict(best.ranking)}
                models.append((f"{SCORES[score]}, {MASKS[rings]}", best, more))
        yield from self.together(f"merging as the mask drops to {self.keep}", models)

    # ---- recovered

    def follow(self, name: str, student: Any) -> Any:
        """A student after its recovery."""

        def show(now: Progress) -> None:
            self.observer(f"recovering: {name}", f"step {now.step}", now.step, self.steps)

        return recovered(name, student, self.answers, self.context, self.steps, show)

    @cached_property
    def answers(self) -> Answers:
        return Answers(self.model, self.context.pictures)

    @cached_property
    def followed(self) -> dict[int, Any]:
        """The weights that recovered dropping to a number of patches, by that number."""
        return {keep: self.follow(f"drop to {keep}", self.dropped(keep)) for keep in (FEW, self.keep)}

    def pictures(self) -> Iterator[Row]:
        """A smaller picture beside as many MACs by the mask, and by the ranking's recipe."""
        told = {"steps": [step.model_dump(mode="json") for step in RANKED]}
        ranked, smaller = run_all_steps(self.model, RANKED, self.context.fresh()), f"a picture of {_by(GRID)} patches"
        ways: list[tuple[str, Any, dict[str, Any]]] = [
            (f"drop to {self.keep}", self.dropped(self.keep), {"keep": self.keep}),
            (smaller, self.smaller, {}),
            ("the ranking's recipe", ranked, told),
        ]
        yield from self.together("a smaller picture, as it is", ways)
        after = [self.followed[self.keep], *(self.follow(name, student) for name, student, _ in ways[1:])]
        yield from self.together(
            "a smaller picture, recovered", [(ways[i][0], one, ways[i][2]) for i, one in enumerate(after)]
        )

    def numbers(self) -> Iterator[Row]:
        """Each set of weights at each number of patches. `mpjpe_over_own_mm` is paired with the weights that recovered
        for that number."""
        sets = {"the original's weights": self.model}
        sets |= {f"recovered for {keep}": weights for keep, weights in self.followed.items()}
        for keep in sorted({*NUMBERS, self.keep}):
            own = self.val.moved(self.followed[keep])["mpjpe"] if keep in self.followed else None
            rival: Errors | None = None
            for name, weights in sets.items():
                row, found = self.row(f"{keep} patches", name, self.dropped(keep, weights), rival, keep=keep)
                rival = rival or found
                paired = None if own is None else paired_interval(found["mpjpe"], own, self.val.frames.recordings)
                yield row | {"mpjpe_over_own_mm": paired and asdict(paired)}


def rankings(score: Any, rings: int | None) -> list[Ranking]:
    """Rankings by a score: as early as can be and, without a mask, after each of DEPTHS; by the largest and, of norms,
    the smallest."""
    depths = [0] if score == "whole" else [at for at in DEPTHS if at or score == "norm"]
    plain = [Ranking(score, at, 1, rings) for at in (depths if rings is None else depths[:1])]
    return [*plain, *(replace(one, sign=-1) for one in plain if score == "norm")]


def _by(grid: tuple[int, int]) -> str:
    return f"{grid[0]} x {grid[1]}"


def main(
    out: Annotated[Path, typer.Option(help="The .json file to write.")],
    model: Annotated[str, typer.Option(help="A model on DINOv2 to compress.")] = "reference",
    frames: Annotated[int, typer.Option(min=2, help="Frames of synth:val that report.")] = 44,
    calib_frames: Annotated[int, typer.Option(min=1, help="Frames of synth:calib to choose on.")] = 24,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each recovery.")] = 48,
    part: Annotated[list[str] | None, typer.Option(help=f"Some of {', '.join(PARTS)}; all if unset.")] = None,
) -> None:
    """Measure them all. Raises BadInput for a part that there is not."""
    if unknown := {*(part or ())} - {*PARTS}:
        raise BadInput(f"--part {unknown.pop()}: there is no such part: choose some of {', '.join(PARTS)}")
    rows: list[Row] = []
    with progress_bar() as bar:
        levers = Levers(hmr.load(model), frames, calib_frames, steps, progress_callback(bar))
        rows.extend(levers.rows(part or PARTS))
    source = result_provenance(levers.context, levers.val.frames) | {"schema": "fasthmr.levers/1"}
    atomic_write(out, json.dumps({"rows": rows, "provenance": source}, indent=1, allow_nan=False).encode())
    for row in rows:
        over = formatted(row["mpjpe_over_rival_mm"], "+.1f")
        typer.echo(f"{row['group']:36} {row['name']:60} {row['macs_share']:.3f} {over}")


if __name__ == "__main__":
    ended(lambda: typer.run(main))
