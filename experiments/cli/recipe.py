"""`fasthmr recipe`: what may stand in a recipe, and what is wrong with one."""

from __future__ import annotations

import json
import sys

import typer

from experiments.cli.options import AsJson, RecipeName

recipe_app = typer.Typer(help="Recipes: what to do to a model.", no_args_is_help=True)


@recipe_app.command()
def check(recipe: RecipeName, as_json: AsJson = False) -> None:
    """Say what is wrong with a recipe: line, field and what was meant; looks at no model."""
    from compress.recipe import Recipe, check

    if not as_json:
        found = Recipe.load(recipe)
        typer.echo(f"{found.name}: {len(found.steps)} steps, id {found.id}")
        return
    result = check(recipe)
    sys.stdout.write(json.dumps(result) + "\n")
    if not result["valid"]:
        Recipe.load(recipe)  # raises what is wrong


@recipe_app.command()
def schema() -> None:
    """The JSON Schema of recipes."""
    from compress.recipe import schema

    sys.stdout.write(json.dumps(schema(), indent=2) + "\n")
