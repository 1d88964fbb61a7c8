"""Samples, batches and frames: what is unknown stays unknown, and a frame is drawn when it is asked for."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

import hmr
from compress.errors import BadInput
from compress.policies.merge_tokens import MergeTokens
from hmr.body.camera import bbox_info
from hmr.data.dataset import DataSpec, Frames, frames_of
from hmr.data.mask_errors import MASKS, with_masks
from hmr.data.sample import CropSquare, Sample, batch, known
from hmr.evaluation.label_free import labelled_by
from hmr.evaluation.predict import predict
from hmr.models.model import build
from hmr.world.synthetic import open_world
from tests import sizes
from tests.planning import applied, planned


def bare(level: int = 0) -> Sample:
    """A grey crop of which nothing else is known."""
    return Sample(np.full((256, 192, 3), level, np.uint8), f"recording-{level // 2}")


@pytest.fixture(scope="module")
def drawn() -> Frames:
    return open_world("synth", "val", 4, size=(256, 192)).drawn()


def model():
    torch.manual_seed(0)
    return build("hmr2", sizes.TINY).eval()


def test_an_unknown_stays_unknown_in_a_batch(drawn):
    found = batch([bare(i) for i in range(3)])
    assert len(found) == 3 and found.crops.shape == (3, 3, 256, 192)
    assert (found.masks, found.conditions, found.rotations, found.betas) == (None,) * 4
    assert found.people == (("neutral",) * 3, None)
    for field, tensor in (("mask", "masks"), ("focal", "conditions"), ("rotations", "rotations"), ("betas", "betas")):
        some = batch([drawn[0], replace(drawn[1], **{field: None})])
        assert getattr(some, tensor) is None and getattr(batch([*drawn]), tensor) is not None
        others = {"masks", "conditions", "rotations", "betas"} - {tensor}
        assert all(getattr(some, other) is not None for other in others)


def test_a_batch_holds_what_its_samples_hold(drawn):
    found = batch([*drawn])
    for i, sample in enumerate(drawn):
        assert torch.equal(known(found.masks, "masks")[i], torch.from_numpy(known(sample.mask, "mask")))
        assert torch.equal(known(found.rotations, "poses")[i], torch.from_numpy(known(sample.rotations, "pose")))
        pixel = (sample.image[7, 5] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]  # ImageNet's mean and spread
        assert found.crops[i, :, 7, 5].tolist() == pytest.approx(pixel, abs=1e-5)
        focal = known(sample.focal, "focal length")
        assert known(found.conditions, "conditions")[i].tolist() == pytest.approx([0, 0, 256 / focal])


def test_a_place_is_a_condition_once_the_focal_length_is_known():
    """The whole picture as one crop is the case that a rendered sample has, by the other formula."""
    place = CropSquare((96, 128), 256, (256, 192), 300.0)
    rendered = replace(bare(), focal=300.0)
    assert replace(bare(), place=place).bbox_info == pytest.approx(rendered.bbox_info)
    assert replace(bare(), place=replace(place, focal=None), focal=300.0).bbox_info is None
    off = CropSquare((30.0, 40.0), 50.0, (100, 80), 200.0)
    wanted = bbox_info(*(torch.tensor([v]) for v in ([30.0, 40.0], 50.0, [80.0, 100.0], 200.0)))[0]
    assert known(off.bbox_info, "condition").tolist() == wanted.tolist() == pytest.approx([-0.05, -0.05, 0.25])


def test_frames_without_masks_are_refused_where_masks_are_needed(drawn):
    unmasked = drawn.with_samples([replace(sample, mask=None) for sample in drawn])
    protecting, anyone = model(), model()
    applied(planned(MergeTokens(keep=120, per_layer=40), protecting), protecting)
    applied(planned(MergeTokens(keep=120, per_layer=40, protect="none"), anyone), anyone)
    with pytest.raises(BadInput, match="needs a person mask for each crop"):
        predict([protecting], unmasked)
    for kind in MASKS.keys() - {"exact"}:
        with pytest.raises(BadInput, match="no person masks"):
            with_masks(unmasked, kind)
    assert with_masks(unmasked, "exact")[0].mask is None
    masked, bare_of_masks = predict([protecting], drawn)[0], predict([anyone], unmasked)[0]
    assert len(masked.merged) == len(bare_of_masks.outputs) == 1 and not bare_of_masks.merged


def test_errors_need_labels_and_predictions_do_not():
    frames = frames_of([bare(i) for i in range(3)])
    assert len(predict([model()], frames)[0].outputs[0].betas) == 3
    with pytest.raises(BadInput, match="have no"):
        frames.measure(model())


def test_labels_of_a_model_are_its_predictions(drawn):
    """... on the neutral body; what a model does not predict is unknown, the pictures and masks are the same."""
    spec = DataSpec("frames", "calib")
    frames = frames_of([*drawn], spec=spec, notes={"mask_source": "renderer"})
    found = labelled_by(model(), frames)
    with torch.no_grad():
        said = model()(*batch([*frames]).inputs)
    for i, (new, old) in enumerate(zip(found, frames, strict=True)):
        assert np.allclose(known(new.rotations, "poses"), said.rotations[i], atol=1e-6)
        assert np.allclose(known(new.betas, "shapes"), said.betas[i], atol=1e-6)
        assert new.image is old.image and new.mask is old.mask and new.joints is None and old.joints is not None
    assert (found.recordings, found.notes, found.spec) == (frames.recordings, frames.notes, spec)


def counted(calls: list[int]) -> Frames:
    def draw(index: int) -> Sample:
        calls.append(index)
        return bare(index)

    return Frames(draw, lambda index: f"recording-{index // 2}", 5, spec=DataSpec("synth", "calib"))


def test_frames_are_drawn_when_they_are_asked_for():
    calls: list[int] = []
    frames = counted(calls)
    assert frames.recordings == [bare(i).recording for i in range(5)] and len(frames) == 5 and not calls
    assert [*frames] and [*frames] and calls == [0, 1, 2, 3, 4] * 2
    for outside in (-1, 5):
        with pytest.raises(IndexError):
            frames[outside]


def test_frames_that_are_kept_are_drawn_once():
    calls: list[int] = []
    told: list[tuple[str, str, int, int]] = []
    kept = counted(calls).keeping()
    assert kept[3] is kept[3] and calls == [3]
    all_kept = kept.drawn(lambda *what: told.append(what))
    assert calls == [3, 0, 1, 2, 4] and [*all_kept][3] is kept[3] and len(calls) == 5
    assert told == [("drawing synth:calib", "", done, 5) for done in range(1, 6)]
    other = all_kept.with_samples([bare(9)] * 5)
    assert other[0].image[0, 0, 0] == 9 and all_kept[0].image[0, 0, 0] == 0


def test_frames_of_the_world_go_to_other_processes():
    frames = open_world("synth-video", "val", 3)
    again = pickle.loads(pickle.dumps(frames))
    assert np.array_equal(again[2].image, frames[2].image) and again.recordings == frames.recordings


def test_data_by_name():
    frames = hmr.frames("synth:val", 2, model=model())
    assert (len(frames), str(frames.spec), frames.notes) == (2, "synth:val", {"mask_source": "renderer"})
    with pytest.raises(BadInput, match="label-free frames take their labels from a model"):
        hmr.frames("synth:val", 2, label_free=True)
    own = hmr.frames("synth:val", 2, model=model(), label_free=True)
    mine, theirs = (known(some[1].betas, "shapes") for some in (own, frames))
    assert np.array_equal(own[1].image, frames[1].image) and not np.allclose(mine, theirs)
    with pytest.raises(AttributeError, match="no attribute 'frame'"):
        hmr.frame  # noqa: B018  # a name that is not there


def test_importing_the_library_does_not_import_torch():
    code = "import sys, hmr; assert 'torch' not in sys.modules; hmr.frames; assert 'torch' in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_only_the_picture_and_its_recording_have_to_be_known():
    unknown = {field.name for field in fields(Sample) if getattr(bare(), field.name) is None}
    assert {field.name for field in fields(Sample)} - unknown == {"image", "recording"}
