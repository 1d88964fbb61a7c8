"""`fasthmr data`: pictures of the data sets, and files of clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from compress.errors import BadInput
from experiments.cli.options import Data, FrameCount, Mocap
from experiments.cli.output import progress_bar, refuse_existing

data_app = typer.Typer(help="The data sets.", no_args_is_help=True)


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

    if out.suffix != ".json":
        raise BadInput(f"{out}: a file of clips ends in .json")
    refuse_existing(out.parent)
    if Path(source).is_dir():
        typer.echo(from_amass(Path(source), out))
        return
    spec = parse(source)
    splits = [spec.split] if ":" in source else ["train", "val"]
    drawn = [open_data(replace(spec, split=split), frames, mocap) for split in splits]
    videos = [some for some in drawn if some.fps is not None]
    if not videos:
        raise BadInput(f"{source}: a clip file holds videos: name synth-video")
    with progress_bar() as bar:
        task = bar.add_task(f"drawing {source}", total=sum(map(len, videos)))
        typer.echo(from_videos(videos, out, lambda n: bar.advance(task, n)))


def refuse_unless_new_png(out: Path) -> None:
    """Raise BadInput where `out` exists already or is not called a PNG."""
    refuse_existing(out)
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out {out}: the sheet is a PNG, so its name must end in .png")
