"""How much faster compressed models are here, and why: `python -m experiments.paper.deployment.speed ARTEFACT...`.

Everything runs in turn, as in `fasthmr bench`: the original and each artefact by torch, ONNX Runtime and OpenVINO, in
every precision that there is, and each artefact with all its tokens. The fastest way to run an artefact whose error
rises by no more than RISE_MM on synth:val is compared with the original in eager float32, and with the original run the
same way; by how much its error rises on synth:test is told, and nothing follows from it. Times are the processor's, so
that what else the machine does takes none: on one thread, those of a clock on a machine that does nothing else.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import hmr
from compress.atomic import atomic_write
from compress.card import formatted
from compress.context import fingerprint
from compress.cost.bfloat16 import emulated
from compress.errors import BadInput
from compress.provenance import provenance
from compress.stack import Schedule
from experiments.cli.main import ended
from experiments.cli.output import progress_bar, progress_callback
from experiments.side_by_side import side_by_side
from hmr.deploy.export import export
from hmr.deploy.parity import FRAMES
from hmr.evaluation.errors import all_errors, labelled, paired, predicted
from hmr.evaluation.measure import body_for
from hmr.evaluation.predict import predict

RISE_MM = 1.0  # by how much MPJPE may be above the original's, on CHOOSING
CHOOSING, REPORTING = "synth:val", "synth:test"
FILES = (("onnx", "float32"), ("openvino", "float32"), ("onnx", "int8"), ("openvino", "int8"))
LEVERS = ("layers", "tokens", "runtime", "precision")
Way = tuple[str, str]  # a model and a precision
Rises = Mapping[Way, Mapping[str, float]]  # of MPJPE in mm, with its interval


@dataclass(frozen=True)
class Case:
    """One way to run one model. `tokens`: whether those are reduced, where the model reduces any."""

    model: str
    runtime: str  # its name without a version
    precision: str
    batch: int
    seconds: float
    tokens: bool = True


@dataclass(frozen=True)
class Gain:
    """The fastest way at one batch. shares: of each lever in the logarithm of `times`; they add up to 1."""

    batch: int
    model: str
    runtime: str
    precision: str
    rise_mm: Mapping[str, float]  # on CHOOSING
    times: float  # as fast as the original in eager float32
    times_same_way: float  # as fast as the original in the same runtime and precision
    shares: dict[str, float]


def gains(cases: Sequence[Case], original: str, rises: Rises) -> list[Gain]:
    """The fastest artefact at each batch; nothing for a batch at which none is good enough."""
    found, fine = [], {way for way, rise in rises.items() if rise["mean"] <= RISE_MM}
    for batch in sorted({case.batch for case in cases}):
        here = [case for case in cases if case.batch == batch]
        plain = {(case.model, case.runtime) for case in here if case.precision == "float32"}  # what a runtime gains
        good = [c for c in here if c.tokens and (c.model, c.precision) in fine and (c.model, c.runtime) in plain]
        if good:
            best = min(good, key=lambda case: case.seconds)
            found.append(gain(best, here, original, rises[best.model, best.precision]))
    return found


def gain(best: Case, here: Sequence[Case], original: str, rise: Mapping[str, float]) -> Gain:
    """What the fastest way gains over the original: lever by lever, each on top of those before."""

    def seconds(model: str, runtime: str, precision: str, tokens: bool = True) -> float:
        way = (model, runtime, precision, tokens)
        return next(c.seconds for c in here if (c.model, c.runtime, c.precision, c.tokens) == way)

    steps = (
        seconds(original, "torch", "float32"),
        seconds(best.model, "torch", "float32", tokens=False),
        seconds(best.model, "torch", "float32"),
        seconds(best.model, best.runtime, "float32"),
        best.seconds,
    )
    times = steps[0] / steps[-1]
    ratios = (before / now for before, now in pairwise(steps))
    shares = {name: log(ratio) / log(times) for name, ratio in zip(LEVERS, ratios, strict=True)}
    same = seconds(original, best.runtime, best.precision) / best.seconds
    return Gain(best.batch, best.model, best.runtime, best.precision, rise, times, same, shares)


def whole(model: Any, name: str) -> Any:
    """A copy of a compressed model that keeps all its tokens."""
    found = copy.deepcopy(model)
    found.schedule, found.protect, found.name = Schedule(), None, name
    return found


def files_of(models: Sequence[Any], folder: Path, observer: Any) -> Iterator[tuple[str, Path | str]]:
    """The files of FILES of each model, with its name, or a sentence for one that gives something else than the model;
    those that are there already stay. A model's file in another precision is made beside it."""
    size = models[0].crop_size
    pictures = [list(hmr.frames(f"synth:{split}", FRAMES, size=size).drawn(observer)) for split in ("test", "calib")]
    for i, model in enumerate(models):
        for form, precision in FILES:
            # the weights in its name: another list, or another model of this name, finds no file that is not its own
            place = folder / f"{i}-{form}-{precision}-{fingerprint(model, model.schedule, model.protect)[:8]}"
            path = place / ("model.onnx" if form == "onnx" else "model.xml")
            asked: dict[str, Any] = {"form": form, "precision": precision, "calib": pictures[1], "observer": observer}
            try:
                if not path.is_file():
                    export(model, place, pictures[0], **asked)
            except BadInput as error:
                yield model.name, str(error)
                continue
            yield model.name, path


