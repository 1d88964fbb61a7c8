"""Policies of other packages: a name that two have, and packages that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from compress import registry
from compress.errors import BadInput
from compress.recipe import Recipe

RECIPE = "schema_version: 1\nname: mine\nsteps:\n  - {{policy: {}}}\n"


@pytest.fixture(autouse=True)
def installed(monkeypatch) -> Iterator[None]:
    """A package with a second `precision`, one that cannot be imported, and one whose class is no policy."""
    classes = {"precision": "stranger.rounding:Precision", "lost": "no_such_package:Lost", "odd": "json:JSONDecoder"}
    points = [EntryPoint(name, value, registry.GROUP) for name, value in classes.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry.entries.cache_clear()
    yield
    registry.entries.cache_clear()


def test_a_name_taken_twice_names_both():
    with pytest.raises(BadInput, match=r"'precision': compress\.policies\.precision:Precision and stranger\.rounding:"):
        registry.policy("precision")


@pytest.mark.parametrize(
    "name, words",
    [
        ("lost", "'lost' of no_such_package:Lost cannot be imported"),
        ("odd", "'odd' of json:JSONDecoder is not a Policy"),
        ("precision", "two packages have a policy 'precision'"),
    ],
)
def test_a_package_that_cannot_be_used_breaks_its_own_recipes_alone(name, words):
    with pytest.raises(BadInput, match=words):
        Recipe.parse(RECIPE.format(name), "mine.yaml")
    usable = {kind.model_fields["policy"].default for kind in registry.working()}
    assert usable == {"merge_layers", "prune_width", "merge_tokens", "reduce_rank", "recover"}
    assert Recipe.parse(RECIPE.format("recover, steps: 1"), "mine.yaml").steps[0].policy == "recover"
