"""`fasthmr compress`: a recipe goes in, a smaller model comes out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from compress.errors import BadInput
from experiments.cli.options import AsJson, CalibFrames, Data, FrameCount, LabelFree, Masks
from experiments.cli.output import print_result, progress_bar, progress_callback, refuse_existing, result_table

if TYPE_CHECKING:
    from compress.context import Observer
    from compress.ranking.budget import MACBudget
    from compress.recipe import Recipe


def compress(
    *,
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="The name of a shipped recipe or a .yaml file.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="reference, reference-small, a checkpoint, a folder written by `convert`, or an adapter: FILE.py or "
            "package:Class."
        ),
    ],
    data: Data,
    out: Annotated[Path, typer.Option(help="The folder to write: the compressed model and what was measured.")],
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="In place of RECIPE: keep this share of the multiply-accumulates, by a ranking."
        ),
    ] = None,
    recover_minutes: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", help="With --budget: end in so many minutes of recovery from MODEL."),
    ] = None,
    frames: FrameCount = None,
    calib_frames: CalibFrames = None,
    label_free: LabelFree = False,
    masks: Masks = None,
    as_json: AsJson = False,
) -> None:
    """Compress MODEL by RECIPE: error and cost after each step, and an artefact folder that loads anywhere."""
    from compress.ranking.budget import MACBudget
    from compress.recipe import Recipe

    if (recipe is None) == (budget is None):
        raise BadInput("name a RECIPE, or --budget SHARE for one that follows from a ranking, and not both")
    if recipe is not None and recover_minutes is not None:
        raise BadInput("--recover-minutes goes with --budget: a RECIPE has a step of its own for it, recover")
    # its mistakes are reported before a model is looked for
    steps = Recipe.load(recipe) if recipe is not None else MACBudget(budget or 0.0, recover_minutes)
    refuse_existing(out)
    with progress_bar() as bar:
        counts = {"test": frames, "calib": calib_frames or frames}
        result = compress_and_save(steps, model, data, out, counts, label_free, masks, progress_callback(bar))
    print_result(result, as_json, steps_table)


def compress_and_save(
    asked: Recipe | MACBudget,
    model: str,
    data: str,
    out: Path,
    counts: dict[str, int | None],
    label_free: bool,
    masks: str | None,
    observer: Observer,
) -> dict[str, Any]:
    """Compress, write the artefact with its report to `out`, and return what `compress --json` prints.

    asked: a recipe, or the budget that one is made for. counts: how many frames of `calib`, and
    of the split that reports, at most. Raises BadInput, before anything is
    drawn, where recipe, model and frames do not fit each other and where `out` cannot be written.
    """
    import hmr
    from compress.artefact import refuse_taken
    from compress.pipeline import compress, refuse_misfit
    from compress.ranking.budget import MACBudget
    from experiments.reports.compression import CKA_FRAMES, page
    from hmr.data.datasets import reporting, with_split
    from hmr.models.device import best_device
    from hmr.resolver import load_original

    refuse_taken(out)
    original = load_original(model).to(best_device())
    facts: dict[str, Any] = {"model": original, "masks": masks, "label_free": label_free}
    test = hmr.frames(reporting(data, label_free, masks), counts["test"], **facts)
    chooses = isinstance(asked, MACBudget) or any(step.needs_calib or step.trains for step in asked.steps)
    count = counts["calib"] if chooses else counts["calib"] or CKA_FRAMES
    calib = hmr.frames(with_split(data, "calib"), count, **facts)
    recipe = budgeted(original, asked, calib, observer) if isinstance(asked, MACBudget) else asked
    refuse_misfit(original, recipe.steps, calib, test)
    test = test.drawn(observer)
    compressed = compress(original, recipe, calib=calib, test=test, observer=observer)
    html = page(compressed, test, calib, out)
    artefact_id = compressed.save(out, {"report.html": html.encode()})
    return {"artefact": {"path": str(out), "id": artefact_id}, **compressed.result}


def budgeted(original: Any, budget: MACBudget, calib: Any, observer: Observer) -> Recipe:
    """The recipe that keeps within a budget. Raises BadInput where it cannot, and for a model that was compressed
    already."""
    from compress.context import Context
    from compress.pipeline import refuse_misfit
    from compress.ranking.budget import recipe_for

    refuse_misfit(original, (), calib, None)
    return recipe_for(original, budget, Context(original, calib, observer), calib.has_masks)


def attach(
    decoder: Annotated[str, typer.Argument(help="The file that `fasthmr train decoder` wrote, or a shipped decoder.")],
    artefact: Annotated[Path, typer.Argument(help="The folder of the compressed model that it was trained for.")],
    out: Annotated[
        Path | None, typer.Option(help="Another folder to write; by default the artefact itself gets the decoder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put a motion decoder on a compressed model, by its own plan; nothing is compressed again."""
    import json

    from diffusion.attach import attach as put

    made = put(decoder, artefact, out)
    place = made["artefact"]
    typer.echo(json.dumps(made, allow_nan=False) if as_json else f"{place['path']}: {place['id'][:12]}")


def steps_table(result: dict[str, Any]) -> Table:
    """The row of each step, for people."""
    from compress.card import counted
    from experiments.reports.compression import cells

    source = result["provenance"]
    data, calib, saved = source["data"], source["calib"], result["artefact"]
    chosen = f"choices made on {calib['name']}:{calib['split']}, {calib['frames']} frames; " if calib else ""
    rows = [cells(row) for row in result["rows"]]
    shown = [name for name in rows[0] if not name.startswith(("PA-", "PVE", "Accel"))]  # as many as a terminal takes
    return result_table(
        f"{source['model']['name']} on {data['name']}:{data['split']}"
        + (", errors as distance to the original model" if source["label_free"] else ""),
        f"{counted(data)}; 95 % t intervals over recordings; {chosen}"
        f"seed {source['seed']}, commit {source['commit'][:12]}\n{saved['path']}: {saved['id'][:12]}",
        shown,
        [[row[name] for name in shown] for row in rows],
    )