def ways_of(models: Sequence[Any], files: Sequence[tuple[str, Path]]) -> list[tuple[Way, Any]]:
    """Every compressed model in every precision, ready to run; files in float32 give what the model gives. In int8 a
    model has two files."""
    ways: list[tuple[Way, Any]] = [((model.name, "float32"), model) for model in models[1:]]
    if not emulated(torch.cpu.get_capabilities()):
        for model in models[1:]:
            half = copy.deepcopy(model)
            half.stack.blocks.to(torch.bfloat16)
            ways.append(((model.name, "bfloat16"), half))
    rounded = [((name, "int8"), path) for name, path in files if "int8" in path.parent.name]
    return [*ways, *((way, hmr.load(path)) for way, path in rounded if way[0] != models[0].name)]


def rises_of(ways: Sequence[tuple[Way, Any]], original: Any, data: str, frames: int) -> dict[Way, dict[str, Any]]:
    """By how much the MPJPE of each is above the original's on so many frames of `data`; of two files, the worse."""
    seen, truths = hmr.frames(data, frames, model=original), list[Any]()
    models = [original, *(model for _, model in ways)]
    outputs = predict(models, seen, lambda one: truths.append(labelled(one)))
    body = body_for(seen, original)
    theirs, *errors = (all_errors(body, [predicted(one) for one in each.outputs], truths) for each in outputs)
    found = dict[Way, dict[str, Any]]()
    for (way, _), mine in zip(ways, errors, strict=True):
        rise = paired(mine, theirs, seen.recordings)
        found[way] = max(rise, found.get(way, rise), key=lambda one: one["mean"])
    return found


def cases_of(bench: Mapping[str, Any], names: Mapping[str, tuple[str, bool]]) -> list[Case]:
    """The cases of a bench; names: of a case -> its model, and whether tokens are reduced."""
    found = []
    for case in bench["cases"]:
        model, tokens = names[case["name"]]
        way = (case["runtime"].split()[0], case["precision"], case["batch"], case["median_s"])
        found.append(Case(model, *way, tokens))
    return found


def main(
    artefacts: Annotated[list[str], typer.Argument(metavar="ARTEFACT...", help="What was compressed from MODEL.")],
    model: Annotated[str, typer.Option(help="The original.")] = "reference",
    folder: Annotated[Path, typer.Option(help="Where exported files are kept for the next time.")] = Path("exported"),
    frames: Annotated[int, typer.Option(min=1, help=f"Of {CHOOSING} and of {REPORTING}.")] = 330,
    batch: Annotated[list[int], typer.Option(min=1, help="Frames at a time.")] = [1, 8],  # noqa: B006  # typer reads it, nobody changes it
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each of which runs everything once.")] = 9,
    out: Annotated[Path, typer.Option(help="The JSON file to write, over an older one.")] = Path("speed.json"),
) -> None:
    """Time the original and every artefact in every way that there is, and print what is gained by what."""
    models = [hmr.load(name) for name in (model, *artefacts)]
    with progress_bar() as bar:
        made = list(files_of(models, folder, progress_callback(bar)))
    files = [(name, path) for name, path in made if isinstance(path, Path)]
    refused = [path for _, path in made if not isinstance(path, Path)]
    wholes = [whole(one, f"{one.name}, all tokens") for one in models[1:]]
    names = {one.name: (one.name, True) for one in models} | {str(path): (name, True) for name, path in files}
    names |= {one.name: (one.name.removesuffix(", all tokens"), False) for one in wholes}
    ways = ways_of(models, files)
    rises = rises_of(ways, models[0], CHOOSING, frames)
    loaded = [hmr.load(path) for _, path in files]
    bench = side_by_side([*models, *wholes, *loaded], batch, rounds, False, torch.device("cpu"), time.process_time)
    found = gains(cases_of(bench, names), model, rises)
    best = {(one.model, one.precision) for one in found}
    told = rises_of([way for way in ways if way[0] in best], models[0], REPORTING, frames)
    rows = [row(one, told[one.model, one.precision]) for one in found]
    every = [{"model": name, "precision": precision, "rise_mm": rise} for (name, precision), rise in rises.items()]
    source = provenance("speed", models[0], torch.device("cpu"), frames=frames)
    told_of = {"gains": rows, "rises": every, "refused": refused, "rounds": rounds, "provenance": source}
    result = {"rows": bench.pop("cases"), **told_of, **bench}
    atomic_write(out, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    typer.echo(table(rows))


def row(found: Gain, told: Mapping[str, float]) -> dict[str, Any]:
    """A gain as JSON values; told: the rise on REPORTING."""
    kept = {name: value for name, value in asdict(found).items() if name != "shares"}
    shares = {f"{name}_share": found.shares[name] for name in LEVERS}
    return {**kept, "test_rise_mm": dict(told), **shares}


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """The gains in Markdown."""
    rises = (f"rise on {CHOOSING} mm", f"on {REPORTING} mm")
    columns = ("batch", "model", "runtime", "precision", *rises, "times as fast", "in the same way", *LEVERS)
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for one in found:
        risen = (formatted(one[name], "+.1f") for name in ("rise_mm", "test_rise_mm"))
        figures = (*risen, f"{one['times']:.2f}", f"{one['times_same_way']:.2f}")
        shares = (f"{one[f'{name}_share']:.0%}" for name in LEVERS)
        cells = (one["batch"], one["model"], one["runtime"], one["precision"], *figures, *shares)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    ended(lambda: typer.run(main))
