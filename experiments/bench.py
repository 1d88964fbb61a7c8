"""`make bench`: the time that merging saves beside the multiply-accumulates it saves, at HMR2.0's or another size.

Weights are random: time does not depend on them. What matching and merging cost by themselves is among the stages.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from compress.atomic import atomic_write
from compress.choices import one_of
from compress.context import Context
from compress.cost.timing import timed
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policy import Policy
from compress.provenance import provenance
from compress.stack import Schedule, encode, merge
from compress.tokens import Tokens
from experiments.cli.main import ended
from hmr.models.device import best_device
from hmr.models.model import HMRModel, build
from hmr.models.vit import Backbone

WINDOWS = {"hmr2": (24, 28), "reference": (9, 10)}  # an eighth of the layers goes, as in the paper's Tab. 12
BASELINE = "tuned"
PROTECTED = 0.35  # of the tokens, about what a person takes of a crop
PRECISIONS = (torch.float32, torch.bfloat16)


def shortened(vit: Backbone, blocks: int) -> Any:
    """`vit` with the first few of its blocks, which it shares; which ones are left makes no difference to time."""
    short = copy.copy(vit)
    short._modules = {**vit._modules, "blocks": vit.blocks[:blocks]}
    return short


class Upstream:
    """A ViT with attention as 4D-Humans has it: two products around a softmax, nothing fused, and no keys."""

    def __init__(self, vit: Backbone) -> None:
        self.vit = vit

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vit, name)

    def attend(self, block: Any, tokens: Tokens, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        layer = block.attn
        qkv = layer.qkv(block.norm1(tokens.x)).unflatten(-1, (3, layer.heads, -1))  # (B, N, 3, H, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, N, d)
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1)  # (B, H, N, N)
        return block.ls1(layer.proj((weights @ v).transpose(1, 2).flatten(2))), tokens.x[:, None, :, :0]


@dataclass(frozen=True)
class Case:
    """A way to run the model."""

    stack: Any  # a Stack
    schedule: Schedule
    macs: int  # true ones of a frame


def cases_of(model: HMRModel, steps: Mapping[str, Policy]) -> dict[str, Case]:
    """The baseline as upstream and tuned, then `steps` on top of each other; all share the weights of `model`."""
    vit = model.backbone
    with torch.device("meta"):
        bare = build(model.architecture, model.sizes.model_dump()).eval()
    macs = bare.cost().macs.true
    cases = {
        "upstream": Case(Upstream(vit), Schedule(), macs),
        BASELINE: Case(vit, Schedule(), macs),
    }
    for name, step in steps.items():
        bare = step.plan(bare, Context(bare)).shape(bare)
        macs = bare.cost().macs.true
        cases[name] = Case(shortened(vit, len(bare.stack.blocks)), bare.schedule, macs)
    return cases


def steps_of(architecture: str) -> dict[str, Policy]:
    """What the paper does to HMR2.0, step by step."""
    return {
        "eclm": MergeLayers(strategy="explicit", windows=(WINDOWS[architecture],)),
        "eclm+mask_tome": MergeTokens(keep=90, per_layer=40),
    }


def bench(
    model: HMRModel, steps: Mapping[str, Policy], batch: int, rounds: int, device: torch.device
) -> dict[str, Any]:
    """Time `model` in both precisions, which it changes: medians of `rounds` rounds that run everything in turn.

    Returns {cases, stages} as `python -m experiments.bench` writes them.
    """
    torch.manual_seed(0)
    cases = cases_of(model, steps)
    person = persons(batch, model.grid[0] * model.grid[1]).to(device)
    result: dict[str, Any] = {"cases": [], "stages": []}
    for dtype in PRECISIONS:
        model.to(device, dtype).eval()
        crop = torch.randn(batch, 3, *model.crop_size, device=device, dtype=dtype)
        with torch.inference_mode():
            calls = {name: runner(model, case, crop, person) for name, case in cases.items()}
            for name, case in cases.items():
                calls |= {f"{name}/{stage}": call for stage, call in stages_of(model, case, crop, person).items()}
        seconds = {name: median(runs) for name, runs in timed(calls, rounds, device).items()}
        precision = str(dtype).removeprefix("torch.")
        result["cases"] += [row(name, precision, cases, seconds) for name in cases]
        result["stages"] += [share for name in cases for share in shares(name, precision, seconds)]
    return result


def persons(batch: int, patches: int) -> Tensor:
    """Protected patches (B, N0), as many in each frame, anywhere."""
    return torch.rand(batch, patches).argsort(1) < round(PROTECTED * patches)


def runner(model: HMRModel, case: Case, crop: Tensor, person: Tensor) -> Callable[[], object]:
    """Encoder and head."""
    return lambda: model.head(encode(case.stack, crop, person, case.schedule).x)


def stages_of(model: HMRModel, case: Case, crop: Tensor, person: Tensor) -> dict[str, Callable[[], object]]:
    """Calls that run one stage of a case, on tokens of its shapes. The blocks are what the whole takes beyond them."""
    tokens = case.stack.embed(crop).protecting(person)
    batch, _, width = tokens.x.shape
    lefts = case.schedule.counts(tokens.x.shape[1], len(case.schedule.merges))
    heads = model.sizes.heads
    keys = [torch.randn(batch, heads, left + r, width // heads, device=crop.device, dtype=crop.dtype)
            for left, r in zip(lefts, case.schedule.merges, strict=True)]  # fmt: skip

    def merging() -> Tokens:
        merged = tokens
        for key, r in zip(keys, case.schedule.merges, strict=True):
            merged = merge(merged, key, r, case.schedule.partition) if r else merged
        return merged

    last = merging().x
    return {
        "embed": lambda: case.stack.embed(crop),
        "matching and merging": merging,
        "head": lambda: model.head(last),
    }


def row(name: str, precision: str, cases: Mapping[str, Case], seconds: Mapping[str, float]) -> dict[str, Any]:
    """A case beside the tuned baseline: how many times less time and true MACs it takes."""
    return {
        "name": name,
        "precision": precision,
        "median_s": seconds[name],
        "time_ratio": seconds[BASELINE] / seconds[name],
        "mac_ratio": cases[BASELINE].macs / cases[name].macs,
    }


def shares(name: str, precision: str, seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Time of each stage of a case, its share of the whole and, but for the head, of the encoder."""
    stages = {key.removeprefix(f"{name}/"): s for key, s in seconds.items() if key.startswith(f"{name}/")}
    stages["attention and mlp"] = seconds[name] - sum(stages.values())
    encoder = seconds[name] - stages["head"]
    return [
        {
            "case": name,
            "precision": precision,
            "name": stage,
            "median_s": s,
            "share": s / seconds[name],
            "encoder_share": None if stage == "head" else s / encoder,
        }
        for stage, s in stages.items()
    ]


def main(
    out: Annotated[Path, typer.Option(help="The JSON file to write, over an older one.")] = Path("bench.json"),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each of which runs every case once.")] = 7,
    batch: Annotated[int, typer.Option(min=1, help="Frames at a time.")] = 8,
    architecture: Annotated[str, typer.Option(help="hmr2 or reference.")] = "hmr2",
) -> None:
    """Time an encoder and head with random weights: as upstream, tuned, and merged."""
    device = best_device()
    steps = steps_of(one_of(architecture, WINDOWS, "architecture with windows to merge"))
    model = build(architecture).eval()
    source = provenance("bench", model, device)
    result = {**bench(model, steps, batch, rounds, device), "batch": batch, "rounds": rounds, "provenance": source}
    atomic_write(out, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())


if __name__ == "__main__":
    ended(lambda: typer.run(main))
