"""What `fasthmr train hmr` draws before it trains, and where."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hmr.training import rendered as training
from hmr.world.synthetic import WORLDS, open_world


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Folder -> data set of a training of 80 frames that neither draws nor trains."""
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    found = {}
    monkeypatch.setattr(training, "cached_frames", lambda folder, data, size, workers: found.update({folder: data}))
    monkeypatch.setattr(training, "train", lambda config: found.update(config=config))
    training.train_hmr("reference-small", tmp_path / "run", 1.0, 80, None, None, 1)
    return found


def test_full_size_shows_half_as_many_of_other_people(drawn):
    config = drawn["config"]
    half, full = drawn[config.half_cache], drawn[config.full_cache]
    assert (len(half), half.identity["size"]) == (80, [128, 96])
    assert (len(full), full.identity["size"]) == (40, [256, 192])
    assert (half[0].betas != full[0].betas).all()


def test_reports_are_on_frames_that_are_not_trained_on(drawn):
    config = drawn["config"]
    for cache in (config.half_val_cache, config.full_val_cache):
        assert (drawn[cache].spec.split, len(drawn[cache])) == ("val", training.VALIDATION)
    assert len(drawn) == 1 + 4  # every data set has a folder of its own


def test_whatever_changes_the_pictures_changes_their_folder(monkeypatch):
    worlds = [
        open_world("synth", "train", 8),
        open_world("synth", "train", 9),
        open_world("synth", "train", 8, seed=1),
        open_world("synth", "train", 8, size=(128, 96)),
        open_world("synth", "val", 8),
        open_world("synth-shift", "train", 8),
    ]
    assert len({training.folder_of(world) for world in worlds}) == len(worlds)
    before = training.folder_of(worlds[0])
    assert training.folder_of(open_world("synth", "train", 8)) == before
    monkeypatch.setitem(WORLDS, "synth", replace(WORLDS["synth"], noise=1.0))
    assert training.folder_of(open_world("synth", "train", 8)) != before
