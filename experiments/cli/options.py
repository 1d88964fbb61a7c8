"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
