"""Put a decoder on an artefact that was made before, by the artefact's own plans: nothing is compressed again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from compress import artefact
from compress.card import card
from compress.context import Context
from compress.errors import BadInput
from compress.pipeline import row, run_all_steps
from compress.provenance import provenance
from compress.recipe import Recipe
from diffusion.model.decoder import decoder_file, load_decoder
from diffusion.policy import MotionDecoder
from hmr.resolver import is_artefact, load


def attach(decoder: str, folder: Path, out: Path | None = None) -> dict[str, Any]:
    """Write the artefact `folder` with a decoder to `out`, or in its own place; returns its `result.json`.

    decoder: a shipped one or a file of weights. Rows that were measured stay; the new one has its cost alone, and a
    report, which shows the model without it, goes. Raises BadInput where the folder is no artefact or has a decoder
    already, where the decoder is another encoder's, and where `out` has something in it; Unwritable.
    """
    if not is_artefact(folder):
        raise BadInput(f"{folder}: this is no folder of `fasthmr compress`, and a decoder is put on such a one")
    if out is not None:
        artefact.refuse_taken(out)
    manifest, plans, contents = artefact.checked(folder)
    del contents[artefact.WEIGHTS]  # gigabytes, which `load` reads by itself
    if "adapter" in manifest.origin.base.sizes:
        raise BadInput(f"{folder}: a motion decoder decodes bodies, and this model's adapter gives joints alone")
    model = load(folder)
    if model.takes_clips:
        raise BadInput(f"{folder}: it has a decoder already; compress again without one, or name another artefact")
    step = MotionDecoder(kind=load_decoder(decoder_file(decoder)).kind, weights=decoder)
    context = Context(model)
    made = run_all_steps(model, [step], context)
    plan = context.plans[0]
    before = Recipe.parse(contents["recipe.yaml"].decode(), str(folder / "recipe.yaml"))
    recipe = Recipe(schema_version=1, name=before.name, steps=(*before.steps, step))
    result = {**measured(contents, model), "recipe_id": recipe.id}
    result["rows"] = [*result["rows"], row(plan.policy, plan, made, None, None)]
    place = out or folder

    def beside(made_id: str) -> dict[str, bytes]:
        result["artefact"] = {"path": str(place), "id": made_id}
        return {"result.json": artefact.canonical(result)}

    text = card(recipe, result["rows"], result["provenance"])
    whole = (*plans, plan)
    artefact.save(place, made, whole, manifest.origin, recipe.text, text, beside, replace=out is None)
    return result


def measured(contents: dict[str, bytes], model: Any) -> dict[str, Any]:
    """What was measured of an artefact, which of one that was saved by hand is nothing."""
    if "result.json" in contents:
        found: dict[str, Any] = json.loads(contents["result.json"])
        return found
    return {"rows": [], "provenance": provenance("compress", model, torch.device("cpu"))}
