"""Recipes: what to do to a model, as YAML that names no model."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self, Union

from pydantic import Field, PrivateAttr, create_model, model_validator

from compress.choices import one_of
from compress.files import document
from compress.policy import FrozenModel, misuse
from compress.registry import Step, policy_in, working

SHIPPED = files("compress").joinpath("recipes")


class Recipe(FrozenModel):
    """Steps in their order."""

    schema_version: int = Field(ge=1, le=1)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]*$", max_length=80)
    steps: tuple[Step, ...]
    _text: str = PrivateAttr("")

    @classmethod
    def load(cls, name: str | Path) -> Self:
        """The shipped recipe of that name or, where it is a path, has a `/` or ends in `.yaml`, that of a file.

        Raises BadInput where there is none, and `document.InvalidDocument` with every mistake in it.
        """
        if isinstance(name, Path) or "/" in name or name.endswith(".yaml"):
            return cls.parse(document.read_text(str(name)), str(name))
        path = SHIPPED.joinpath(f"{one_of(name, shipped_recipes(), 'recipe')}.yaml")
        return cls.parse(path.read_text("utf-8"), path.name)

    @classmethod
    def parse(cls, text: str, file: str) -> Self:
        """The recipe in the YAML or JSON `text` of `file`; raises as `load`."""
        recipe = document.parse(text, file, cls, policy_in)
        recipe._text = text
        return recipe

    @model_validator(mode="after")
    def _order(self) -> Self:
        """Each policy at most once for a stack, that of the image encoder first, and in the order of their stages."""
        names = [step.label for step in self.steps]
        for i in range(1, len(names)):
            before, name = names[i - 1], names[i]
            if name in names[:i]:
                raise misuse(f"steps.{i}.policy", f"there are two steps of {name}: make them one")
            if late := [one for one in names[:i] if one.startswith(f"{name}@")]:
                raise misuse(f"steps.{i}.policy", f"{name} comes after {late[0]}, which chooses on what it leaves")
            if self.steps[i].stage < self.steps[i - 1].stage:
                raise misuse(f"steps.{i}.policy", f"{name} comes after {before}: put {before} after {name}")
        return self

    @property
    def id(self) -> str:
        """sha256 of the canonical JSON of schema_version and steps; the name does not count."""
        content = self.model_dump(mode="json", include={"schema_version", "steps"})
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def text(self) -> str:
        """The YAML as it was written; of a recipe made in Python, all that is not a default."""
        steps = [{"policy": step.policy, **step.model_dump(mode="json", exclude_defaults=True)} for step in self.steps]
        values = {"schema_version": self.schema_version, "name": self.name, "steps": steps}
        return self._text or document.to_yaml(values)


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package, sorted."""
    return sorted(path.name.removesuffix(".yaml") for path in SHIPPED.iterdir() if path.name.endswith(".yaml"))


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe, with the policies that are installed."""
    step: Any = Annotated[Union[tuple(working())], Field(discriminator="policy")]  # noqa: UP007  # any number of them
    full = create_model("Recipe", __base__=Recipe, steps=(tuple[step, ...], ...))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **full.model_json_schema()}
