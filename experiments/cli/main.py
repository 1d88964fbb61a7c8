"""The command `fasthmr`: 0 done, 2 bad input told in one sentence, 1 a bug.

What a command needs is imported inside it, so that `fasthmr --help` does not wait for torch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from compress.atomic import occupied
from compress.errors import BadInput

if TYPE_CHECKING:
    import torch

    from diffusion.training.loop import TrainConfig
    from hmr.data.datasets import DataSpec
    from hmr.load import Resolved

app = typer.Typer(
    help="Make human mesh recovery models smaller and faster, and measure what it costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
body_app = typer.Typer(help="The body model that everything is posed on.", no_args_is_help=True)
data_app = typer.Typer(help="The data sets.", no_args_is_help=True)
train_app = typer.Typer(help="Training.", no_args_is_help=True)
recipe_app = typer.Typer(help="Recipes: what to do to a model.", no_args_is_help=True)
masks_app = typer.Typer(help="Networks that find the person.", no_args_is_help=True)
for _name, _group in (
    ("body", body_app),
    ("masks", masks_app),
    ("data", data_app),
    ("train", train_app),
    ("recipe", recipe_app),
):
    app.add_typer(_group, name=_name)

Model = Annotated[
    str, typer.Argument(help="reference, reference-small, a checkpoint, or a folder of `convert` or `compress`.")
]
Data = Annotated[
    str,
    typer.Option(
        help="synth, synth-shift, synth-video, synth-shift-video, with :split, or 3dpw, emdb, frames[:split]@PATH."
    ),
]
LabelFree = Annotated[bool, typer.Option("--label-free", help="Errors are distances to the original model's joints.")]
Masks = Annotated[
    str | None,
    typer.Option(help="For what lies in files: a folder of mask files, blazepose, rfdetr, or ultralytics (AGPL)."),
]
FrameCount = Annotated[int | None, typer.Option(min=1, help="Use no more than this many frames.")]
CalibFrames = Annotated[int | None, typer.Option(min=1, help="Decide on no more than this many frames.")]
Mocap = Annotated[
    Path | None,
    typer.Option(envvar="FASTHMR_MOCAP", help="Folder of more motion to train on: DeepMimic, ASF/AMC, BVH or AMASS."),
]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="The name of a shipped recipe or a .yaml file.")]
Checkpoint = Annotated[Path, typer.Argument(help="A .ckpt, .pt, .pth or .safetensors file, or a shards' index.")]
Tokenizer = Annotated[Path | None, typer.Option(help="TokenHMR's tokenizer.pth.")]
CamModel = Annotated[Path | None, typer.Option(help="CameraHMR's cam_model_cleaned.ckpt.")]
Heads = Annotated[int | None, typer.Option(min=1, help="Attention heads of the backbone, which no shape tells.")]
StudyFile = Annotated[str, typer.Argument(metavar="STUDY", help="The .yaml file of a study.")]
Storage = Annotated[
    str | None,
    typer.Option(help="sqlite:///PATH or postgresql://USER@HOST/NAME; a file in $FASTHMR_HOME where none is named."),
]
Minutes = Annotated[float | None, typer.Option(min=0.01, help="Wall clock to train for; or --steps.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimizer steps: what is resumed ends in the same weights.")]
Rate = Annotated[float, typer.Option(min=0, help="Learning rate after warm-up.")]
Batch = Annotated[int, typer.Option(min=1, help="Clips of a step.")]
Products = Annotated[str, typer.Option("--precision", help="Of products: float32 or bfloat16.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
LINE_SECONDS = 30.0  # between lines of progress where stderr is no terminal
COLUMNS = {
    "mpjpe_mm": "MPJPE mm",
    "pa_mpjpe_mm": "PA-MPJPE mm",
    "pve_mm": "PVE mm",
    "accel_mm_per_frame2": "Accel mm/frame²",
}


@app.command()
def evaluate(
    model: Model,
    data: Data,
    frames: FrameCount = None,
    mocap: Mocap = None,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Also say by how much MODEL's error differs from this one's.")
    ] = None,
    label_free: LabelFree = False,
    masks: Masks = None,
    as_json: AsJson = False,
) -> None:
    """Errors of MODEL, beside predictors that see no picture, and its frames/s."""
    from hmr.data.datasets import parse
    from hmr.load import resolve_model

    spec = parse(data, label_free, masks)
    if label_free and against is None:
        raise BadInput("--label-free measures the distance to another model: name the original with --against")
    other = resolve_model(against) if against is not None else None
    tell(evaluation(resolve_model(model), spec, frames, mocap, other, label_free), as_json, evaluation_table)


@app.command()
def depth(model: Model, data: Data, frames: FrameCount = None, as_json: AsJson = False) -> None:
    """What each block of MODEL is worth: the error when that one is left out."""
    from hmr.data.datasets import parse
    from hmr.load import resolve_model

    tell(depth_of(resolve_model(model), parse(data), frames), as_json, depth_table)


@app.command()
def cost(
    model: Annotated[str, typer.Argument(help="A MODEL as elsewhere, an architecture, as hmr2, or decoder-paper.")],
    recipe: Annotated[
        str | None, typer.Option(help="Count it after this recipe: one that does not have to look at data.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Parameters, multiply-accumulates, time and memory of MODEL per frame."""
    from compress.recipe import read_recipe
    from experiments.cost import PREFIX, cost_table, decoder_cost, decoder_table, model_cost

    if model.startswith(PREFIX):
        tell(decoder_cost(model), as_json, decoder_table)
        return
    tell(model_cost(model, read_recipe(recipe)[0].steps if recipe is not None else ()), as_json, cost_table)


