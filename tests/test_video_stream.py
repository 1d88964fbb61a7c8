"""Frame in, people out: what a stream says is what a run says, where both know the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import hmr
from compress.errors import BadInput
from diffusion.decoded import DecodedModel, encoder_id
from diffusion.model.decoder import ClipDecoder
from hmr.animation.track import Track
from hmr.body.files import load_body
from hmr.video.crops import FrameCropper
from hmr.video.frames import Film, Span
from hmr.video.run import Run
from hmr.video.stages import Stages
from hmr.video.tracks import tracks_of
from tests.films import HEIGHT, WIDTH, Squares, film, painted, tiny
from tests.motion import TINY

FOCAL = 200.0


def decoded() -> DecodedModel:
    """A tiny model with a tiny motion decoder, both of random weights."""
    model = tiny()
    torch.manual_seed(0)
    width = model.head.decshape.in_features + 133
    decoder = ClipDecoder(TINY.model_copy(update={"features": width}), encoder=encoder_id(model))
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return DecodedModel(model, decoder).eval()


def whole(film: Film, model: Any) -> dict[int, Track]:
    """The tracks that a run has."""
    run = Run(model, film, Squares(), focal=FOCAL)
    crops, moments = run.see().whole
    cropper = FrameCropper(model.encoder, FOCAL, (HEIGHT, WIDTH))
    return {one.id: one for one in tracks_of(crops, moments, model, load_body(), cropper, Stages(), least=1)}


def posed(track: Track) -> np.ndarray:
    """Joints (24, 3) m from the pelvis."""
    return np.asarray(track.joints_m[0] - track.joints_m[0, 0])


def ray(track: Track) -> np.ndarray:
    """Where the pelvis is seen (3,); how far away it is follows from all frames."""
    return np.asarray(track.joints_m[0, 0] / np.linalg.norm(track.joints_m[0, 0]))


@pytest.mark.parametrize("make, beyond", [(tiny, 1e-4), (decoded, 0.1)])
def test_a_stream_says_what_a_run_says_that_ends_there(make: Callable[[], Any], beyond: float, tmp_path):
    """At every frame, but for distances: a run up to that frame knows what a stream knows there. Beyond one clip a
    decoder's run blends clips, and the stream has the last one."""
    model, checked = make(), 0
    stream = hmr.Stream(model, Squares(), focal=FOCAL)
    path = film(tmp_path / "walk.mp4", 18)
    for shot in Film(path).shots():
        people = stream(shot.image, shot.time)
        if shot.number not in (0, 5, 9, 16, 17):
            continue
        run = whole(Film(path, Span(end=shot.time + 0.01)), model)
        for one in people:
            other, near = run[one.id].part(slice(-1, None)), 1e-4 if shot.number < TINY.frames - 2 else beyond
            assert one.frame == other.frame == [shot.number]
            assert one.rotations == pytest.approx(other.rotations, abs=near)
            assert posed(one) == pytest.approx(posed(other), abs=near)
            assert ray(one) == pytest.approx(ray(other), abs=1e-5)
            checked += 1
    assert checked == 10 and stream.latency_frames == 0


def test_a_stream_keeps_no_more_than_it_needs():
    """Somebody new comes every second: those who went are forgotten."""
    stream = hmr.Stream(tiny(), Squares(), focal=FOCAL, fps=5)
    for i in range(60):
        place = [((230, 20, 20), 20 + 50 * (i // 12 % 2), 40)] if i % 12 < 5 else []
        stream(painted(0, lambda _, place=place: place))  # type: ignore[misc]
    assert len(stream.past) <= 1 and len(stream.frames) <= 14 and len(stream.shapes) <= 1


def test_more_people_than_a_batch_holds_are_all_seen():
    stream = hmr.Stream(tiny(), Squares(), focal=FOCAL, batch=1)
    found = stream(painted(3))
    assert [one.id for one in found] == [1, 2] and np.abs(found[0].rotations - found[1].rotations).max() > 1e-3


def test_hands_are_refused():
    with pytest.raises(BadInput, match="poses hands"):
        hmr.Stream(tiny("hamer"), Squares())
