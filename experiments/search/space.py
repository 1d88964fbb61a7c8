"""What of a study's ranges a model allows: no draw that cannot be a recipe, knob by knob, given those drawn before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from compress.errors import BadInput
from compress.policy import Knob, ModelSize
from compress.recipe import Recipe
from experiments.search.study import Study

Values = Mapping[str, float]  # by `policy.field`, as optuna has them


class Space:
    """The recipes of a study that fit a model of one size.

    Knobs have an order, and the range of each follows from the values of those before it. Where a search for an error
    decides how many blocks are left, it comes first, and what is drawn after it is from the space of what it left.
    """

    def __init__(self, spec: Study, size: ModelSize) -> None:
        """Raises BadInput where no recipe of the study fits."""
        self.spec, self.size, self.ranges = spec, size, spec.ranges(size)
        self.bounded = [name for name in spec.bounded() if name in self.ranges]
        self._known: dict[tuple[float | None, ...], bool] = {}
        if not self.possible({}):
            raise BadInput(f"space: no recipe in it fits a model of {size.blocks} blocks and {size.patches} patches")

    @property
    def first(self) -> Sequence[Values]:
        """What is measured before anything is drawn."""
        return ()

    def recipe(self, values: Values) -> Recipe:
        """The recipe of values that were drawn."""
        return self.spec.drawn(dict(values))

    def knob(self, name: str, values: Values) -> Knob:
        """The values of a knob that some recipe has beside those of others; of values with gaps between them, the
        longest run."""
        knob = self.ranges[name]
        if name not in self.bounded:
            return knob
        runs: list[list[float]] = [[]]
        for value in knob.values:
            if self.possible({**values, name: value}):
                runs[-1].append(value)
            elif runs[-1]:
                runs.append([])
        run = max(runs, key=len)
        return Knob(run[0], run[-1], knob.step, knob.choices)

    def possible(self, values: Values) -> bool:
        """Whether some recipe that fits has these values."""
        key = tuple(values.get(name) for name in self.bounded)
        if key not in self._known:
            rest = [name for name in self.bounded if name not in values]
            self._known[key] = self.completed(values, rest[0]) if rest else self.fits(values)
        return self._known[key]

    def completed(self, values: Values, name: str) -> bool:
        """Whether some recipe that fits has these values and any of a knob: most have its last or its first one."""
        *others, last = self.ranges[name].values
        return any(self.possible({**values, name: value}) for value in (last, *others))

    def fits(self, values: Values) -> bool:
        """Whether a model of this size allows the study's steps with these values of all bounded fields."""
        size = self.size
        try:
            for step in self.spec.steps:
                mine = {field: values.get(f"{step.label}.{field}") for field in step.bounded}
                given = {field: value for field, value in mine.items() if value is not None}
                size = step.model_copy(update=given).fit(size)  # unchecked: thousands are looked at
        except BadInput:
            return False
        return True

    @cached_property
    def widest(self) -> dict[str, Knob]:
        """The range of each knob whatever the others are."""
        return {name: self.knob(name, {}) for name in self.ranges}

    @property
    def left_out(self) -> list[str]:
        """What of the study's own ranges no recipe has, in words."""
        asked = self.spec.ranges()
        return [
            f"{name} is drawn from {knob.low:g} to {knob.high:g}, as this model allows, not to {asked[name].high:g}"
            if knob.low == asked[name].low
            else f"{name} is drawn from {knob.low:g} to {knob.high:g}, as this model allows"
            for name, knob in self.widest.items()
            if name in self.spec.space and (knob.low, knob.high) != (asked[name].low, asked[name].high)
        ]
