"""A space with knobs for each block of a model: what a study asks for by `per_block`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from compress.policies.prune_width import count
from compress.policy import Knob, ModelSize
from compress.ranking.budget import PIECES
from compress.ranking.layout import PARTS, EncoderSizes, Layout
from compress.ranking.measures import Measures
from compress.ranking.paths import Paths
from compress.ranking.scores import SHARES
from compress.recipe import Recipe
from experiments.search.space import Space, Values
from experiments.search.study import Study

BUDGET, WEIGHT = "budget", "weight"
KINDS = ("heads", "hidden", "map", "merge", "drop")  # of what is left out
GRAINS = 500  # that MACs are counted in for one draw: a tenth of a second
FIRST = 16  # budgets whose recipes come before all that is drawn


class BlockSpace(Space):
    """Recipes block by block, whose ranges come from the model: heads, hidden units and merged tokens of each, whether
    a map takes its place, and how many patches there are before the first. Then the study's steps, with their knobs.

    Under the sampler `budgets` what is drawn is a budget and how much each kind of part and each block counts; the
    recipe is the best one for those (`compress.ranking.measures`), as SPDY searches (arXiv:2201.13096, Sec. 3.3).
    """

    def __init__(self, spec: Study, size: ModelSize, encoder: EncoderSizes, measures: Callable[[], Measures]) -> None:
        super().__init__(spec, size)
        self.encoder, self._measures = encoder, measures
        self.ranges = {**(self.weights() if spec.sampler == "budgets" else self.parts()), **self.ranges}

    @cached_property
    def measures(self) -> Measures:
        return self._measures()

    def parts(self) -> dict[str, Knob]:
        """Knobs of the parts of each block, by policy, field and block."""
        levers, found = self.spec.per_block, {}
        if "merge_tokens" in levers and self.encoder.drops:
            found["merge_tokens.keep"] = Knob(PARTS // 4, PARTS, 1)
        for i, size in enumerate(self.encoder.sizes):
            if "merge_layers" in levers:
                found[f"merge_layers.map.{i}"] = Knob(0, 1, 1)
            if "merge_tokens" in levers:
                found[f"merge_tokens.merges.{i}"] = Knob(0, PARTS // 2, 1)
            if "prune_width" in levers:
                found[f"prune_width.heads.{i}"] = Knob(count(size.heads, SHARES[-1]), size.heads, 1)
                found[f"prune_width.hidden.{i}"] = Knob(PIECES // 4, PIECES, 1)
        return found

    def weights(self) -> dict[str, Knob]:
        """Knobs of a budget in percent of the MACs, and of what counts more or less, in powers of two."""
        names = (*KINDS, *map(str, range(len(self.encoder.sizes))))
        least = self.paths({}).least / self.measures.total
        found = {f"{WEIGHT}.{name}": Knob(-3.0, 3.0, 0.25) for name in names}
        return {BUDGET: Knob(int(100 * least) + 1, 95, 1), **found}

    def paths(self, weights: dict[str, float]) -> Paths:
        return self.measures.paths(weights, GRAINS, self.spec.per_block)

    @property
    def first(self) -> list[dict[str, float]]:
        """What is measured before anything is drawn: under the sampler `budgets`, recipes of budgets as measured."""
        return self.first_budgets if self.spec.sampler == "budgets" else []

    @cached_property
    def first_budgets(self) -> list[dict[str, float]]:
        """Budgets from large to small, with all weights equal."""
        knobs = self.weights()
        low, high = knobs[BUDGET].low, knobs[BUDGET].high
        shares = {round(low + i * (high - low) / (FIRST - 1)) for i in range(FIRST)}
        same = {name: 0.0 for name in knobs if name != BUDGET}
        return [{BUDGET: share, **same} for share in sorted(shares, reverse=True)]

    def recipe(self, values: Values) -> Recipe:
        tail = super().recipe({name: value for name, value in values.items() if name in self.spec.knobs()})
        steps = self.layout(dict(values)).steps(self.encoder)
        return tail.model_copy(update={"steps": (*steps, *tail.steps)})

    def layout(self, values: dict[str, float]) -> Layout:
        """What is left of the model by some values."""
        return self.best(values) if BUDGET in values else self.given(values)

    def best(self, values: dict[str, float]) -> Layout:
        """The best layout within a budget, by weighed measures."""
        weights = {name.removeprefix(f"{WEIGHT}."): 2.0**value for name, value in values.items() if WEIGHT in name}
        wanted = round(values[BUDGET] / 100 * self.measures.total)
        paths = self.paths(weights)
        found = paths.best(max(wanted, paths.least))
        assert found is not None  # within the least there is one
        return self.measures.chosen(found[1])

    def given(self, values: dict[str, float]) -> Layout:
        """The layout of knobs for each block. Of merges beyond half of a block's tokens, or beyond a quarter of all
        patches, as many as there can be; not all blocks become maps."""
        sizes, patches = self.encoder.sizes, self.encoder.patches
        keep = max(1, patches * int(values.get("merge_tokens.keep", PARTS)) // PARTS)
        heads = [int(values.get(f"prune_width.heads.{i}", size.heads)) for i, size in enumerate(sizes)]
        pieces = [int(values.get(f"prune_width.hidden.{i}", PIECES)) for i in range(len(sizes))]
        hidden = [size.hidden * some // PIECES for size, some in zip(sizes, pieces, strict=True)]
        mapped = {i for i in range(len(sizes)) if values.get(f"merge_layers.map.{i}")}
        mapped -= {0} if len(mapped) == len(sizes) else set()
        found = Layout(keep, heads, hidden, [], mapped)
        left, least = found.keep, max(1, patches // 4)
        for i in range(len(sizes)):
            asked = patches * int(values.get(f"merge_tokens.merges.{i}", 0)) // PARTS
            found.merges.append(0 if i in found.mapped else max(0, min(asked, left // 2, left - least)))
            left -= found.merges[-1]
        return found

    def places(self, layout: Layout) -> dict[str, Any]:
        """The knobs of the parts of each block that give a layout; of one that is a map, those of a whole block."""
        found: dict[str, Any] = {"merge_tokens.keep": -(-layout.keep * PARTS // self.encoder.patches)}
        for i, size in enumerate(self.encoder.sizes):
            mapped = i in layout.mapped
            found[f"merge_layers.map.{i}"] = int(mapped)
            found[f"merge_tokens.merges.{i}"] = 0 if mapped else round(layout.merges[i] * PARTS / self.encoder.patches)
            found[f"prune_width.heads.{i}"] = size.heads if mapped else layout.heads[i]
            found[f"prune_width.hidden.{i}"] = PIECES if mapped else round(layout.hidden[i] * PIECES / size.hidden)
        return {name: value for name, value in found.items() if name in self.parts()}
