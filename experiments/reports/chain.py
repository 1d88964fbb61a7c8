"""`python -m experiments.reports.chain ARTEFACT`: frames, their tokens, and the bodies that two models see in them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Annotated

import typer
from matplotlib.figure import Figure
from PIL import Image

import hmr
from compress.atomic import atomic_write
from experiments.cli.main import ended
from experiments.reports import pictures, plots
from experiments.reports.compression import bodies_drawn, token_pictures

SIDE = 1.35  # inches of a crop's width
ROWS = ("picture", "tokens", "original", "compressed")


def drawn(rows: list[list[pictures.Picture]]) -> Figure:
    """Rows of crops (H, W, 3), each with its name in front."""
    columns = len(rows[0])
    figure = Figure(figsize=(SIDE * columns + 0.3, SIDE * 4 / 3 * len(rows)), layout="constrained")
    for i, row in enumerate(rows):
        for j, crop in enumerate(row):
            axes = figure.add_subplot(len(rows), columns, i * columns + j + 1)
            axes.imshow(crop, interpolation="antialiased")
            axes.set(xticks=[], yticks=[], ylabel="" if j else ROWS[i])
            axes.spines[:].set_visible(False)
    return figure


def small(png: bytes) -> bytes:
    """The same picture in 256 colours, a third as large: pages load it. k-means keeps the colour of thin lines."""
    stream = BytesIO()
    Image.open(BytesIO(png)).convert("RGB").quantize(256, kmeans=3).save(stream, "png", optimize=True)
    return stream.getvalue()


def main(
    artefact: Annotated[str, typer.Argument(help="A compressed model: a folder of `fasthmr compress`.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")],
    original: Annotated[str, typer.Option(help="The MODEL that it was made from.")] = "reference",
    data: Annotated[str, typer.Option(help="DATA, as elsewhere.")] = "synth:test",
    frames: Annotated[int, typer.Option(min=1, help="How many, evenly spread over the data.")] = 6,
) -> None:
    """Draw frames, their tokens, and the body that each of two models sees in them."""
    models = {"original": hmr.load(original), "compressed": hmr.load(artefact)}
    opened = hmr.frames(data, model=models["original"])
    shown = pictures.spread(len(opened), frames)
    crops = [opened[i].image for i in shown]
    tokens = [picture for picture, _ in token_pictures(models["compressed"], opened, shown)]
    bodies, _ = bodies_drawn(models, opened, shown)
    rows = [crops, tokens or crops, *bodies.values()]
    atomic_write(out, small(plots.png(drawn(rows))))


if __name__ == "__main__":
    ended(lambda: typer.run(main))
