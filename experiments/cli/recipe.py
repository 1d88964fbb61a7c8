"""`fasthmr recipe`: what may stand in a recipe, and what is wrong with one."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import typer

from experiments.cli.options import AsJson, RecipeName

recipe_app = typer.Typer(help="Recipes.", no_args_is_help=True)


@recipe_app.command()
def check(recipe: RecipeName, as_json: AsJson = False) -> None:
    """Check a recipe, without a model: every mistake with its line and field."""
    from compress.document import InvalidDocument
    from compress.recipe import Recipe

    try:
        found = Recipe.load(recipe)
    except InvalidDocument as error:
        if as_json:
            errors = [asdict(mistake) for mistake in error.mistakes]
            sys.stdout.write(json.dumps({"valid": False, "errors": errors}) + "\n")
        raise
    if as_json:
        sys.stdout.write(json.dumps({"valid": True, "errors": []}) + "\n")
    else:
        typer.echo(f"{found.name}: {len(found.steps)} steps, id {found.id}")


@recipe_app.command()
def schema() -> None:
    """Print the JSON Schema of recipes."""
    from compress.recipe import schema

    sys.stdout.write(json.dumps(schema(), indent=2) + "\n")
