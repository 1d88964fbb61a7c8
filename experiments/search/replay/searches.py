"""`python -m experiments.search.replay [STUDY]`: which sampler has a small error first, in seconds of measuring?

Recipes of a space block by block are measured once into a table (`experiments.search.replay.table`). Then each sampler
searches with several seeds, and of the table's recipes the nearest that it has not seen stands for what it draws.
`random` needs no such stand-in: the table's random recipes, in any order, are a random search.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import optuna
import typer
from numpy.typing import NDArray
from optuna.trial import TrialState
from scipy.stats import spearmanr

from compress.atomic import append_line, atomic_write
from experiments.cli.output import progress_bar, progress_callback
from experiments.reports import plots
from experiments.search.blocks import BlockSpace
from experiments.search.early import PerRecording, worse
from experiments.search.lab import Lab
from experiments.search.replay.table import MeasuredRecipe, Values, drawn_rows, lines_of, measured
from experiments.search.sampling import drawn, sampler
from experiments.search.storage import quiet
from experiments.search.study import Sampler, read_study
from experiments.search.trials import IMPOSSIBLE
from hmr.home import fasthmr_home

SHIPPED = str(files("experiments").joinpath("studies", "replay.yaml"))
SHARES = (0.7, 0.5, 0.4, 0.3)  # of the MACs, at which errors are compared
Seen = tuple[float, float, float]  # seconds since the start, MACs, mm


class Replay:
    """A table, and searches of it."""

    def __init__(
        self,
        lab: Lab,
        rows: Sequence[MeasuredRecipe],
        original: tuple[int, float],
        ranked_s: float,
        journal: Path | None = None,
    ) -> None:
        """original: MACs and mm. ranked_s: what the measures took that the sampler `budgets` begins with. journal: a
        file that keeps what each search saw."""
        self.journal = journal
        self.lab, self.rows, self.original, self.ranked_s = lab, rows, original, ranked_s
        self.most = max(row.mpjpe_mm for row in rows)
        self.space = self.spaced("random", 0)
        knobs = self.space.parts()
        self.low, self.high = (np.array([getattr(knob, end) for knob in knobs.values()]) for end in ("low", "high"))
        self.placed = np.array([self.scaled(row.places) for row in rows])

    def spaced(self, name: Sampler, seed: int) -> BlockSpace:
        spec = self.lab.study.model_copy(update={"sampler": name, "seed": seed})
        old = self.lab.space
        assert isinstance(old, BlockSpace)
        return BlockSpace(spec, old.size, old.encoder, lambda: old.measures)

    def scaled(self, places: Values) -> NDArray[np.float64]:
        """Knobs from 0 to 1."""
        return (np.array([places[name] for name in self.space.parts()]) - self.low) / (self.high - self.low)

    def taken(self, places: Values, left: list[int]) -> int:
        """Of the rows that are left, the nearest one, which is left no more."""
        return left.pop(int(np.abs(self.placed[left] - self.scaled(places)).sum(1).argmin()))

    def searched(self, name: Sampler, seed: int, seconds: float) -> list[Seen]:
        """What a sampler sees in so many seconds, its own included."""
        if name == "random":
            own = [row for row in self.rows if row.kind == "random"]
            order = [own[i] for i in np.random.default_rng(seed).permutation(len(own))]
            spent = np.cumsum([row.seconds for row in order])
            return [(s, row.macs, row.mpjpe_mm) for s, row in zip(spent, order, strict=True) if s <= seconds]
        return [*self.drawn_by(name, seed, seconds)]

    def drawn_by(self, name: Sampler, seed: int, seconds: float) -> Iterator[Seen]:
        quiet()
        space, left = self.spaced(name, seed), [*range(len(self.rows))]
        study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler(space))
        for values in space.first:
            study.enqueue_trial(dict(values))
        spent = self.ranked_s if space.first else 0.0
        seen: list[tuple[int, PerRecording]] = []
        while left:
            begun = time.process_time()
            trial = study.ask()
            row = self.rows[self.taken(space.places(space.layout(drawn(trial, space))), left)]
            why = worse(row.per_recording_mm, row.macs, seen) if name == "budgets" else None
            spent += row.planned_s + row.measured_s * (why.recordings / why.of if why else 1.0)
            if why:
                trial.set_constraint(IMPOSSIBLE, why.least_mm)
                study.tell(trial, state=TrialState.PRUNED)
            else:
                seen.append((row.macs, row.per_recording_mm))
                study.tell(trial, (row.macs, row.mpjpe_mm))
            spent += time.process_time() - begun
            if spent > seconds:
                return
            if not why:
                yield spent, row.macs, row.mpjpe_mm

    def rises(self, name: Sampler, seed: int, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """What `rises` says of a search, as long as the last of the times."""
        return rises(self.known(name, seed, times[-1]), times, self.original, self.most)

    def known(self, name: Sampler, seed: int, seconds: float) -> list[Seen]:
        """What a search saw, from the journal if it is there: a killed run goes on with those that are not."""
        key = {"sampler": name, "seed": seed, "seconds": seconds, "rows": len(self.rows)}
        lines = lines_of(self.journal) if self.journal else []
        if found := [line["seen"] for line in lines if {k: line[k] for k in key} == key]:
            return [(s, macs, mm) for s, macs, mm in found[0]]
        seen = self.searched(name, seed, seconds)
        if self.journal:
            append_line(self.journal, json.dumps({**key, "seen": seen}))
        return seen


def rises(
    seen: Sequence[Seen], times: NDArray[np.float64], original: tuple[int, float], most: float
) -> NDArray[np.float64]:
    """At some times, the least rise of error in mm over the original (MACs, mm) within each of SHARES of its MACs:
    (times, SHARES). Where nothing was seen, an error of `most` mm."""
    macs_of_all, mm_of_all = original
    found = np.full((len(times), len(SHARES)), most)
    for s, macs, mm in seen:
        for j, share in enumerate(SHARES):
            if macs <= share * macs_of_all:
                found[times >= s, j] = np.minimum(found[times >= s, j], mm)
    return found - mm_of_all


def correlation(replay: Replay) -> dict[str, float]:
    """Of what choices are taken to move an output by with the rise of error that was measured, over ranks: of all rows,
    and of each kind."""
    measures = replay.space.measures
    taken = np.array([measures.moved(replay.space.given(row.places)) for row in replay.rows])
    mm, kinds = np.array([row.mpjpe_mm for row in replay.rows]), np.array([row.kind for row in replay.rows])
    groups = {"all": kinds == kinds, **{kind: kinds == kind for kind in sorted({*kinds})}}
    return {kind: float(spearmanr(taken[rows], mm[rows])[0]) for kind, rows in groups.items() if rows.sum() > 2}


def summarised(found: dict[str, NDArray[np.float64]], times: NDArray[np.float64]) -> list[dict[str, Any]]:
    """A row of each sampler, from rises (seeds, times, SHARES): its medians over seeds at the end and at a quarter of
    the time, and when its mean over SHARES is as small as the one that random has at the end."""
    goal = float(np.median(found["random"].mean(2)[:, -1]))
    rows = []
    for name, rises in found.items():
        mean = rises.mean(2)
        there = np.where((mean <= goal).any(1), times[(mean <= goal).argmax(1)], np.inf)
        reached = float(np.median(there))
        low, middle, high = np.percentile(mean[:, -1], [10, 50, 90])
        rows.append(
            {
                "sampler": name,
                "seeds": len(rises),
                "rise_mm": {"mean": middle, "lo": low, "hi": high},
                "quarter_rise_mm": float(np.median(mean[:, len(times) // 4])),
                "as_random_s": reached if np.isfinite(reached) else None,
                **{
                    f"rise_at_{round(100 * share)}_mm": float(np.median(rises[:, -1, j]))
                    for j, share in enumerate(SHARES)
                },
            }
        )
    return rows


def main(
    out: Annotated[Path, typer.Option(help="The .json file to write; a picture lies beside it.")],
    study: Annotated[str, typer.Argument(help="The .yaml file of a study with per_block.")] = SHIPPED,
    seconds: Annotated[float, typer.Option(help="Of measuring, that each search has.")] = 600,
    seeds: Annotated[int, typer.Option(min=1)] = 8,
    gp_seeds: Annotated[int, typer.Option(min=1, help="Of `gp`, which thinks for minutes in each search.")] = 8,
    rows: Annotated[int | None, typer.Option(help="Measure at most so many recipes in all.")] = None,
) -> None:
    """Measure what of the table is missing, and let each sampler search it."""
    spec = read_study(study)
    lab = Lab(spec)
    file = fasthmr_home() / "replays" / f"{spec.name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    with progress_bar() as bar:
        lab.frames("calib"), lab.frames("val")
        space = lab.space
        assert isinstance(space, BlockSpace)
        done = measured(lab, space, file, [*islice(drawn_rows(space), rows)], progress_callback(bar))
        whole = lab.measure(spec.recipe)
        journal = file.with_name(f"{spec.name}-searches.jsonl")
        replay = Replay(lab, done, (whole.macs.true, whole.mpjpe_mm.mean), space.measures.seconds, journal)
        times = np.linspace(0, seconds, 241)
        found = {
            name: np.array([replay.rises(name, seed, times) for seed in range(gp_seeds if name == "gp" else seeds)])
            for name in sorted(get_args(Sampler), key="gp".__eq__)  # Gaussian processes take longest
        }
    rows_told = summarised(found, times)
    stored = {
        "rows": rows_told,
        "recipes": {kind: sum(row.kind == kind for row in done) for kind in sorted({row.kind for row in done})},
        "seconds_of_a_recipe": float(np.median([row.seconds for row in done])),
        "ranked_s": space.measures.seconds,
        "search_s": seconds,
        "correlation": correlation(replay),
        "provenance": whole.provenance,
    }
    atomic_write(out, (json.dumps(stored, indent=1) + "\n").encode())
    figure = plots.bands({name: rises.mean(2) for name, rises in found.items()}, times)
    atomic_write(out.with_suffix(".png"), plots.png(figure))
    for row in rows_told:
        typer.echo(f"{row['sampler']}: +{row['rise_mm']['mean']:.1f} mm, as random has after {row['as_random_s']} s")
