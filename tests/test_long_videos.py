"""A video of many clips has no seams: motion is as smooth where clips overlap as within them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import roma
import torch

from diffusion.model.decoder import ClipDecoder
from diffusion.model.representation import encode
from diffusion.model.vae import MotionVAE
from diffusion.motion.clips import cuts
from diffusion.motion.features import VideoFeatures
from diffusion.training.decoder import DecoderTask, errors
from hmr.body.files import load_body
from hmr.evaluation.intervals import paired_interval
from hmr.motion.recordings import shipped_clips
from hmr.world.synthetic import lengthened
from tests.motion import TINY

LENGTH = 400  # frames
SIZES = TINY.model_copy(update={"frames": 81, "tokens": 27})


def noisy(seed: int, length: int) -> VideoFeatures:
    """A video of a recording, as a head that errs by some degrees sees each frame."""
    clips = [clip for clip in shipped_clips() if clip.cyclic]
    clip = lengthened(clips[seed % len(clips)], length)
    true = torch.from_numpy(clip.rotations[:length]).float()
    generator = torch.Generator().manual_seed(seed)
    wrong = roma.rotvec_to_rotmat(0.08 * torch.randn(*true.shape[:2], 3, generator=generator))
    betas, said = torch.zeros(length, 10), true @ wrong
    pose = encode(said, betas, load_body())
    return VideoFeatures(
        torch.cat((torch.zeros(length, TINY.features - pose.shape[1]), pose), 1), betas, said, true, betas
    )


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    made, videos = ClipDecoder(SIZES, "linear", encoder="e"), [noisy(100 + i, 120) for i in range(12)]
    DecoderTask(made, MotionVAE(SIZES), videos, [], batch=1)
    return made.eval()


def test_motion_is_as_smooth_where_clips_overlap_as_within_them(decoder):
    starts = cuts(LENGTH, SIZES.frames, SIZES.frames // 3)
    over = np.zeros(LENGTH, bool)
    for first, second in pairwise(starts):
        over[second - 1 : first + SIZES.frames + 1] = True
    assert 0.2 < over.mean() < 0.8
    seam, inside, names = [], [], []
    for number in range(12):
        video = noisy(number, LENGTH)
        moves = errors(decoder.video(video.features, video.predicted_betas), video, load_body())[1].numpy()
        seam.append(moves[over[1:-1]].mean())
        inside.append(moves[~over[1:-1]].mean())
        names.append(str(number))
    found = paired_interval(np.array(seam), np.array(inside), names)
    assert found.lo is not None and found.lo <= 0, found  # not rougher, beyond the interval
    assert np.mean(seam) < 1.1 * np.mean(inside)


def test_it_calms_what_it_is_told(decoder):
    video = noisy(3, LENGTH)
    found, body = decoder.video(video.features, video.predicted_betas), load_body()
    told, calmed = (errors(rotations, video, body) for rotations in (video.predicted_rotations, found))
    assert calmed[1].mean() < 0.35 * told[1].mean() and calmed[0].mean() < told[0].mean()
