"""Recipes of a space block by block, measured once into a file that a killed run goes on from: what samplers are
compared on without a model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.atomic import append_line
from compress.context import Observer
from compress.errors import BadInput
from compress.policy import Knob
from compress.ranking.budget import PIECES
from compress.ranking.layout import PARTS
from experiments.search.blocks import BUDGET, BlockSpace
from experiments.search.lab import Lab

# How many recipes of each kind. random: each knob for itself. few: one number for all blocks of each kind of part.
# budgets: the best of a budget. weighed: the best of a budget where parts count more or less. near: a few knobs away
# from the best of a budget.
KINDS = {"random": 160, "few": 50, "budgets": 16, "weighed": 100, "near": 80}
TURNED = 4  # knobs of a recipe that is near
Values = dict[str, float]


@dataclass(frozen=True)
class MeasuredRecipe:
    """A measured recipe."""

    kind: str
    recipe_id: str
    places: Values  # of the knobs of each block
    macs: int
    mpjpe_mm: float  # mean over recordings
    per_recording_mm: dict[str, float]
    planned_s: float  # CPU seconds of one core
    measured_s: float

    @property
    def seconds(self) -> float:
        return self.planned_s + self.measured_s


def drawn_rows(space: BlockSpace, seed: int = 0) -> Iterator[tuple[str, Values]]:
    """Kinds and knobs of the table's recipes, the same for a seed; kinds take turns, so that a table that is not
    finished has some of each. Those that need no ranking come first in each turn."""
    each = {kind: np.random.default_rng(seed + place) for place, kind in enumerate(KINDS)}
    makers: dict[str, Callable[[int], Values]] = {
        "random": lambda _: anywhere(space, each["random"]),
        "few": lambda _: few(space, each["few"]),
        "budgets": lambda i: space.places(space.best(space.first_budgets[i])),
        "weighed": lambda _: space.places(space.best(weighed(space, each["weighed"]))),
        "near": lambda _: near(space, each["near"]),
    }
    counts = {**KINDS, "budgets": len(space.first_budgets)}
    turns = sorted(((i + 0.5) / count, kind, i) for kind, count in counts.items() for i in range(count))
    for _, kind, i in turns:
        yield kind, makers[kind](i)


def anywhere(space: BlockSpace, random: np.random.Generator) -> Values:
    """Each knob for itself."""
    return {name: drawn(knob, random) for name, knob in space.parts().items()}


def drawn(knob: Knob, random: np.random.Generator) -> int:
    return int(random.integers(int(knob.low), int(knob.high), endpoint=True))


def few(space: BlockSpace, random: np.random.Generator) -> Values:
    """One number for all blocks, and at most three maps."""
    found: Values = {name: knob.high for name, knob in space.parts().items()}
    hidden = random.integers(PIECES // 4, PIECES, endpoint=True)
    keep = random.integers(PARTS // 4, PARTS, endpoint=True)
    heads = random.random()
    depth = len(space.encoder.sizes)
    mapped = random.choice(depth, random.integers(0, min(4, depth)), replace=False)
    for i in range(depth):
        knob = space.parts()[f"prune_width.heads.{i}"]
        found[f"prune_width.heads.{i}"] = round(knob.low + heads * (knob.high - knob.low))
        found[f"prune_width.hidden.{i}"] = int(hidden)
        found[f"merge_tokens.merges.{i}"], found[f"merge_layers.map.{i}"] = 0, int(i in mapped)
    return {**found, "merge_tokens.keep": int(keep)}


def weighed(space: BlockSpace, random: np.random.Generator) -> Values:
    """A budget and weights."""
    knobs = space.weights()
    found = {name: float(np.clip(random.normal(), knob.low, knob.high)) for name, knob in knobs.items()}
    return {**found, BUDGET: drawn(knobs[BUDGET], random)}


def near(space: BlockSpace, random: np.random.Generator) -> Values:
    """The best of a budget, and some knobs drawn anew."""
    budget, parts = weighed(space, random)[BUDGET], space.parts()
    found: Values = space.places(space.best({BUDGET: budget}))
    for name in random.choice(sorted(parts), TURNED, replace=False):
        found[name] = drawn(parts[name], random)
    return found


def measured(
    lab: Lab, space: BlockSpace, file: Path, rows: list[tuple[str, Values]], observer: Observer
) -> list[MeasuredRecipe]:
    """The rows of a file, after those that are not in it were measured."""
    found = read(file)
    known = {row.recipe_id for row in found}
    for i, (kind, places) in enumerate(rows):
        layout = space.given(places)
        recipe = space.recipe(places)
        observer("measuring recipes", kind, i, len(rows))
        if recipe.id in known:
            continue
        try:
            start = time.process_time()
            model, _ = lab.made(recipe.steps)
            planned = time.process_time()
            errors = lab.frames("val").measure(model).row()
        except BadInput:
            continue
        row = MeasuredRecipe(
            kind,
            recipe.id,
            space.places(layout),
            int(model.cost().macs.true),
            errors["mpjpe_mm"]["mean"],
            {one["clip"]: one["mpjpe_mm"] for one in errors["per_clip"]},
            planned - start,
            time.process_time() - planned,
        )
        found.append(row)
        known.add(recipe.id)
        append_line(file, json.dumps(asdict(row)))
    return found


def read(file: Path) -> list[MeasuredRecipe]:
    """The rows of a file."""
    return [MeasuredRecipe(**line) for line in lines_of(file)]


def lines_of(file: Path) -> list[Any]:
    """The JSON lines of a file; half a line, of a run that was killed, is none."""
    found: list[Any] = []
    for line in file.read_text().splitlines() if file.exists() else ():
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found
