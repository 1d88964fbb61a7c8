"""What a trial of a study draws: optuna's samplers over the knobs of its recipe, and the recipe of what they draw."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from compress.policy import Knob, Policy
from compress.recipe import Recipe
from experiments.search.space import Space
from experiments.search.study import distribution
from experiments.search.trials import RECIPE

After = Callable[[Sequence[Policy]], Space]  # steps that are drawn -> what can be drawn behind them

POPULATION = 20  # optuna's 50 would leave a study of 60 trials to chance


def sampler(space: Space, worker: int = 0, trials: int = 0) -> BaseSampler:
    """The sampler of a study's name for it, seeded for this worker and this start."""
    spec = space.spec
    seed = int(np.random.SeedSequence([spec.seed, worker, trials]).generate_state(1)[0])
    if spec.sampler == "tpe":
        return TPESampler(seed=seed)
    if spec.sampler == "budgets":
        return TPESampler(seed=seed, n_startup_trials=0)  # the recipes of budgets come first
    if spec.sampler == "gp":
        return GPSampler(seed=seed)
    if spec.sampler == "nsga2":
        return Evolution({name: distribution(knob) for name, knob in space.widest.items()}, seed)
    return RandomSampler(seed=seed)


class Evolution(NSGAIISampler):
    """NSGA-II in a space that is known beforehand; what is crossed beyond a range that others bound is drawn anew.

    optuna takes the parameters that all trials share for the space, and baselines have none: it would draw at random
    for ever. And baselines belong to no generation.
    """

    def __init__(self, space: dict[str, BaseDistribution], seed: int) -> None:
        super().__init__(population_size=POPULATION, seed=seed)
        self.space = {name: one for name, one in space.items() if not one.single()}  # no crossover of what is fixed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {} if RECIPE in trial.user_attrs else self.space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(study, trial, search_space) if search_space else {}


def suggested(trial: optuna.Trial, space: Space, after: After | None = None) -> Recipe:
    """The recipe of a trial: the baseline that it is, or one drawn from the space."""
    if RECIPE in trial.user_attrs:
        return Recipe.model_validate_json(json.dumps(trial.user_attrs[RECIPE]))
    return space.recipe(drawn(trial, space, after))


def drawn(trial: optuna.Trial, space: Space, after: After | None = None) -> dict[str, float]:
    """What a trial's sampler draws for each knob, given what it drew before and what size the steps before it leave."""
    values: dict[str, float] = {}
    spec = space.spec
    for name in [name for name in space.ranges if name not in spec.knobs()]:
        values[name] = draw(trial, name, space.ranges[name])
    for i, step in enumerate(spec.steps):
        for name in [f"{step.label}.{field}" for field in step.knobs()]:
            if name in space.ranges:
                values[name] = draw(trial, name, space.knob(name, values))
        if after and step.sizes_by_error:
            space = after(spec.drawn(values).steps[: i + 1])
    return values


def draw(trial: optuna.Trial, name: str, knob: Knob) -> float:
    if knob.whole:
        return trial.suggest_int(name, int(knob.low), int(knob.high), step=int(knob.step))
    return trial.suggest_float(name, knob.low, knob.high, step=knob.step)
