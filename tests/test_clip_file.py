"""A user's file of clips: what converters write is what comes out, and mistakes are told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from compress.errors import BadInput
from diffusion.model.decoder import load_decoder
from diffusion.motion.features import cached_features
from diffusion.policy import encoder_id
from hmr.checkpoints.files import load, save
from hmr.cluster import ALONE
from hmr.models.families.family import Box
from hmr.motion.clip_file import digest_of, from_amass, from_videos, motion_in, open_clips, read_file
from hmr.motion.recordings import shipped_clips
from hmr.world.synthetic import open_world
from tests.motion import small_model


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Three frames of a synthetic video, and the file of clips made of them."""
    data = open_world("synth-video", "train", frames=3, size=(256, 192))
    return data, from_videos([data], tmp_path_factory.mktemp("clips") / "clips.json")


def test_synthetic_videos_come_back(drawn):
    data, path = drawn
    clips = open_clips(path, "train", Box().side, (256, 192))
    assert (
        len(clips) == 3
        and clips.fps == 30
        and clips.recordings == data.recordings
        and clips.notes["mask_source"] == "files"
    )
    for ours, theirs in zip(clips, data, strict=True):
        for field in ("image", "mask", "rotations", "betas"):
            assert np.array_equal(getattr(ours, field), getattr(theirs, field))


def test_features_of_a_users_clips_are_those_of_the_videos(drawn, tmp_path):
    data, path = drawn
    model = small_model()
    ours = cached_features(model, open_clips(path, "train", Box().side, (256, 192)), tmp_path / "one", {})
    theirs = cached_features(model, data, tmp_path / "two", {})
    assert torch.equal(ours[0].features, theirs[0].features)


def test_few_frames_are_few_and_other_labels_are_other_data(drawn, tmp_path):
    path = tmp_path / "clips.json"
    shutil.copytree(drawn[1].parent, tmp_path, dirs_exist_ok=True)
    clips = open_clips(path, "train", Box().side, (256, 192), frames=2)
    assert len(clips) == len(clips.recordings) == 2
    (entry,) = read_file(path).clips
    before = digest_of(path, "train", 2)
    assert before == digest_of(path, "train", 2) != digest_of(path, "train", 3)
    for change in (relabel, repaint):
        change(tmp_path, entry)
        after = digest_of(path, "train", 2)
        assert after != before
        before = after


def test_masks_at_another_scale_are_scaled_and_others_refused(drawn, tmp_path):
    shutil.copytree(drawn[1].parent, tmp_path, dirs_exist_ok=True)
    clips = open_clips(tmp_path / "clips.json", "train", Box().side, (256, 192))
    file = tmp_path / read_file(tmp_path / "clips.json").clips[0].masks[1]
    whole = clips[1].mask
    with Image.open(file) as image:
        image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(file)
    scaled = clips[1].mask
    assert whole is not None and scaled is not None and whole.any() and (scaled == whole).all()
    Image.new("L", (96, 192)).save(file)
    with pytest.raises(BadInput, match=r"mask-0001\.png: 96 x 192 pixels, its picture has 192 x 256"):
        clips[1]


def relabel(folder, entry):
    held = load_file(folder / entry.arrays)
    save_file({**held, "betas": held["betas"] + 1}, folder / entry.arrays)


def repaint(folder, entry):
    shutil.copy(folder / entry.masks[0], folder / entry.frames[1])


