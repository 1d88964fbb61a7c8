"""`fasthmr bench`: models and exported files timed side by side, and what made one slower here."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from compress.cost.bfloat16 import emulated
from compress.cost.timing import Clock, time_inside, timed
from compress.provenance import precision_of
from compress.stack import merge, transformer_blocks
from compress.tokens import Tokens
from hmr.deploy.exported import Exported

WARMUP = 2
MERGING = "matching and merging"
VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")  # any of which multiplies int8, as torch names them
PROTECTED = 0.35  # of a crop, about what a person takes
Inputs = tuple[Tensor, Tensor, Tensor | None]


@dataclass(frozen=True)
class Contender:
    """One way to run one model. `source`: sha256 of the weights it all comes from, whatever file they lie in now."""

    name: str
    source: str
    runtime: str
    precision: str
    model: Any  # without its motion decoder
    macs: int
    call: Any  # the model itself, or what torch.compile makes of it
    batch: int | None = None  # that it takes alone
    decoder: tuple[int, Callable[[], object]] | None = None  # of a motion decoder: frames of a clip, and their call

    @property
    def row(self) -> dict[str, Any]:
        return {"name": self.name, "runtime": self.runtime, "precision": self.precision}


def contenders(models: Sequence[Any], compiled: bool, device: torch.device) -> list[Contender]:
    """Each model as it is; one of torch in float32 also with its blocks in bfloat16, where this machine multiplies in
    it, and `compiled`, each of these by torch.compile too."""
    found: list[Contender] = []
    copies: dict[int, Any] = {}  # weights that models share are copied once
    for model in models:
        encoder = model.to(device).encoder
        decoder = model.calls()["decoder"] if model.takes_clips else None
        if isinstance(encoder, Exported):
            facts, runtime = encoder.interface, encoder.runtime.name
            said: tuple[Any, ...] = (facts.precision, encoder, facts.macs, encoder, facts.batch, decoder)
            found.append(Contender(encoder.name, facts.hashes["model"], runtime, *said))
            continue
        kinds = [(precision_of(encoder), encoder)]
        if kinds[0][0] == "float32" and (device.type == "cuda" or not emulated(torch.cpu.get_capabilities())):
            half = copy.deepcopy(encoder, copies)
            half.stack.blocks.to(torch.bfloat16)
            kinds.append(("bfloat16", half))
        source, macs = encoder.sha256 or encoder.base.sha256, model.cost().macs.true
        for precision, each in kinds:
            torchs = Contender(encoder.name, source, "torch", precision, each, macs, each, decoder=decoder)
            found.append(torchs)
            if compiled:
                found.append(replace(torchs, runtime="torch.compile", call=torch.compile(each, dynamic=False)))
    return found


def inputs_for(model: Any, batch: int, device: torch.device) -> Inputs:
    """Crops of noise, masks of a person who takes PROTECTED of each crop, and a condition where one is asked for."""
    height, width = model.crop_size
    rng = torch.Generator().manual_seed(0)
    masks = torch.zeros(batch, height, width)
    masks[:, : round(height * PROTECTED)] = 1
    condition = torch.zeros(batch, 3) if model.needs_condition else None
    crops = torch.randn(batch, 3, height, width, generator=rng)
    return crops.to(device), masks.to(device), None if condition is None else condition.to(device)


@torch.no_grad()
def side_by_side(
    models: Sequence[Any],
    batches: Sequence[int],
    rounds: int,
    compiled: bool,
    device: torch.device,
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Medians of `rounds` rounds that run every contender in turn: {cases, stages, slower} as JSON values.

    time_ratio and mac_ratio are the first model's, as torch runs it in float32 or whatever it has, over each one's, at
    the same batch. A motion decoder's time and MACs are a clip's, shared out among its frames. stages: seconds of each
    part of torch's models, uncompiled. clock: see `timed`.
    """
    every = contenders(models, compiled, device)
    result: dict[str, Any] = {"cases": [], "stages": [], "slower": []}
    for batch in batches:
        some = [one for one in every if one.batch in (None, batch)]
        given = [inputs_for(one.model, batch, device) for one in some]
        calls: dict[str, Callable[[], object]] = {str(i): partial(one.call, *given[i]) for i, one in enumerate(some)}
        parts = {i: parts_of(one.model, given[i]) for i, one in enumerate(some) if one.runtime == "torch"}
        calls |= {f"{i}/{name}": call for i, found in parts.items() for name, call in found.items()}
        calls |= {f"{i}/decoder": one.decoder[1] for i, one in enumerate(some) if one.decoder}
        seconds = {name: median(runs) for name, runs in timed(calls, rounds, device, WARMUP, clock).items()}
        for i, found in parts.items():
            late = {f"{i}/{name} blocks": list(stack.blocks) for name, stack in some[i].model.stacks.items()}
            inside = {k: median(s) for k, s in time_inside(late, found["head"], rounds, device, clock).items()}
            seconds |= {**inside, f"{i}/head": max(0.0, seconds[f"{i}/head"] - sum(inside.values()))}
        for i, one in enumerate(some):
            if one.decoder:  # a clip's time, shared out among its frames
                seconds[f"{i}/decoder"] *= batch / one.decoder[0]
                seconds[str(i)] += seconds[f"{i}/decoder"]
        rows = [{**one.row, "batch": batch, "source": one.source, "macs": one.macs, "median_s": seconds[str(i)],
                 "merging_s": seconds.get(f"{i}/{MERGING}", 0.0)} for i, one in enumerate(some)]  # fmt: skip
        result["cases"] += [compared(row, rows[0]) for row in rows]
        result["slower"] += slower(rows)
        result["stages"] += [stage for i in parts for stage in shares(some[i], batch, str(i), seconds)]
    return result


