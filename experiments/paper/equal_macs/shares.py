"""What a ranking's recipes cost beside recipes by hand at equal MACs: `python -m experiments.paper.equal_macs.shares`.

No recipe has been recovered. Errors are how far joints move from the original's, which is what a user without labels
sees, and MPJPE.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import hmr
from compress.atomic import atomic_write
from compress.card import formatted
from compress.context import Context, Observer
from compress.pipeline import result_provenance, run_all_steps
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.ranking.budget import MACBudget, Steps, counted, recipe_for, windows_of
from compress.recipe import Recipe
from experiments.cli.main import ended
from experiments.cli.output import progress_bar, progress_callback
from experiments.paper.equal_macs.closed_form import errors
from hmr.data.datasets import with_split
from hmr.evaluation.intervals import interval, paired_interval

SHIPPED = ("quickstart", "fasthmr-reference")  # their shares are looked at too
RANKING = "the ranking's recipe"
PER_LAYER = 40


def by_hand(depth: int, patches: int) -> dict[str, list[Steps]]:
    """Families of recipes without a choice on frames, each from the dearest to the cheapest."""
    keeps = range(patches - 1, patches // 5, -1)  # of what is left, one matching takes half at most
    return {
        "tokens, the person's last": [(MergeTokens(keep=n, per_layer=PER_LAYER),) for n in keeps],
        "tokens, ToMe": [(MergeTokens(keep=n, per_layer=PER_LAYER, protect="none"),) for n in keeps],
        "depth, evenly spread maps": [(spread_maps(depth, n),) for n in range(1, depth)],
    }


def spread_maps(depth: int, maps: int) -> MergeLayers:
    """Linear maps in the place of some blocks, as far apart as can be."""
    places = {round((i + 0.5) * depth / maps - 0.5) for i in range(maps)}
    return MergeLayers(strategy="explicit", operator="linear", windows=windows_of(places))


def dearest_within(model: Any, ways: Sequence[Steps], wanted: float) -> Steps | None:
    """The first of `ways`, which get cheaper, that takes at most `wanted` MACs; None where none does."""
    low, high = 0, len(ways)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if counted(model, ways[middle]) <= wanted else (middle + 1, high)
    return ways[low] if low < len(ways) else None


def without_training(name: str) -> Steps:
    """A shipped recipe's steps, with the block named that its search finds on 128 frames of calib."""
    found = Recipe.load("fasthmr-reference-video").steps[0]
    steps = (step for step in Recipe.load(name).steps if not step.trains)
    return tuple(found if step.policy == "merge_layers" else step for step in steps)


def cases(model: Any, context: Context, shares: Sequence[float]) -> Iterator[tuple[float, str, Steps]]:
    """(share, name, steps) of all rows, the ranking's first of each share."""
    total, families = model.cost().macs.true, by_hand(len(model.stack.blocks), model.grid[0] * model.grid[1])
    for share in shares:
        yield share, RANKING, recipe_for(model, MACBudget(share), context.fresh(), protect=True).steps
        for name, ways in families.items():
            if (steps := dearest_within(model, ways, share * total)) is not None:
                yield share, name, steps


class SharesComparison:
    """A model, frames to choose on and frames to report on."""

    def __init__(self, model: Any, data: str, frames: int, calib_frames: int, observer: Observer) -> None:
        self.model, self.observer = model, observer
        calib = hmr.frames(with_split(data, "calib"), calib_frames, model=model)
        self.frames = hmr.frames(data, frames, model=model).drawn(observer)
        self.context = Context(model, calib.drawn(observer), observer)
        judge: Any = self.frames.judge(model)
        self.judge, self.truth = judge, [1000 * joints for joints in judge.truth]
        self.original = self.said(model)

    @torch.no_grad()
    def said(self, model: Any) -> list[Tensor]:
        """Joints (B, J, 3) in mm of each batch."""
        every = enumerate(zip(self.judge.crops, self.judge.masks, strict=True))
        return [1000 * self.judge.joints(i, model.encode(crop, mask), model) for i, (crop, mask) in every]

    def moved(self, model: Any) -> dict[str, Any]:
        """Errors of a model, as arrays over frames (N,)."""
        said = self.said(model)
        return {"distance": errors(said, self.original).numpy(), "mpjpe": errors(said, self.truth).numpy()}

    def rows(self, shares: Sequence[float]) -> Iterator[dict[str, Any]]:
        """A row for each case; what is `over` is paired with the ranking's recipe of the same share."""
        clips, total = self.frames.recordings, self.model.cost().macs.true
        before = errors(self.original, self.truth).numpy()
        first: dict[str, Any] = {}
        shipped = {counted(self.model, without_training(name)) / total: name for name in SHIPPED}
        for share, name, steps in self.every([*shipped, *shares], shipped):
            self.observer(f"{share:.2f} of the MACs", name, 0, 1)
            made = run_all_steps(self.model, steps, self.context.fresh())
            now = self.moved(made)
            first = now if name == RANKING else first
            yield {
                "share": share,
                "name": name,
                "steps": [step.model_dump(mode="json") for step in steps],
                "macs_share": made.cost().macs.true / total,
                "distance_mm": asdict(interval(now["distance"], clips)),
                "distance_over_ranking_mm": asdict(paired_interval(now["distance"], first["distance"], clips)),
                "mpjpe_mm": asdict(interval(now["mpjpe"], clips)),
                "mpjpe_rise_mm": asdict(paired_interval(now["mpjpe"], before, clips)),
            }

    def every(self, shares: Sequence[float], shipped: dict[float, str]) -> Iterator[tuple[float, str, Steps]]:
        """All cases, and the shipped recipe at the share that it keeps."""
        for share, name, steps in cases(self.model, self.context, shares):
            yield share, name, steps
            if name == RANKING and share in shipped:
                yield share, shipped[share], without_training(shipped[share])


def main(
    out: Annotated[Path, typer.Option(help="The .json file to write.")],
    data: Annotated[str, typer.Option(help="Frames that report, such as synth:test.")] = "synth:test",
    model: Annotated[str, typer.Option(help="The model to compress.")] = "reference",
    frames: Annotated[int, typer.Option(min=2, help="Frames that report.")] = 66,
    calib_frames: Annotated[int, typer.Option(min=1, help="Frames of calib to choose on.")] = 64,
    share: Annotated[list[float] | None, typer.Option(help="A share of the MACs, beside those of recipes.")] = None,
) -> None:
    """Measure them all."""
    with progress_bar() as bar:
        comparison = SharesComparison(hmr.load(model), data, frames, calib_frames, progress_callback(bar))
        rows = list(comparison.rows(share or [0.35]))
    source = result_provenance(comparison.context, comparison.frames)
    atomic_write(out, json.dumps({"rows": rows, "provenance": source}, indent=1, allow_nan=False).encode())
    for row in rows:
        moved, rise = (formatted(row[key]) for key in ("distance_mm", "mpjpe_rise_mm"))
        typer.echo(f"{row['macs_share']:.3f} {row['name']:28} {moved:24} {rise}")


if __name__ == "__main__":
    ended(lambda: typer.run(main))
