"""Which closed-form operator leaves least error at equal MACs: `python -m experiments.paper.equal_macs.closed_form`.

On `reference` and on Dinov2 and DINOv3ViT of transformers with random weights. Each operator takes the places that move
the joints least for what they save, of those tried one by one on calib, until it has saved as much as one or four of
the linear maps that `merge_layers` makes. Operators are fitted in order, each on the tokens of the model compressed
so far. What is compared is how far joints move from the original's on val, frame by frame.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import hmr
from compress.atomic import atomic_write
from compress.context import Observer
from compress.provenance import provenance
from compress.ranking.budget import BlockSize, block_sizes, prefix_of
from compress.stack import through
from compress.tokens import Tokens
from experiments.cli.main import ended
from experiments.cli.output import progress_bar, progress_callback
from experiments.paper.equal_macs.operators import AIMED, OPERATORS, after
from hmr.data.dataset import Frames
from hmr.data.sample import batch
from hmr.evaluation.intervals import interval, paired_interval
from hmr.models.own_model import OwnModel
from hmr.published.headed import package_of

MAPS = (1, 4)  # linear maps whose saving the others have to reach
LINEAR = next(iter(OPERATORS))
JOINTS = 17
WIDTH = 64
SMALL = {"hidden_size": WIDTH, "num_hidden_layers": 8, "num_attention_heads": 4, "initializer_range": 0.1}
Halves = frozenset[tuple[int, str]]


@dataclass(frozen=True)
class PlacedOperator:
    """An operator at a place, and by how many mm it moves joints there alone."""

    operator: str
    place: int
    moved: float
    saved: int  # multiply-accumulates

    @property
    def halves(self) -> Halves:
        one = OPERATORS[self.operator]
        kinds = ("attention", "mlp") if one.half == "both" else (one.half,)
        return frozenset((i, kind) for i in range(self.place, self.place + one.blocks) for kind in kinds)


class SaidJoints:
    """Crops of a split and what `said(index, tokens)`, joints (B, J, 3) in mm, makes of their finished tokens; `truth`
    are the labels' joints, where there are any."""

    def __init__(
        self,
        frames: Frames,
        crops: Sequence[Tensor],
        said: Callable[[int, Tokens], Tensor],
        truth: Sequence[Tensor] | None = None,
    ) -> None:
        self.recordings, self.crops, self.said, self.truth = frames.recordings, crops, said, truth


class Subject:
    """A model and its two splits."""

    def __init__(self, name: str, model: Any, calib: SaidJoints, val: SaidJoints) -> None:
        self.name, self.model, self.calib, self.val = name, model, calib, val
        self.stack, self.blocks = model.stack, list(model.stack.blocks)
        self.sizes: list[BlockSize] = block_sizes(model)
        self.count = model.grid[0] * model.grid[1] + prefix_of(model)
        self.total = model.cost().macs.true

    @cached_property
    def passed(self) -> list[list[Tokens]]:
        """The original's tokens of all calib batches, before each block and behind the last."""
        return self.through_all(self.calib)

    @cached_property
    def passed_on_val(self) -> list[list[Tokens]]:
        return self.through_all(self.val)

    def through_all(self, split: SaidJoints) -> list[list[Tokens]]:
        tokens = [self.stack.embed(crop) for crop in split.crops]
        found = [tokens]
        for block in self.blocks:
            found.append(tokens := after(self.stack, [block], tokens))
        return found

    def distances(self, split: SaidJoints, index: int, tokens: Tokens, aim: Tensor) -> Tensor:
        """How far joints lie from `aim` (B,), in mm."""
        return (split.said(index, self.stack.finish(tokens)) - aim).norm(dim=-1).mean(-1)

    def changes(self, operator: str) -> Iterator[PlacedOperator]:
        """An operator at each place by itself, looked at on the first batch of calib."""
        one = OPERATORS[operator]
        aim = self.calib.said(0, self.stack.finish(self.passed[-1][0]))
        for i in range(len(self.blocks) + 1 - one.blocks):
            end = i + one.blocks
            made = one.make(self.stack, self.blocks[i:end], self.passed[i], self.passed[end])
            tokens = through(self.stack, [*flat(made), *self.blocks[end:]], self.passed[i][0])
            moved = self.distances(self.calib, 0, tokens, aim).mean().item()
            yield PlacedOperator(operator, i, moved, one.saves(self.sizes[i], self.count))

    def built(self, changes: Sequence[PlacedOperator]) -> list[nn.Module]:
        """The blocks after all changes, each fitted behind those below it; of a block's halves, the attention first."""
        i = min((change.place for change in changes), default=0)
        blocks, tokens = self.blocks[:i], self.passed[i]
        while i < len(self.blocks):
            here = sorted((c for c in changes if c.place == i), key=lambda c: OPERATORS[c.operator].half)
            run, end = self.blocks[i : i + 1], i + 1
            for change in here:
                one = OPERATORS[change.operator]
                end = i + one.blocks
                given = self.blocks[i:end] if one.blocks > 1 else run
                run = flat(one.make(self.stack, given, tokens, self.passed[end]))
            tokens = after(self.stack, run, tokens)
            blocks, i = [*blocks, *run], end
        return blocks

    def joints(self, blocks: Sequence[nn.Module]) -> list[Tensor]:
        """On val (B, J, 3), in mm; the original's blocks at the start are not run again."""
        pairs = enumerate(zip(blocks, self.blocks, strict=False))
        start = next((i for i, (mine, own) in pairs if mine is not own), 0)
        tokens = after(self.stack, blocks[start:], self.passed_on_val[start])
        return [self.val.said(i, self.stack.finish(one)) for i, one in enumerate(tokens)]


