"""Laws of the synthetic world: it is a pure function of its seed, and everything it says about a picture is true."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from compress.errors import BadInput
from hmr.body.files import load_body
from hmr.motion.clip import family_of
from hmr.motion.recordings import load_clips
from hmr.world.scene import BACKGROUNDS
from hmr.world.synthetic import LIMBS, VIDEO_FRAMES, Take, floor_height, open_world, take, varied_take

WORLDS = ("synth", "synth-shift", "synth-video")
FINGERPRINT = """
import hashlib, sys
from hmr.world.synthetic import open_world
digest = hashlib.sha256()
for name in ("synth", "synth-shift", "synth-video"):
    frames = open_world(name, "test", 90)
    for i in (0, 3, 85):
        sample = frames[i]
        for value in (sample.image, sample.mask, sample.rotations, sample.betas, sample.joints, sample.camera):
            digest.update(value.tobytes())
print(digest.hexdigest())
"""


def fingerprint() -> str:
    run = subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_two_processes_draw_the_same_bits() -> None:
    assert fingerprint() == fingerprint()


def test_a_frame_does_not_depend_on_those_drawn_before() -> None:
    alone, after = open_world("synth-video", "val"), open_world("synth-video", "val")
    for i in (0, 40, 100):
        after[i]
    for i in (100, 7):
        np.testing.assert_array_equal(alone[i].image, after[i].image)


def test_other_seed_other_picture() -> None:
    digests = {hashlib.sha256(open_world("synth", "val", 1, seed=s)[0].image.tobytes()).hexdigest() for s in range(4)}
    assert len(digests) == 4


@pytest.mark.parametrize("name", WORLDS)
def test_labels_describe_the_picture(name: str) -> None:
    """Joints follow from rotations and betas by the body model; keypoints and camera are their projection."""
    body = load_body()
    frames = open_world(name, "val", 12)
    for i in range(0, 12, 3):
        sample: Any = frames[i]
        posed = body(torch.tensor(sample.rotations)[None], torch.tensor(sample.betas)[None])
        joints = (posed.joints - posed.joints[:, :1])[0].numpy()
        np.testing.assert_allclose(sample.joints, joints, atol=1e-4)
        seen = posed.joints[0].numpy() + sample.translation
        height, width = sample.image.shape[:2]
        pixels = sample.focal * seen[:, :2] / seen[:, 2:] / (width, height)
        np.testing.assert_allclose(sample.keypoints, pixels, atol=1e-4)
        depth = 2 * sample.focal / (height * sample.camera[0])  # HMR2.0's rule, with the true focal length
        np.testing.assert_allclose(depth, seen[0, 2], rtol=1e-4)
        np.testing.assert_allclose(sample.camera[1:], sample.translation[:2], atol=1e-5)


@pytest.mark.parametrize("name", WORLDS)
def test_mask_is_the_subjects_silhouette(name: str) -> None:
    """Every vertex that the mask shows lies in it, and the mask lies in the hull of the projected vertices."""
    body = load_body()
    frames = open_world(name, "val", 12)
    for i in range(0, 12, 4):
        sample: Any = frames[i]
        posed = body(torch.tensor(sample.rotations)[None], torch.tensor(sample.betas)[None])
        seen = posed.vertices[0].numpy() + sample.translation
        height, width = sample.mask.shape
        pixels = sample.focal * seen[:, :2] / seen[:, 2:] + (width / 2, height / 2)
        rows, columns = np.nonzero(sample.mask)
        assert 400 < len(rows) < 0.8 * height * width
        low, high = pixels.min(0), pixels.max(0)
        assert (columns + 1 >= low[0]).all() and (columns <= high[0]).all()
        assert (rows + 1 >= low[1]).all() and (rows <= high[1]).all()
        nearest = np.abs(pixels[None] - np.stack([columns, rows], 1)[::97, None] - 0.5).max(-1).min(1)
        assert nearest.max() < 6  # vertices are a few pixels apart


def test_part_labels_are_the_masks_patches() -> None:
    sample: Any = open_world("synth", "val", 3)[2]
    rows, columns = ((np.arange(16) + 0.5) * 16).astype(int), ((np.arange(12) + 0.5) * 16).astype(int)
    np.testing.assert_array_equal(sample.part > 0, sample.mask[np.ix_(rows, columns)])
    assert sample.part.max() <= 24 and (sample.canonical[sample.part == 0] == 0).all()


def test_a_video_has_one_subject_and_moves_smoothly() -> None:
    frames = open_world("synth-video", "val", VIDEO_FRAMES)
    samples: list[Any] = [frames[i] for i in range(0, 30)]
    assert all((s.betas == samples[0].betas).all() for s in samples)
    joints = np.stack([s.joints for s in samples])
    assert np.linalg.norm(np.diff(joints, axis=0), axis=-1).max() < 0.3  # m a frame: 9 m/s


def test_a_training_take_is_changed_alike_in_all_its_frames() -> None:
    """Somebody who stands still in every limb's recording stands still; and nobody floats or sinks."""
    clips = load_clips("train", None)
    rng = np.random.default_rng(0)
    still = [np.repeat(take(rng, clips).rotations[:1], 5, 0) for _ in range(1 + len(LIMBS))]
    shown = Take(still[0], np.zeros((5, 3), np.float32), "still")
    facing = []
    for seed in range(40):
        found = varied_take(np.random.default_rng(seed), shown, still[1:])
        assert np.array_equal(found.rotations, np.repeat(found.rotations[:1], 5, 0))
        assert np.allclose(found.rotations @ found.rotations.swapaxes(-1, -2), np.eye(3), atol=1e-5)
        assert abs(floor_height(found.rotations, found.travel)) < 1e-4
        assert not np.allclose(found.rotations, shown.rotations, atol=0.01)
        facing.append((still[0][0, 0].T @ found.rotations[0, 0])[2, 2])
    assert min(facing) < -0.5 and 5 < sum(f < 0 for f in facing) < 20  # seen from behind, but most are not


def test_reports_never_see_training_pictures_nor_motion() -> None:
    for split in ("val", "calib", "test"):
        assert not set(BACKGROUNDS[split]) & set(BACKGROUNDS["train"])
    families = {
        s: {family_of(name) for name in open_world("synth", s, 1).identity["motion"]}
        for s in ("train", "calib", "val", "test")
    }
    for split in ("val", "calib", "test"):
        assert families[split] and not families[split] & families["train"]


def test_test_split_is_2000_frames_of_every_test_family() -> None:
    frames = open_world("synth", "test")
    names = frames.recordings
    assert len(frames) == len(names) == 2000
    assert {family_of(name) for name in names} == {"dance_b", "kick", "run", "spin", "getup_faceup"}
    assert min(names.count(n) for n in set(names)) > 300
    assert frames[5].recording == names[5]


@pytest.mark.parametrize(("name", "split"), [("synht", "test"), ("synth", "tset")])
def test_unknown_names_are_refused(name: str, split: str) -> None:
    with pytest.raises(BadInput, match="choose from"):
        open_world(name, split)