def test_amass_becomes_motion_split_by_family(tmp_path):
    clip = shipped_clips()[0]
    poses = np.zeros((5, 156))
    poses[:, 3:6] = 0.1 * np.arange(5)[:, None]
    for name in ("walk1_poses.npz", "kick_poses.npz"):
        np.savez(tmp_path / name, poses=poses, trans=np.zeros((5, 3)), mocap_framerate=60.0, betas=np.arange(16.0))
    path = from_amass(tmp_path, tmp_path / "out" / "clips.json")
    assert {entry.name: entry.split for entry in read_file(path).clips} == {"walk1": "train", "kick": "test"}
    (found,) = motion_in(path, "train")
    assert found.fps == 60 and len(found) == 5 and found.rotations.dtype == clip.rotations.dtype
    assert np.allclose(
        found.rotations[3, 1], torch.matrix_exp(torch.tensor([[0, -0.3, 0.3], [0.3, 0, -0.3], [-0.3, 0.3, 0]]))
    )
    with pytest.raises(BadInput, match="needs clips with pictures"):
        open_clips(path, "train", Box().side, (256, 192))
    with pytest.raises(BadInput, match="no AMASS"):
        from_amass(tmp_path / "empty", tmp_path / "x.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 0}, "fps"),
        ({"split": "all"}, "split"),
        ({"colour": 1}, "colour"),
        ({"masks": []}, "frames of one"),
        ({"frames": ["one.png"], "masks": ["one.png"]}, "has to be finite, of shape"),
        ({"arrays": "gone.safetensors"}, "gone.safetensors"),
        ({"arrays": "../clips.safetensors"}, "outside the folder"),
        ({"frames": ["/etc/passwd"]}, "outside the folder"),
    ],
)
def test_mistakes_are_named(drawn, tmp_path, change, message):
    _, path = drawn
    content = json.loads(path.read_text())
    content["clips"][0].update(change)
    odd = path.parent / "odd.json"
    odd.write_text(json.dumps(content))
    if message == "frames of one":  # no masks at all is a file without masks
        clips = open_clips(odd, "train", Box().side, (256, 192))
        assert clips.notes["mask_source"] == "none" and clips[0].mask is None
        return
    with pytest.raises(BadInput, match=message):
        open_clips(odd, "train", Box().side, (256, 192))
    with pytest.raises(BadInput, match="cannot be read"):
        read_file(tmp_path / "none.json")


def test_motion_with_pictures_teaches_no_vae(drawn):
    with pytest.raises(BadInput, match="is trained on clips without"):
        motion_in(drawn[1], "train")


def test_from_a_file_of_clips_to_a_decoder(fasthmr, tmp_path, monkeypatch):
    """What `data clips` writes is what `train decoder` asks for: videos to learn from, and some to report on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    save(small_model(), Path("tiny.safetensors"))
    assert fasthmr("data", "clips", "synth-video", "--frames", 4, "--out", "clips/clips.json")[0] == 0
    assert {entry.split for entry in read_file(Path("clips/clips.json")).clips} == {"train", "val"}
    words = ("--model", "./tiny.safetensors", "--data", "clips/clips.json", "--steps", 2, "--batch", 2, "--out", "run")
    code, out, err = fasthmr("train", "decoder", *words)
    assert code == 0, err
    assert load_decoder(Path(out.strip())).encoder == encoder_id(load(Path("tiny.safetensors")))


def test_single_frames_make_no_file_of_clips(fasthmr, tmp_path):
    code, _, err = fasthmr("data", "clips", "synth:test", "--frames", "2", "--out", tmp_path / "clips" / "clips.json")
    assert (code, err.count("\n")) == (2, 1) and "name synth-video" in err and not (tmp_path / "clips").exists()


@pytest.mark.slow
def test_ray_computes_the_same_features(fasthmr, tmp_path, monkeypatch):
    """Workers on this machine, which load the model by its name, write what this process would have written."""
    for name, value in ALONE.items():  # as `shared_out` does, before Ray is imported, which reads them once
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    save(small_model(), Path("tiny.safetensors"))
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "local"))
    assert fasthmr("data", "clips", "synth-video", "--frames", 4, "--out", "clips/clips.json")[0] == 0
    words = ("--model", "./tiny.safetensors", "--data", "clips/clips.json", "--kind", "linear")
    for engine in ("local", "ray"):
        monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / engine))
        code, _, err = fasthmr("train", "decoder", *words, "--engine", engine, "--out", f"run-{engine}")
        assert code == 0, err
    files = [sorted((tmp_path / engine / "features").rglob("*.safetensors")) for engine in ("local", "ray")]
    assert len(files[0]) == len(files[1]) == 2  # a shard of either split
    for one, other in zip(*files, strict=True):
        assert one.relative_to(tmp_path / "local") == other.relative_to(tmp_path / "ray")
        arrays = [load_file(path) for path in (one, other)]
        assert all(np.allclose(arrays[0][name], arrays[1][name], atol=1e-5) for name in arrays[0])
