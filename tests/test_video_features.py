"""Features of videos: computed once, resumed, of whole videos, and read where they are looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save as to_bytes

from compress.atomic import atomic_write
from compress.errors import BadInput
from diffusion.motion import features
from diffusion.motion.features import cached_features
from hmr.body.files import load_body
from hmr.data.crop import normalised
from hmr.evaluation.predict import recording_spans
from hmr.world.synthetic import open_world
from tests.motion import small_model

BODY = load_body()


class Short:
    """Three videos of the synthetic world, a few frames of each."""

    fps: float | None = 30.0

    def __init__(self) -> None:
        self.data = open_world("synth-video", "val", frames=200)
        self.frames = [0, 1, 2, 81, 82, 162]
        self.drawn: list[int] = []

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int):
        self.drawn.append(index)
        return self.data[self.frames[index]]

    @property
    def recordings(self) -> list[str]:
        return [self.data.recordings[i] for i in self.frames]

    @property
    def notes(self) -> dict[str, Any]:
        return self.data.notes


@pytest.fixture
def small_shards(monkeypatch):
    """Files of two frames, or of one video that is longer."""
    monkeypatch.setattr(features, "SHARD", 2)


def test_features_are_computed_once_and_resumed(tmp_path, small_shards):
    model, data = small_model(), Short()
    found = cached_features(model, data, tmp_path / "cache", {"data": 1})
    assert [len(v) for v in found] == [3, 2, 1] and sorted(data.drawn) == list(range(6))
    said = model(*(x for x in [normalised(torch.from_numpy(data[3].image)[None])]))
    assert torch.allclose(found[1].features[0], features.read_off(said, BODY)[0], atol=1e-4)
    features.shard_file(tmp_path / "cache", [range(3, 5)]).unlink()
    data.drawn.clear()
    again = cached_features(model, data, tmp_path / "cache", {"data": 1})
    assert data.drawn == [3, 4] and torch.equal(again[1].rotations, found[1].rotations)
    written = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.safetensors"))
    assert abs(written - features.cache_bytes(model, data)) < 1000 * 3  # and three headers
    with pytest.raises(BadInput, match="another data"):
        cached_features(model, data, tmp_path / "cache", {"data": 2})
    features.shard_file(tmp_path / "cache", [range(3)]).write_bytes(b"x")
    with pytest.raises(BadInput, match="0000000-0000003"):
        cached_features(model, data, tmp_path / "cache", {"data": 1})


def test_more_videos_have_the_features_of_fewer(tmp_path, small_shards):
    model, data, first = small_model(), Short(), Short()
    del first.frames[5:]
    few = cached_features(model, first, tmp_path, {"data": 1})
    more = cached_features(model, data, tmp_path, {"data": 1})
    assert torch.equal(few[1].features, more[1].features) and data.drawn == [5]


def test_features_in_bfloat16_are_near_those_in_float32(tmp_path):
    model, data = small_model(), Short()
    exact, near = (
        cached_features(model, data, tmp_path / of, {}, precision=of)[0].features for of in ("float32", "bfloat16")
    )
    assert not torch.equal(exact, near) and (exact - near).abs().max() < 0.05 * exact.abs().max()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_shards_have_whole_videos_and_no_more_than_they_hold(lengths):
    recordings = [f"video-{i}" for i, length in enumerate(lengths) for _ in range(length)]
    with mock.patch.object(features, "SHARD", 10):
        shards = features.shards_of(recordings)
    assert [len(span) for shard in shards for span in shard] == lengths
    assert [i for shard in shards for span in shard for i in span] == list(range(len(recordings)))
    assert all(sum(map(len, shard)) <= 10 for shard in shards)


def test_training_reads_of_files_what_it_looks_at(tmp_path):
    """What is not looked at does not take memory: values are those of the file, mapped."""
    values = {name: torch.zeros(4, *(shape or (9,))) for name, shape in features.FIELDS.items()}
    path = atomic_write(tmp_path / "00000.safetensors", to_bytes(values))
    one, two = features.read(path, [3, 1], 25.0)
    assert (len(one), len(two), one.fps) == (3, 1, 25.0)
    assert str(path) in Path("/proc/self/maps").read_text()


def test_pictures_are_no_videos(tmp_path):
    data = Short()
    data.fps = None
    with pytest.raises(BadInput, match="pictures"):
        cached_features(small_model(), data, tmp_path / "cache", {})
    assert [list(s) for s in recording_spans(["a", "a", "b", "a"])] == [[0, 1], [2], [3]]
