"""How real people of the synthetic world are to a network that knows real ones: BlazePose's 2D error on `synth:val`.

    python -m experiments.build.realism [FRAMES [HEIGHT]]

`error` is the distance in the picture between BlazePose's limb joints and the body's, without the offsets that are
known between them; `reprojected` and `held_out` are what is measured on real people, whose joints nobody knows: four
cameras around see the same pose, and points triangulated from all, or from the other three, are projected back.
All are medians, as shares of the person's height, over limb joints that BlazePose calls visible; `error` leaves out
what lies outside the picture or behind something else, too.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from experiments.build.landmark_offsets import around
from hmr.body.limbs import ROWS
from hmr.data.blazepose import LandmarkNetwork
from hmr.data.real_people.camera import Camera
from hmr.data.real_people.offsets import LIMB_LANDMARKS, landmarks_of, read_offsets
from hmr.data.real_people.triangulation import Views, triangulated
from hmr.data.sample import Sample, known
from hmr.motion.recordings import load_clips
from hmr.world.scene import SYNTH, scene
from hmr.world.synthetic import even_shares, generator, some_frame
from hmr.world.view import draw

STATURE = 1.75  # m
PIXELS = 880.0  # of a person's height, to which cameras are scaled: Pose2Sim's man
VISIBLE = 0.5
VIEWS = 4


@dataclass(frozen=True)
class Sighting:
    """One person in one picture, in pixels of a picture in which they are PIXELS high: BlazePose's limbs (12,2), the
    body's joints as it would place them (12,2), whether they are visible to it and in the picture (12,), the camera in
    axes of the body's root."""

    pixels: Tensor
    true: Tensor
    visible: Tensor
    shown: Tensor
    camera: Camera


def views(index: int, size: tuple[int, int]) -> list[Sample]:
    """A frame as `synth:val` has them, and the same person from three more sides."""
    clips = load_clips("val")
    rng = generator("realism", index)
    clip = clips[rng.choice(len(clips), p=even_shares(clips))]
    rotations, room = some_frame(rng, clip), scene(rng, SYNTH, "val")
    others = [some_frame(rng, clips[int(rng.integers(len(clips)))]) for _ in room.others]
    turned = [replace(room, heading=room.heading + 2 * np.pi * k / VIEWS) for k in range(VIEWS)]
    return [draw(rng, one, rotations, None, others, clip.name, size) for one in turned]


def look(network: LandmarkNetwork, sample: Sample, offsets: Tensor) -> Sighting | None:
    """BlazePose on the square around the subject, as MediaPipe has it once a person is tracked; None: nobody found."""
    height, width = sample.image.shape[:2]
    focal, mask = known(sample.focal, "focal lengths"), known(sample.mask, "masks")
    keypoints = (known(sample.keypoints, "keypoints") + 0.5) * (width, height)
    person = network.see(sample.image, network.see(sample.image, around(keypoints)).next)
    if person.score < VISIBLE:
        return None
    joints = torch.from_numpy(known(sample.joints, "joints")).double()
    depth = 2 * focal / (height * float(known(sample.camera, "cameras")[0]))
    ray = torch.tensor([*(keypoints[0] - [width / 2, height / 2]) / focal, 1.0], dtype=torch.float64)
    pelvis, root = depth * ray, torch.from_numpy(known(sample.rotations, "poses")[0]).double()
    scale = PIXELS / (focal / depth * STATURE)
    camera = Camera(root, pelvis, *(torch.tensor(v).double() for v in ([scale * focal] * 2, [0.0] * 2, [0.0] * 4)))
    points = landmarks_of(joints[list(ROWS)], offsets) @ root  # in axes of the root
    at = keypoints[list(ROWS)].round().astype(int)
    inside = ((at >= 0) & (at < (width, height))).all(1)
    inside &= mask[at[:, 1].clip(0, height - 1), at[:, 0].clip(0, width - 1)]
    found = torch.from_numpy(person.pixels[LIMB_LANDMARKS] - [width / 2, height / 2]) * scale
    visible = torch.from_numpy(person.visibility[LIMB_LANDMARKS])
    return Sighting(found, camera.project(points), visible, torch.from_numpy(inside), camera)


def reprojected(people: list[Sighting]) -> tuple[Tensor, Tensor]:
    """Errors in pixels of limbs visible in some view of four: of points from all views, and from the other three."""
    parts = zip(*(vars(one.camera).values() for one in people), strict=True)
    weights = torch.stack([one.visible for one in people]) ** 2
    seen = Views(Camera(*map(torch.stack, parts)), torch.stack([one.pixels for one in people]), weights)
    visible = torch.stack([one.visible for one in people]) > VISIBLE
    held = torch.stack([seen.residuals(triangulated(seen.without(v)))[v] for v in range(len(people))])
    return seen.residuals(triangulated(seen)).norm(dim=-1)[visible], held.norm(dim=-1)[visible]


def measured(frames: int, size: tuple[int, int]) -> dict[str, float]:
    """The figures, of `frames` poses."""
    network, offsets = LandmarkNetwork(), read_offsets()
    single, together, held, found = [], [], [], 0
    for index in range(frames):
        people = [one for one in (look(network, s, offsets) for s in views(index, size)) if one is not None]
        found += len(people)
        single += [(o.pixels - o.true).norm(dim=-1)[o.shown & (o.visible > VISIBLE)] for o in people]
        if len(people) == VIEWS:
            whole, three = reprojected(people)
            together.append(whole)
            held.append(three)
    medians = {"error": single, "reprojected": together, "held_out": held}
    shares = {name: (torch.cat(values) / PIXELS).median().item() for name, values in medians.items()}
    return {"frames": VIEWS * frames, "found": found / (VIEWS * frames), **shares}


def main() -> None:
    """Command line of the module."""
    frames, height = (int(value) for value in (*sys.argv[1:], *("250", "224")[len(sys.argv) - 1 :]))
    sys.stdout.write(json.dumps(measured(frames, (height, height * 3 // 4)), indent=1) + "\n")


if __name__ == "__main__":
    main()