def flat(made: nn.Module) -> list[nn.Module]:
    return list(made) if isinstance(made, nn.Sequential) else [made]


def chosen(found: Sequence[PlacedOperator], target: float) -> list[PlacedOperator] | None:
    """Those that move joints least for what they save, in squares, until `target` is saved; None where it is not. No
    part of a block changes twice."""
    taken: list[PlacedOperator] = []
    for one in sorted(found, key=lambda change: change.moved**2 / change.saved):
        if sum(change.saved for change in taken) >= target:
            break
        if not any(one.halves & other.halves for other in taken):
            taken.append(one)
    return taken if sum(change.saved for change in taken) >= target else None


@torch.no_grad()
def rows_of(subject: Subject, observer: Observer) -> Iterator[dict[str, Any]]:
    """A row for each operator, and for all of them together, at each target."""
    found: dict[str, list[PlacedOperator]] = {}
    for number, name in enumerate(OPERATORS):
        observer(f"{subject.name}: one by one", name, number, len(OPERATORS))
        alone = LINEAR if name == AIMED else name  # alone, both are the same
        found[name] = [replace(c, operator=name) for c in (found.get(alone) or subject.changes(alone))]
    every = [change for name, changes in found.items() for change in changes if name != AIMED]
    ways = {**found, "all of these": every}
    original = subject.joints(subject.blocks)
    each = OPERATORS[LINEAR].saves(subject.sizes[0], subject.count)
    for maps in MAPS:
        first: Tensor | None = None
        for number, (name, changes) in enumerate(ways.items()):
            observer(f"{subject.name}: as {maps} maps", name, number, len(ways))
            if (taken := chosen(changes, 0.99 * maps * each)) is None:
                continue
            said = subject.joints(subject.built(taken))
            moved = errors(said, original)
            first = moved if first is None else first
            yield row(subject, name, maps, taken, moved, first, said, original)


def errors(said: Sequence[Tensor], aim: Sequence[Tensor]) -> Tensor:
    """Mean distance over joints of each frame (N,), in mm."""
    return torch.cat([(a - b).norm(dim=-1).mean(-1) for a, b in zip(said, aim, strict=True)]).double()


