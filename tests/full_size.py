"""`fasthmr compress` without labels at full size, end to end: a user's checkpoint, a user's video, masks by BlazePose.

    python -m tests.full_size hmr2|camerahmr VIDEO --out DIR

The weights are random, and large enough that two pictures give two bodies. `make full-size` fetches the video and
BlazePose, and runs both families. Whatever does not hold is an AssertionError.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_closing, find_objects, label
from yacs.config import CfgNode

from hmr.body.files import load_body
from hmr.checkpoints.files import load
from hmr.data.datasets import DataSpec, open_data
from hmr.data.masks import BlazePose
from hmr.data.pictures import listed, read
from hmr.evaluation.predict import batches
from hmr.media.listing import spread
from hmr.models.model import HMRModel, build

log = logging.getLogger(__name__)

FRAMES = 16
LAYERS, TOKENS = {"hmr2": 28, "camerahmr": 26}, 90
APART_MM = 50.0
CONTENT, POSE = 30.0, 20.0  # how much louder than in a fresh network: pictures beside positions, and what the head says
FOV = 1.0  # radians


def boxes(video: Path) -> None:
    """Write the box of what moves most in every other frame of a video whose camera stands still, if BlazePose finds a
    person in it."""
    names, finder = listed(video)[0], BlazePose()
    photos = list(read(video, spread(names, len(names) // 2)))
    small = np.stack([photo.image[::4, ::4] for photo in photos]).astype(np.int16)  # (T, H/4, W/4, 3)
    moved = np.abs(small - np.median(small, 0)).max(-1) > 40
    with video.with_name(f"{video.name}.boxes.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        for photo, frame in zip(photos, moved, strict=True):
            parts, _ = label(binary_closing(frame, np.ones((7, 7))))
            found = find_objects(parts)
            down, across = max(found, key=lambda part: int((parts[part] > 0).sum()))
            left, top, right, bottom = (4 * n for n in (across.start, down.start, across.stop, down.stop))
            if finder.mask(photo, (left, top, right, bottom)) is not None:
                rows.writerow([photo.name, left, top, right, bottom])


@torch.no_grad()
def checkpoint(family: str, folder: Path) -> list[str]:
    """Files as the family's authors write them, with random weights; `fasthmr convert`'s words for them."""
    torch.manual_seed(0)
    model = build(family)
    model.backbone.patch_embed.proj.weight.mul_(CONTENT)
    model.head.decpose.weight.mul_(POSE)  # type: ignore[operator]
    if family == "camerahmr":
        model.get_parameter("fov_net.fc3.bias").fill_(FOV)
    state = model.state_dict()
    net = {key.removeprefix("fov_net."): state.pop(key) for key in list(state) if key.startswith("fov_net.")}
    settings = {"cfg": CfgNode({"MODEL": {"IMAGE_SIZE": 256}})}
    torch.save({"state_dict": state, "hyper_parameters": settings}, folder / "model.ckpt")
    if not net:
        return [str(folder / "model.ckpt")]
    torch.save({"state_dict": {f"model.{key}": value for key, value in net.items()}}, folder / "cam_model.ckpt")
    return [str(folder / "model.ckpt"), "--cam-model", str(folder / "cam_model.ckpt")]


def fasthmr(*words: object) -> str:
    """What a command says on stdout."""
    log.info("$ fasthmr %s", " ".join(map(str, words)))
    command = [sys.executable, "-m", "experiments.cli", *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@torch.inference_mode()
def spread_of(model: HMRModel, data: Any) -> float:
    """The largest mean distance in mm between the joints of the first picture and another's, pelvis on pelvis."""
    body = load_body()
    joints = []
    for some in batches(data, torch.device("cpu")):
        said = model(*some.inputs)
        joints.append(body.skeleton(said.rotations.float(), said.betas.float()))
    found = torch.cat(joints)
    found = found - found[:, :1]
    return 1000 * (found - found[:1]).norm(dim=-1).mean(1).max().item()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("family", choices=LAYERS)
    options.add_argument("video", type=Path)
    options.add_argument("--out", type=Path, required=True)
    asked = options.parse_args()
    asked.out.mkdir(parents=True)
    boxes(asked.video)
    original = asked.out / "original"
    with ProcessPoolExecutor(1) as apart:  # whose memory goes with it
        files = apart.submit(checkpoint, asked.family, asked.out).result()
    fasthmr("convert", *files, "--out", original)
    for file in asked.out.glob("*.ckpt"):
        file.unlink()

    model = load(original)
    data = open_data(DataSpec("frames", "test", asked.video, "blazepose"), 4, model=model)
    distance = spread_of(model, data)
    log.info("two pictures are %.0f mm apart", distance)
    assert distance >= APART_MM
    del model

    seen = ["--data", f"frames@{asked.video}", "--masks", "blazepose", "--frames", FRAMES, "--label-free", "--json"]
    out = asked.out / "compressed"
    made = json.loads(fasthmr("compress", f"fasthmr-{asked.family}", "--model", original, *seen, "--out", out))
    for row in made["rows"]:
        log.info("%s", {name: row[name] for name in ("step", "layers", "tokens", "params", "macs", "mpjpe_mm")})
    log.info("%s", made["provenance"]["data"])
    assert made["provenance"]["data"]["frames"] == FRAMES
    first, last = made["rows"][0]["mpjpe_mm"]["mean"], made["rows"][-1]
    assert (last["layers"], last["tokens"][-1]) == (LAYERS[asked.family], TOKENS)
    assert first < 0.01 < last["mpjpe_mm"]["mean"]  # the original is itself, and what is compressed is not

    again, twice = (json.loads(fasthmr("evaluate", out, *seen, "--against", original))["rows"][0] for _ in range(2))
    log.info("the artefact, loaded again: %s", again["mpjpe_mm"])
    assert again == twice  # to the bit
    assert all(math.isclose(again[name]["mean"], last[name]["mean"], rel_tol=1e-4) for name in ("mpjpe_mm", "pve_mm"))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main()
