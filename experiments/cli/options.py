"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        help="reference, reference-small, a checkpoint, a folder written by `convert` or `compress`, a file written by "
        "`export`, or an adapter: FILE.py or package:Class."
    ),
]
AdapterFile = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        metavar="FILE",
        help="The adapter that a compressed model was made with; its code is run.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        help="synth, synth-shift, synth-video or synth-shift-video, with :split; real or real-avatar; "
        "or 3dpw, emdb or frames[:split]@PATH."
    ),
]
LabelFree = Annotated[
    bool, typer.Option("--label-free", help="Measure errors as distances to the joints of the original model.")
]
Masks = Annotated[
    str | None,
    typer.Option(
        help="Person masks of data in files: a folder of mask files, blazepose, rfdetr or ultralytics (AGPL)."
    ),
]
FrameCount = Annotated[int | None, typer.Option(min=1, help="Use at most this many frames.")]
CalibFrames = Annotated[int | None, typer.Option(min=1, help="Make choices on at most this many frames.")]
Mocap = Annotated[
    Path | None,
    typer.Option(
        envvar="FASTHMR_MOCAP", help="Folder of additional training motion: DeepMimic, ASF/AMC, BVH or AMASS."
    ),
]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="The name of a shipped recipe or a .yaml file.")]
Checkpoint = Annotated[
    Path, typer.Argument(help="A .ckpt, .pt, .pth or .safetensors file, or the index of a sharded one.")
]
Tokenizer = Annotated[Path | None, typer.Option(help="TokenHMR's tokenizer.pth.")]
CamModel = Annotated[Path | None, typer.Option(help="CameraHMR's cam_model_cleaned.ckpt.")]
Heads = Annotated[
    int | None, typer.Option(min=1, help="Attention heads of the backbone; shapes of weights do not determine them.")
]
StudyFile = Annotated[str, typer.Argument(metavar="STUDY", help="The .yaml file of a study.")]
Storage = Annotated[
    str | None,
    typer.Option(help="sqlite:///PATH or postgresql://USER@HOST/NAME; by default a file in $FASTHMR_HOME."),
]
Vae = Annotated[Path | None, typer.Option(help="Weights of `fasthmr train vae`; by default the shipped ones.")]
Minutes = Annotated[float | None, typer.Option(min=0.01, help="Minutes to train for; or give --steps.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimizer steps; a resumed run ends in the same weights.")]
Rate = Annotated[float, typer.Option(min=0, help="Learning rate after warm-up.")]
Batch = Annotated[int, typer.Option(min=1, help="Clips per step.")]
Products = Annotated[str, typer.Option("--precision", help="Precision of matrix products: float32 or bfloat16.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