def row(
    subject: Subject,
    name: str,
    maps: int,
    taken: Sequence[PlacedOperator],
    moved: Tensor,
    first: Tensor,
    said: Sequence[Tensor],
    original: Sequence[Tensor],
) -> dict[str, Any]:
    """The figures of a model as JSON values: `over_linear_mm` is paired with the linear maps of the same target."""
    clips, truth = subject.val.recordings, subject.val.truth
    found = {
        "model": subject.name,
        "name": name,
        "maps": maps,
        "places": [[change.operator, change.place] for change in sorted(taken, key=lambda c: c.place)],
        "macs_share": 1 - sum(change.saved for change in taken) / subject.total,
        "distance_mm": asdict(interval(moved.numpy(), clips)),
        "over_linear_mm": asdict(paired_interval(moved.numpy(), first.numpy(), clips)),
        "mpjpe_mm": None,
        "mpjpe_rise_mm": None,
    }
    if truth is not None:
        now, before = errors(said, truth), errors(original, truth)
        found["mpjpe_mm"] = asdict(interval(now.numpy(), clips))
        found["mpjpe_rise_mm"] = asdict(paired_interval(now.numpy(), before.numpy(), clips))
    return found


def said_by(judge: Any) -> Callable[[int, Tokens], Tensor]:
    """Joints in mm as a judge of bodies has them."""
    return lambda index, tokens: 1000 * judge.joints(index, tokens)


def open_model(count: int) -> Subject:
    """`reference` on rendered people."""
    model = hmr.load("reference")
    splits = []
    for split in ("calib", "val"):
        frames = hmr.frames(f"synth:{split}", count, model=model)
        judge: Any = frames.judge(model)
        truth = [1000 * joints for joints in judge.truth]
        splits.append(SaidJoints(frames, judge.crops, said_by(judge), truth))
    return Subject("reference", model, *splits)


def random_model(name: str, count: int) -> Subject:
    """A small Dinov2 or DINOv3ViT of transformers with random weights, and a random head for its class token."""
    transformers: Any = package_of("transformers")
    torch.manual_seed(0)
    own = {"mlp_ratio": 4} if name == "Dinov2" else {"intermediate_size": 256, "num_register_tokens": 4}
    config = getattr(transformers, f"{name}Config")(**SMALL, **own, image_size=128, patch_size=16)
    network = getattr(transformers, f"{name}Model")(config).eval()
    head = 100 * torch.randn(WIDTH, JOINTS * 3) / WIDTH**0.5  # mm
    blocks = "encoder.layer" if name == "Dinov2" else "model.layer"
    model = OwnModel(network, lambda module, tokens: tokens, (128, 96), blocks=blocks).eval()

    def said(index: int, tokens: Tokens) -> Tensor:
        return (tokens.x[:, 0] @ head).unflatten(1, (JOINTS, 3))

    splits = []
    for split in ("calib", "val"):
        frames = hmr.frames(f"synth:{split}", count, size=(128, 96))
        splits.append(SaidJoints(frames, crops_of(frames), said))
    return Subject(f"{name}, random weights", model, *splits)


def crops_of(frames: Frames) -> list[Tensor]:
    samples = list(frames)
    return [batch(samples[i : i + 32]).crops for i in range(0, len(samples), 32)]


def main(
    out: Annotated[Path, typer.Option(help="The .json file to write.")],
    frames: Annotated[int, typer.Option(min=2, help="Frames of calib to fit on, and of val to report on.")] = 64,
    models: Annotated[list[str] | None, typer.Option(help="reference, Dinov2, DINOv3ViT; all if unset.")] = None,
) -> None:
    """Measure them all."""
    rows: list[dict[str, Any]] = []
    with progress_bar() as bar:
        for name in models or ["reference", "Dinov2", "DINOv3ViT"]:
            subject = open_model(frames) if name == "reference" else random_model(name, frames)
            rows += rows_of(subject, progress_callback(bar))
    source = provenance("closed-form", None, torch.device("cpu")) | {"frames": frames}
    atomic_write(out, json.dumps({"rows": rows, "provenance": source}, indent=1, allow_nan=False).encode())
    for one in rows:
        typer.echo(f"{one['model']:24} {one['maps']} {one['name']:42} {one['macs_share']:.3f} {one['over_linear_mm']}")


if __name__ == "__main__":
    ended(lambda: typer.run(main))
