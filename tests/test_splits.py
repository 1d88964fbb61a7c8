"""No pose that decides or reports was trained on."""

from __future__ import annotations

import os

import numpy as np
from scipy.spatial.transform import Rotation

from hmr.motion.clip import MotionClip, mirrored
from hmr.motion.recordings import Split, load_clips, shipped_clips, split_of

LIMIT = 0.02  # radians, mean over the 23 body joints: the root is left out, so heading and position play no part


def poses(clips: list[MotionClip]) -> tuple[np.ndarray, list[str]]:
    """Body poses (N, 23, 3, 3) and the name of each one's clip and frame."""
    labels = [f"{clip.name} frame {frame}" for clip in clips for frame in range(len(clip))]
    return np.concatenate([clip.rotations[:, 1:] for clip in clips]), labels


def offenders(held: list[MotionClip], train: list[MotionClip], limit: float = LIMIT) -> list[str]:
    """Poses of `held` within `limit` of one of `train` or of its mirror image, with the training pose nearest to each.

    For a rotation by angle a, |R - 1|_F = 2 sqrt(2) sin(a/2) <= sqrt(2) a: poses whose mean angle is below the limit
    are closer than sqrt(2) * 23 * limit, which one matrix product sorts out; angles are computed for the rest.
    """
    ours, names = poses(held)
    theirs, sources = poses([*train, *map(mirrored, train)])
    first, second = ours.reshape(len(ours), -1), theirs.reshape(len(theirs), -1)
    reach = (np.sqrt(2) * 23 * limit + 0.05) ** 2
    found = []
    for start in range(0, len(second), 8192):
        part = second[start : start + 8192]
        squared = (first**2).sum(1)[:, None] + (part**2).sum(1)[None] - 2 * first @ part.T
        for held_index, train_index in np.argwhere(squared < reach):
            between = np.swapaxes(ours[held_index], -1, -2) @ theirs[start + train_index]
            angle = Rotation.from_matrix(between).magnitude().mean()
            if angle < limit:
                found.append(f"{names[held_index]} ~ {sources[start + train_index]} ({angle:.4f} rad)")
    return found


def test_no_pose_that_decides_or_reports_is_near_a_training_pose():
    folder = os.environ.get("FASTHMR_MOCAP")
    train = load_clips("train", folder)
    held = [clip for split in ("calib", "val", "test") for clip in load_clips(split, folder)]
    assert not (found := offenders(held, train)), f"{len(found)} near-duplicates: " + "; ".join(found[:20])


def test_the_search_finds_a_pose_turned_mirrored_and_slightly_moved():
    clips = {clip.name: clip for clip in shipped_clips()}
    kick = clips["humanoid3d_kick"]
    nudge = Rotation.from_rotvec([0.015, 0, 0]).as_matrix().astype(np.float32)
    turned = kick.rotations[10:11] @ nudge
    turned[:, 0] = Rotation.from_euler("y", 90, degrees=True).as_matrix() @ turned[:, 0]
    planted = mirrored(MotionClip(turned, kick.translation[10:11], 30.0, "planted", "walk", "", ""))
    found = offenders([kick], [clips["humanoid3d_walk"], planted])
    assert len(found) == 1 and found[0].startswith("humanoid3d_kick frame 10 ~ planted")
    assert not offenders([kick], [clips["humanoid3d_walk"]])


def test_every_split_has_the_families_it_is_promised():
    promised: dict[Split, set[str]] = {
        "test": {"basketball", "dance_b", "getup_faceup", "kick", "run", "spin", "swordplay"},
        "val": {"bend_and_lift", "crawl", "dance_arms_high", "dance_rond", "jump", "uneven_ground", "wash"},
        "calib": {"dance_a", "dance_coupe", "dance_pirouette", "dance_retire", "punch", "roll"},
    }
    least = {"test": 20, "val": 10, "calib": 10}  # recordings
    families = {clip.family for clip in shipped_clips()}
    for split, members in promised.items():
        assert len({clip.name for clip in load_clips(split)}) >= least[split]
        assert {family for family in families if split_of(family) == split} == members
        assert {clip.family for clip in load_clips(split)} >= members
    assert {split_of(family) for family in ("cmu", "walk", "nobody_knows_it")} == {"train"}
