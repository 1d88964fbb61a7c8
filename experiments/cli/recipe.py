"""`fasthmr recipe`: what may stand in a recipe, and what is wrong with one."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from experiments.cli.options import AsJson, RecipeName
from experiments.cli.output import print_result

if TYPE_CHECKING:
    from rich.table import Table

recipe_app = typer.Typer(help="Recipes.", no_args_is_help=True)


@recipe_app.command()
def check(recipe: RecipeName, as_json: AsJson = False) -> None:
    """Check a recipe, without a model: every mistake with its line and field."""
    from compress.files.document import InvalidDocument
    from compress.recipe import Recipe

    try:
        checked = Recipe.load(recipe)
    except InvalidDocument as error:
        if as_json:
            errors = [asdict(mistake) for mistake in error.mistakes]
            sys.stdout.write(json.dumps({"valid": False, "errors": errors}) + "\n")
        raise
    if as_json:
        sys.stdout.write(json.dumps({"valid": True, "errors": []}) + "\n")
    else:
        typer.echo(f"{checked.name}: {len(checked.steps)} steps, id {checked.id}")


@recipe_app.command("list")
def list_recipes(as_json: AsJson = False) -> None:
    """List the shipped recipes with their steps."""
    from rich.table import Table

    from compress.recipe import Recipe, shipped_recipes

    recipes = [Recipe.load(name) for name in shipped_recipes()]
    steps = [[step.label for step in recipe.steps] for recipe in recipes]
    result = {"recipes": [{"name": r.name, "id": r.id, "steps": s} for r, s in zip(recipes, steps, strict=True)]}

    def table(result: dict[str, Any]) -> Table:
        shown = Table("recipe", "steps")
        for row in result["recipes"]:
            shown.add_row(row["name"], ", ".join(row["steps"]))
        return shown

    print_result(result, as_json, table)


@recipe_app.command()
def show(recipe: RecipeName) -> None:
    """Print a recipe as YAML, to start one of your own from."""
    from compress.recipe import Recipe

    sys.stdout.write(Recipe.load(recipe).text)


@recipe_app.command()
def schema() -> None:
    """Print the JSON Schema of recipes."""
    from compress.recipe import schema

    sys.stdout.write(json.dumps(schema(), indent=2) + "\n")