def parts_of(model: Any, given: Inputs) -> dict[str, Callable[[], object]]:
    """Calls that run one part of a model of torch, on tokens of its shapes; the blocks are what the whole takes beyond
    them, and the body is not in the whole."""
    crops, masks, condition = given
    person = torch.zeros(len(crops), model.grid[0] * model.grid[1], dtype=torch.bool, device=crops.device)
    person[:, : round(PROTECTED * person.shape[1])] = True
    found: dict[str, Callable[[], object]] = {"embed": partial(model.stack.embed, crops)}
    if any(model.schedule.merges):
        found[MERGING] = merging_of(model, model.stack.embed(crops).protecting(person))
    tokens, output = model.encode(crops, masks), model(crops, masks, condition)
    return {**found, "head": partial(model.read, tokens, condition), "body": partial(model.joints, output)}


def merging_of(model: Any, tokens: Tokens) -> Callable[[], object]:
    """A call that matches and merges embedded `tokens` as the model's schedule has it, by the first block's keys."""
    first = next(iter(transformer_blocks(model.stack).values()))
    keys = model.stack.attend(first, tokens)[1]  # (B, H, N, d)

    def merging() -> Tokens:
        merged = tokens
        for r in filter(None, model.schedule.merges):
            merged = merge(merged, keys[:, :, : merged.x.shape[1]], r, model.schedule.partition)
        return merged

    return merging


def compared(row: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """A case beside the first one of its batch."""
    kept = {name: value for name, value in row.items() if name not in ("source", "macs", "merging_s")}
    return {
        **kept,
        "frames_per_s": row["batch"] / row["median_s"],
        "time_ratio": first["median_s"] / row["median_s"],
        "mac_ratio": first["macs"] / row["macs"],
    }


def shares(one: Contender, batch: int, key: str, seconds: dict[str, float]) -> list[dict[str, Any]]:
    """Seconds of each part of a case, and its share of the whole; of the body, of what that comes on top of."""
    found = {name.partition("/")[2]: s for name, s in seconds.items() if name.startswith(f"{key}/")}
    whole = seconds[key]
    found["blocks"] = whole - sum(s for name, s in found.items() if name != "body")
    return [{**one.row, "batch": batch, "part": part, "median_s": s, "share": s / whole} for part, s in found.items()]


def slower(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences: which model takes longer than the first one of its runtime and precision, and which precision longer
    than float32 in the same runtime, of the same weights where those are there; with the reason where one is known."""
    found = []
    for i, row in enumerate(rows):
        alike = [r for r in rows[:i] if (r["runtime"], r["precision"]) == (row["runtime"], row["precision"])]
        plain = [r for r in rows if (r["runtime"], r["precision"]) == (row["runtime"], "float32")]
        same = [r for r in plain if r["source"] == row["source"]] or plain
        for other in (alike[:1], [] if row["precision"] == "float32" else same[:1]):
            if other and (times := row["median_s"] / other[0]["median_s"]) > 1:
                found.append(
                    f"{row['name']} in {row['precision']} takes {times:.2f} times as long as {other[0]['name']} in "
                    f"{other[0]['precision']} here, in {row['runtime']} at batch {row['batch']}"
                    f"{why(row, other[0], torch.cpu.get_capabilities())}"
                )
    return found


def why(row: dict[str, Any], other: dict[str, Any], cpu: Mapping[str, Any]) -> str:
    """What is known of the reason why a model takes longer than another, as the end of a sentence."""
    if row["precision"] == "int8" != other["precision"] and not any(cpu.get(name) for name in VNNI):
        return ": this CPU has no VNNI, which multiplies int8"
    if row["merging_s"] > other["merging_s"]:
        return f": {row['merging_s'] / row['median_s']:.0%} of it is matching and merging"
    return ""
