"""Laws of the synthetic world: it is a pure function of its seed, and everything it says about a picture is true."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from compress.errors import BadInput
from hmr.body.files import load_body
from hmr.data.sample import known
from hmr.motion.clip import family_of
from hmr.motion.recordings import load_clips
from hmr.world.backdrop import PHOTOS
from hmr.world.people import posed
from hmr.world.raster import shown
from hmr.world.scene import SYNTH, scene
from hmr.world.synthetic import VIDEO_FRAMES, Take, even_shares, floor_height, open_world, take, varied_take
from hmr.world.view import aim, exposure

WORLDS = ("synth", "synth-shift", "synth-video", "synth-shift-video")
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


def test_two_processes_draw_the_same_bits(capsys: pytest.CaptureFixture[str]) -> None:
    """This one, which may have drawn anything before, and a fresh one."""
    exec(FINGERPRINT, {})
    run = subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True)
    assert run.stdout == capsys.readouterr().out and len(run.stdout) == 65


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
def test_mask_is_the_subject_as_drawn(name: str) -> None:
    """Other light and materials change the picture where the subject is drawn and, but for what lies around it in a
    blurred picture, nowhere else."""
    frames = open_world(name, "val", 12)
    for i in (1, 7):
        rng = np.random.default_rng(i)
        sample: Any = frames[i]
        body = load_body()
        posed = body(torch.tensor(sample.rotations)[None], torch.tensor(sample.betas)[None])
        seen = posed.vertices[0].numpy() + sample.translation
        height, width = sample.mask.shape
        pixels = sample.focal * seen[:, :2] / seen[:, 2:] + (width / 2, height / 2)
        rows, columns = np.nonzero(sample.mask)
        assert 300 < len(rows) < 0.9 * height * width
        # clothes reach a little beyond the skin: 12 cm at the depth of the person
        slack = 0.12 * sample.focal / seen[:, 2].mean()
        chosen = rng.permutation(len(rows))[:300]
        centres = np.stack([columns, rows], 1)[chosen] + 0.5
        assert np.linalg.norm(pixels[None] - centres[:, None], axis=-1).min(1).max() < slack


def test_mask_is_where_the_subject_changes_the_picture() -> None:
    """Without the subject's faces the same scene differs inside the mask, to the pixel but at its outline."""
    world = replace(SYNTH, crowd=(1.0,), furniture=0.0, occluder=0.0, cut=0.0, photo=1.0)
    still = np.tile(np.eye(3, dtype=np.float32), (24, 1, 1))
    rng = np.random.default_rng(5)
    room = scene(rng, world, "val")
    subject = posed(room.subject, still, room.heading, np.zeros(3, np.float32), None)
    rotation, focal = aim(rng, room, subject.vertices, (112, 84))
    drawn, face_id = exposure(room, [subject], rotation, focal, (112, 84))
    nobody = replace(room.subject, faces=room.subject.faces[:0], material=room.subject.material[:0])
    nobody = replace(nobody, axis=nobody.axis[:0], culled=nobody.culled[:0])
    bare, _ = exposure(replace(room, subject=nobody), [subject], rotation, focal, (112, 84))
    covered = shown(face_id, len(room.subject.faces))
    differs = np.abs(drawn - bare).max(-1) > 1e-6
    assert covered.sum() > 500 and differs[covered].mean() > 0.98
    whole = (face_id >= 0).reshape(112, 2, 84, 2).any((1, 3))
    assert not differs[~whole].any()


def test_part_labels_lie_in_the_mask() -> None:
    for i in range(3):
        sample: Any = open_world("synth", "val", 3)[i]
        rows, columns = ((np.arange(16) + 0.5) * 14).astype(int), ((np.arange(12) + 0.5) * 14).astype(int)
        middle = sample.mask[np.ix_(rows, columns)]
        assert not (sample.part > 0)[~middle].any()
        assert (sample.part > 0)[middle].mean() > 0.9
        assert sample.part.max() <= 24 and (sample.canonical[sample.part == 0] == 0).all()


def test_a_video_has_one_subject_and_moves_smoothly() -> None:
    frames = open_world("synth-video", "val", VIDEO_FRAMES)
    samples: list[Any] = [frames[i] for i in range(0, 30)]
    assert all((s.betas == samples[0].betas).all() for s in samples)
    joints = np.stack([s.joints for s in samples])
    assert np.linalg.norm(np.diff(joints, axis=0), axis=-1).max() < 0.3  # m a frame: 9 m/s


def test_a_training_take_is_changed_alike_in_all_its_frames() -> None:
    """Somebody who stands still in both recordings stands still; and nobody floats or sinks."""
    clips = load_clips("train", None)
    share, rng = even_shares(clips), np.random.default_rng(0)
    one, other = (
        Take(np.repeat(take(rng, clips, share).rotations[:1], 5, 0), np.zeros((5, 3), np.float32), "still")
        for _ in range(2)
    )
    for seed in range(20):
        found = varied_take(np.random.default_rng(seed), one, other)
        assert np.array_equal(found.rotations, np.repeat(found.rotations[:1], 5, 0))
        assert np.allclose(found.rotations @ found.rotations.swapaxes(-1, -2), np.eye(3), atol=1e-5)
        assert abs(floor_height(found.rotations, found.travel)) < 1e-4


def test_people_are_seen_from_any_side() -> None:
    frames = open_world("synth", "val", 120, size=(56, 42))
    ahead = np.array([known(frames[i].rotations, "poses")[0, :, 2] for i in range(120)])  # the chest, camera axes
    sides = np.digitize(np.arctan2(ahead[:, 0], -ahead[:, 2]), np.linspace(-np.pi, np.pi, 5)[1:-1])
    assert np.bincount(sides, minlength=4).min() > 12


def test_reports_never_see_training_pictures_nor_motion() -> None:
    for split in ("val", "calib", "test"):
        assert not set(PHOTOS[split]) & set(PHOTOS["train"])
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
    promised = {"basketball", "dance_b", "kick", "run", "spin", "swordplay", "getup_faceup"}
    assert {family_of(name) for name in names} == promised and len(set(names)) >= 20
    assert min(names.count(n) for n in set(names)) > 50  # recordings are drawn equally often
    assert frames[5].recording == names[5]


@pytest.mark.parametrize(("name", "split"), [("synht", "test"), ("synth", "tset")])
def test_unknown_names_are_refused(name: str, split: str) -> None:
    with pytest.raises(BadInput, match="choose from"):
        open_world(name, split)