@app.command()
def compress(
    recipe: RecipeName,
    model: Annotated[str, typer.Option(help="reference, reference-small or a .safetensors file of `fasthmr train`.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="The folder to write: the compressed model and what was measured.")],
    frames: FrameCount = None,
    calib_frames: CalibFrames = None,
    label_free: LabelFree = False,
    masks: Masks = None,
    as_json: AsJson = False,
) -> None:
    """Compress MODEL by RECIPE: its error and cost after each step, and a folder that loads anywhere."""
    from compress.recipe import read_recipe
    from experiments.run import compress, steps_table
    from hmr.data.datasets import parse
    from hmr.load import resolve_model

    spec = parse(data, label_free, masks)
    read_recipe(recipe)  # its mistakes are told before a model is looked for
    refuse_existing(out)
    with progress_bar() as bar:
        result = compress(recipe, resolve_model(model), spec, out, frames, shown_on(bar), label_free, calib_frames)
    tell(result, as_json, steps_table)


@app.command()
def search(
    study: StudyFile,
    trials: Annotated[int, typer.Option(min=1, help="Trials that the study shall have in all, measured to the end.")],
    storage: Storage = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine, of one thread each.")] = 1,
    label_free: LabelFree = False,
    masks: Masks = None,
    as_json: AsJson = False,
) -> None:
    """Measure many recipes, and show those that nothing beats in cost and error; goes on where it stopped."""
    from experiments.reports.front import front_table, of_study, result
    from experiments.search.storage import default_storage
    from experiments.search.study import read_study
    from experiments.search.workers import Job, search

    asked = read_study(study)
    with progress_bar() as bar:
        search(Job(asked, storage or default_storage(asked.name), trials, workers, label_free, masks), shown_on(bar))
    told = of_study(study, storage)
    tell(result(told), as_json, lambda _: front_table(told))


@app.command()
def report(
    studies: Annotated[
        list[str], typer.Argument(metavar="STUDY_OR_FOLDERS...", help="A study's .yaml file, folders of `compress`.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write: page, front.json, tables, recipes.")],
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """One page to decide from: the front, what it costs, where it is wrong, and how to build each of its points."""
    from experiments.reports.front import front_table, story
    from experiments.reports.front_page import write

    refuse_existing(out)
    told = story(studies, storage)
    with progress_bar() as bar:
        found = write(told, out, shown_on(bar))
    tell(found, as_json, lambda _: front_table(told))


@app.command()
def paper(
    table: Annotated[
        str,
        typer.Argument(help="all, one of the paper's (tab2, fig2, ...), or a sceptic's: operators, tokens, budgets."),
    ],
    model: Annotated[str, typer.Option(help="reference, reference-small or a checkpoint.")],
    data: Data,
    out: Annotated[Path | None, typer.Option(help="The folder to write: the page and its figures.")] = None,
    frames: FrameCount = None,
    calib: Annotated[
        str | None, typer.Option(metavar="DATA", help="What decides, for data that has a test split alone, as emdb.")
    ] = None,
    calib_frames: CalibFrames = None,
    masks: Masks = None,
    recover_minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Also measure each row after so many minutes of label-free recovery.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A table of the paper of MODEL, and whether what the paper finds holds in it; one that was killed goes on."""
    from experiments.paper import evidence, grid
    from experiments.paper.ablation import Bench
    from experiments.paper.tables import ALL, tables
    from hmr.data.datasets import deciding, parse
    from hmr.load import resolve_model

    chosen, spec, decide = tables(table), parse(data, masks=masks), deciding(calib) if calib else None
    if table == ALL:
        frames, calib_frames = frames or evidence.FRAMES, calib_frames or evidence.CALIB_FRAMES
    if out is not None:
        refuse_existing(out)
    with progress_bar() as bar:
        bench = Bench(resolve_model(model), spec, frames, calib_frames, shown_on(bar), decide)
        result = evidence.ablate_all(chosen, bench, recover_minutes)
    if out is not None:
        evidence.write(result, out)
    bench.forget()
    if table == ALL:
        tell(result, as_json, evidence.shown)
    else:
        tell(result["tables"][0], as_json, grid.shown)


@app.command()
def inspect(
    path: Checkpoint,
    tokenizer: Tokenizer = None,
    cam_model: CamModel = None,
    heads: Heads = None,
    as_json: AsJson = False,
) -> None:
    """What a checkpoint holds: its family, sizes, and what of it would be left out; runs nothing in it."""
    from experiments.convert import inspection, inspection_table

    found = inspection(path, heads, tokenizer=tokenizer, cam_model=cam_model)
    tell(found, as_json, inspection_table)


@app.command()
def convert(
    path: Checkpoint,
    out: Annotated[Path, typer.Option(help="The folder to write: safetensors, manifest and licence.")],
    tokenizer: Tokenizer = None,
    cam_model: CamModel = None,
    heads: Heads = None,
    as_json: AsJson = False,
) -> None:
    """A checkpoint as a folder that every command takes as MODEL."""
    from experiments.convert import convert

    refuse_existing(out)
    made = convert(path, out, heads, tokenizer=tokenizer, cam_model=cam_model)
    sys.stdout.write((json.dumps(made) if as_json else made["path"]) + "\n")


@recipe_app.command()
def check(recipe: RecipeName, as_json: AsJson = False) -> None:
    """Say what is wrong with a recipe: line, field and what was meant; looks at no model."""
    from compress.recipe import check, read_recipe

    if not as_json:
        found, _ = read_recipe(recipe)
        typer.echo(f"{found.name}: {len(found.steps)} steps, id {found.id}")
        return
    result = check(recipe)
    sys.stdout.write(json.dumps(result) + "\n")
    if not result["valid"]:
        read_recipe(recipe)  # raises what is wrong


@recipe_app.command()
def schema() -> None:
    """The JSON Schema of recipes."""
    from compress.recipe import schema

    sys.stdout.write(json.dumps(schema(), indent=2) + "\n")


@body_app.command("import")
def body_import(path: Annotated[Path, typer.Argument(help="An official SMPL or MANO .pkl or .npz file.")]) -> None:
    """Convert an SMPL or MANO file to plain arrays in $FASTHMR_HOME, without running anything in it."""
    from hmr.body.model import import_body

    typer.echo(import_body(path))


@masks_app.command("import")
def masks_import(path: Annotated[Path, typer.Argument(help="mediapipe's wheel 0.10.21, or a .tflite file.")]) -> None:
    """Put BlazePose's network into $FASTHMR_HOME for --masks blazepose; nothing in the wheel is run."""
    from hmr.data.masks import import_masks

    typer.echo(import_masks(path))


@data_app.command()
def preview(
    data: Data,
    out: Annotated[Path, typer.Option(help="The .png file to write.")],
    frames: Annotated[int, typer.Option(min=1, max=400, help="Number of frames, spread over the data set.")] = 24,
    mocap: Mocap = None,
) -> None:
    """A contact sheet: pictures, their masks and their joints."""
    from compress.atomic import atomic_write
    from experiments.reports.preview import contact_sheet
    from hmr.data.datasets import open_data, parse

    spec = parse(data)
    if spec.root:
        raise BadInput(f"preview draws what is rendered: {spec.name} lies in {spec.root} as pictures")
    refuse_unless_new_png(out)
    opened = open_data(spec, mocap=mocap)
    count = min(frames, len(opened))
    samples = [opened[i * len(opened) // count] for i in range(count)]
    atomic_write(out, contact_sheet(samples))


@data_app.command()
def motion(out: Annotated[Path, typer.Option(help="The .png file to write.")], mocap: Mocap = None) -> None:
    """A sheet of motion clips, two of each file format in --mocap, or six of the shipped ones."""
    from compress.atomic import atomic_write
    from experiments.reports.preview import clips_to_show, motion_sheet

    refuse_unless_new_png(out)
    atomic_write(out, motion_sheet(clips_to_show(mocap)))


@train_app.command()
def hmr(
    out: Annotated[Path, typer.Option(help="Folder of the run; one that was stopped goes on.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="Minutes of training, drawing the frames apart.")],
    architecture: Annotated[str, typer.Option(help="reference or reference-small.")] = "reference",
    frames: Annotated[int, typer.Option(min=1, help="Pictures at half size; half as many at full.")] = 100_000,
    start: Annotated[Path | None, typer.Option(help="Weights to go on from, also of half the blocks.")] = None,
    mocap: Mocap = None,
) -> None:
    """Train an HMR model on synth:train, from nothing or from weights; prints the file of weights."""
    import logging

    from experiments.training import train_hmr

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("accelerate").setLevel(logging.WARNING)  # it tells of every file of every checkpoint
    typer.echo(train_hmr(architecture, out, minutes, frames, mocap, start, os.cpu_count() or 1))


@train_app.command()
def vae(
    out: Annotated[Path, typer.Option(help="Folder of the run; one that was stopped goes on.")],
    minutes: Minutes = None,
    steps: Steps = None,
    size: Annotated[str, typer.Option(help="reference or paper.")] = "reference",
    mocap: Mocap = None,
    data: Annotated[Path | None, typer.Option(help="A file of clips to learn from, of `fasthmr data clips`.")] = None,
    lr: Rate = 2e-3,
    batch: Batch = 16,
    precision: Products = "float32",
    pieces: Annotated[int | None, typer.Option(min=1, help="Pieces of motion that are cut from recordings.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a motion VAE and say how well it reconstructs families of motion that it never saw."""
    from accelerate import PartialState

    from experiments.motion import reconstruction_table, vae_training

    config = training(out, minutes, steps, lr, batch, precision)
    result = vae_training(size, config, mocap, data, pieces)
    if PartialState().is_main_process:  # of those of `accelerate launch` one speaks
        tell(result, as_json, reconstruction_table)


@train_app.command()
def decoder(
    model: Annotated[str, typer.Option(help="The encoder: a MODEL as elsewhere, or a folder of `compress`.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; one that was stopped goes on.")],
    data: Annotated[str, typer.Option(help="synth-video, or a file of clips (.json).")] = "synth-video",
    vae: Annotated[Path | None, typer.Option(help="Weights of `fasthmr train vae`, else the shipped ones.")] = None,
    minutes: Minutes = None,
    steps: Steps = None,
    frames: FrameCount = None,
    mocap: Mocap = None,
    lr: Rate = 3e-4,
    batch: Batch = 16,
    precision: Products = "float32",
) -> None:
    """Train a motion decoder on the features of one encoder; prints the file of weights."""
    from accelerate import PartialState

    from experiments.motion import decoder_training
    from hmr.load import resolve_model

    config = training(out, minutes, steps, lr, batch, precision)
    with progress_bar() as bar:
        path = decoder_training(resolve_model(model), data, vae, config, mocap, frames, tell=shown_on(bar))
    if PartialState().is_main_process:
        typer.echo(path)


def training(out: Path, minutes: float | None, steps: int | None, lr: float, batch: int, precision: str) -> TrainConfig:
    """How to train, with lines about it on stderr; raises BadInput for neither or both of minutes and steps."""
    import logging

    from pydantic import ValidationError

    from diffusion.training.loop import TrainConfig

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("accelerate").setLevel(logging.WARNING)  # it tells of every file of every checkpoint
    try:
        return TrainConfig(out=out, minutes=minutes, steps=steps, lr=lr, batch=batch, precision=precision)  # type: ignore[arg-type]  # told below
    except ValidationError as error:
        raise BadInput(f"training: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error


@app.command()
def decoders(
    table: Annotated[
        str,
        typer.Argument(
            help="decoder, objectives, denoising-steps, representation, protection, latents or noise-seeds."
        ),
    ],
    model: Annotated[str, typer.Option(help="The original encoder: a MODEL as elsewhere.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of every row that is trained.")],
    data: Data = "synth-video:test",
    recipe: Annotated[str, typer.Option(help="Whose merge_layers and merge_tokens are used.")] = "fasthmr-reference",
    out: Annotated[Path | None, typer.Option(help="A .json file to write: the record of this table.")] = None,
    vae: Annotated[Path | None, typer.Option(help="Weights of `fasthmr train vae`, else the shipped ones.")] = None,
    vae_steps: Annotated[int, typer.Option(min=0, help="Train VAEs for the rows, this long; 0 takes --vae.")] = 0,
    frames: FrameCount = None,
    train_frames: Annotated[int | None, typer.Option(min=1, help="Train on no more than this many frames.")] = None,
    batch: Batch = 16,
    precision: Products = "float32",
    mocap: Mocap = None,
    as_json: AsJson = False,
) -> None:
    """What each part of the decoder is worth, beside what a sceptic would try instead."""
    from typing import get_args

    from compress.atomic import atomic_write
    from compress.choices import one_of
    from compress.training import Precision
    from experiments.paper.decoders import TABLES, Budget, compared, shown
    from hmr.data.datasets import parse
    from hmr.load import resolve_model

    spec, name = parse(data), one_of(table, TABLES, "table")
    budget = Budget(steps, vae_steps, batch, precision=one_of(precision, get_args(Precision), "precision"))
    if out is not None:
        refuse_existing(out)
    with progress_bar() as bar:
        result = compared(
            name,
            resolve_model(model),
            recipe,
            spec,
            budget,
            vae,
            frames,
            train_frames,
            mocap,
            shown_on(bar),
        )
    if out is not None:
        atomic_write(out, json.dumps(result, indent=1, allow_nan=False).encode())
    tell(result, as_json, shown)


@app.command()
def reconstruct(
    weights: Annotated[
        Path | None, typer.Argument(help="Weights of `fasthmr train vae`, else the shipped ones.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How far motion that a VAE reconstructs is from what it was given, on families it never saw."""
    from experiments.motion import reconstruction, reconstruction_table

    tell(reconstruction(weights), as_json, reconstruction_table)


@data_app.command()
def clips(
    source: Annotated[
        str, typer.Argument(help="A folder of AMASS .npz files, or synth-video: train and val, or its :split alone.")
    ],
    out: Annotated[Path, typer.Option(help="The .json file to write; what it names is written beside it.")],
    frames: FrameCount = None,
    mocap: Mocap = None,
) -> None:
    """A file of clips to train on, as a user would write for data of their own."""
    from hmr.data.datasets import open_data, parse
    from hmr.motion.clip_file import from_amass, from_videos
    from hmr.world.synthetic import Videos

    if out.suffix != ".json":
        raise BadInput(f"{out}: a file of clips ends in .json")
    refuse_existing(out.parent)
    if Path(source).is_dir():
        typer.echo(from_amass(Path(source), out))
        return
    spec = parse(source)
    splits = [spec.split] if ":" in source else ["train", "val"]
    drawn = [open_data(replace(spec, split=split), frames, mocap) for split in splits]
    videos = [some for some in drawn if isinstance(some, Videos)]
    if not videos:
        raise BadInput(f"{source}: a clip file holds videos: name synth-video")
    with progress_bar() as bar:
        task = bar.add_task(f"drawing {source}", total=sum(map(len, videos)))
        typer.echo(from_videos(videos, out, lambda n: bar.advance(task, n)))


def evaluation(
    model: Resolved,
    spec: DataSpec,
    frames: int | None,
    mocap: Path | None,
    other: Resolved | None = None,
    label_free: bool = False,
) -> dict[str, Any]:
    """What `evaluate --json` prints, with progress on stderr."""
    from diffusion.policy import decoder_in
    from experiments.run import Held
    from hmr.data.datasets import DataSpec, body_of, open_data, poses_hand
    from hmr.evaluation import evaluate
    from hmr.evaluation.label_free import labelled
    from hmr.evaluation.provenance import provenance

    device = best_device()
    model.model.to(device)
    if other and poses_hand(other.model) != poses_hand(model.model):
        raise BadInput(f"{model.name} and {other.name}: one poses a hand and one a body; name two of a kind")
    opened = open_data(spec, frames, mocap, model=model.model)
    body = body_of(opened, model.model).to(device)
    for looking in (model, *([other] if other else [])):
        if spec.mask_source == "none" and looking.model.protect is not None:
            raise BadInput(f"{looking.name} looks at person masks and these pictures have none: name some with --masks")
        if opened.fps is None and decoder_in(looking.model) is not None:
            raise BadInput(
                f"{looking.name} decodes motion, and these frames do not follow each other: name synth-video"
            )
    # the shipped motion alone, whatever --mocap says: trivial rows are the same on every machine;
    # and small crops: of the training frames only the poses are looked at
    bodies = None if poses_hand(model.model) else open_data(DataSpec("synth", "train"), size=(32, 24))
    mean = None if bodies is None else evaluate.mean_rotations(bodies)
    rival = other.model.to(device) if other else None
    if label_free and rival:
        notes = getattr(opened, "notes", {})
        opened = Held(labelled(rival, opened, device), opened.fps, opened.clip_names, notes)
        rival = None
    with progress_bar() as bar:
        task = bar.add_task(f"{model.name} on {spec.name}:{spec.split}", total=len(opened))
        result = evaluate.evaluate(model.model, opened, body, mean, device, lambda n: bar.advance(task, n), rival)
    if other and not label_free:
        result["paired"] = {"against": other.name, **result["paired"]}
    source = provenance("evaluate", model, body, spec, opened, device)
    return {**result, "provenance": source | {"label_free": other.name if other and label_free else None}}


def depth_of(model: Resolved, spec: DataSpec, frames: int | None) -> dict[str, Any]:
    """What `depth --json` prints, with progress on stderr."""
    from hmr.data.datasets import body_of, open_data
    from hmr.evaluation.depth import depth
    from hmr.evaluation.provenance import provenance

    device = best_device()
    opened = open_data(spec, frames, model=model.model)
    body = body_of(opened, model.model).to(device)
    with progress_bar() as bar:
        task = bar.add_task(f"blocks of {model.name} on {spec.name}:{spec.split}", total=len(opened))
        result = depth(model.model.to(device), opened, body, device, lambda n: bar.advance(task, n))
    return {**result, "provenance": provenance("depth", model, body, spec, opened, device)}


def best_device() -> torch.device:
    """The GPU where there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def tell(result: dict[str, Any], as_json: bool, table: Callable[[dict[str, Any]], Table]) -> None:
    """A result on stdout: one JSON object, or a table for people."""
    if as_json:
        sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
        return
    # rich takes 80 columns where stdout is no terminal, and would fold the cells
    Console(width=None if sys.stdout.isatty() else 140).print(table(result))


def evaluation_table(result: dict[str, Any]) -> Table:
    """The rows of an evaluation."""
    speed = f"{result['frames_per_s']:.1f} frames/s, "
    found = titled(result["provenance"], speed)
    if original := result["provenance"]["label_free"]:
        found.caption = f"errors are distances to what {original} says, not to labels\n{found.caption}"
    if "paired" in result:
        name, rise = result["paired"]["against"], cell(result["paired"]["mpjpe_mm"])
        found.caption = f"MPJPE minus that of {name}, on the same frames: {rise} mm\n{found.caption}"
    found.add_column("predictor")
    for heading in COLUMNS.values():
        found.add_column(heading, justify="right")
    for row in result["rows"]:
        found.add_row(row["name"], *(cell(row[key]) for key in COLUMNS))
    return found


def depth_table(result: dict[str, Any]) -> Table:
    """The whole model's error, and by how much it rises without each block."""
    found = titled(result["provenance"])
    found.add_column("blocks")
    found.add_column("MPJPE mm", justify="right")
    found.add_row("all", cell(result["mpjpe_mm"]), end_section=True)
    for row in result["rows"]:
        found.add_row(f"without {row['block']}", cell(row["rise_mm"], "+.1f"))
    return found


def titled(source: dict[str, Any], speed: str = "") -> Table:
    """An empty table that says what was measured, from its provenance."""
    from hmr.evaluation.provenance import counted

    data = source["data"]
    return Table(
        title=f"{source['model']['name']} on {data['name']}:{data['split']}",
        caption=f"{counted(data)}; 95 % bootstrap intervals over recordings\n"
        f"{speed}{source['device']}, {source['threads']} threads, "
        f"{source['precision']}; seed {source['seed']}, commit {source['commit'][:12]}",
    )


def cell(value: dict[str, float] | None, form: str = ".1f") -> str:
    """An interval, escaped for rich."""
    return "-" if value is None else f"{value['mean']:{form}} \\[{value['lo']:{form}}, {value['hi']:{form}}]"


def progress_bar() -> Progress:
    """A bar on stderr, and nothing where stderr is no terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # Time left follows from the last hour: one trial of a search can take longer than rich's half a minute.
    console = Console(stderr=True)
    return Progress(*columns, console=console, speed_estimate_period=3600, disable=not sys.stderr.isatty())


def shown_on(bar: Progress) -> Callable[[str, str, int, int], None]:
    """A function that tells `bar` what is being done, a word on it, how much of it is done, of how much.

    Where stderr is no terminal it writes a line now and then, so that the log of a night says where it stands.
    """
    tasks: dict[str, TaskID] = {}
    told = time.monotonic()

    def show(what: str, word: str, done: int, total: int) -> None:
        nonlocal told
        if bar.disable:
            if time.monotonic() - told > LINE_SECONDS:
                told = time.monotonic()
                sys.stderr.write(f"{what} {word} {done} of {total}\n")
            return
        if what not in tasks:
            tasks[what] = bar.add_task(what)
        bar.update(tasks[what], description=escape(f"{what} {word}"), completed=done, total=total)

    return show


def refuse_unless_new_png(out: Path) -> None:
    """Raise BadInput where `out` exists already or is not called a PNG."""
    refuse_existing(out)
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out {out}: the sheet is a PNG, so its name must end in .png")


def refuse_existing(out: Path) -> None:
    """Raise BadInput where `out` is a file or folder with something in it."""
    if not occupied(out):
        return
    if out.is_dir():
        raise BadInput(f"--out {out}: the folder is not empty; name another one")
    if out.stat().st_size:
        raise BadInput(f"--out {out}: the file exists; name another one or remove it")


def main() -> None:
    """Entry point; turns BadInput into a sentence on stderr and exit code 2."""
    try:
        app()
    except BadInput as error:
        sys.stderr.write("fasthmr: " + " ".join(str(error).split()) + "\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
