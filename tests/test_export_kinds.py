"""Exports of models that are more than a network in float32: rounded blocks, adapters, motion decoders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import hmr
from compress.errors import BadInput
from compress.policies.merge_tokens import MergeTokens
from compress.policies.precision import Int8Linear, Precision, rounded
from diffusion.decoded import DecodedModel
from diffusion.model.representation import WIDTH
from experiments.cli.deploy import parity_table
from experiments.side_by_side import contenders, side_by_side
from hmr.data.sample import batch
from hmr.deploy.export import export
from hmr.deploy.network import ExportNetwork, prepared
from hmr.deploy.parity import expected, rounding
from hmr.evaluation.evaluate import evaluate
from hmr.video.frames import Film
from hmr.video.jobs.results import identity, run_into
from hmr.video.run import Run
from tests import test_decoder
from tests.adapters import FILE
from tests.exported import samples, small
from tests.films import Squares, film
from tests.motion import TINY
from tests.planning import applied, planned
from tests.test_video_run import alike

CPU = torch.device("cpu")

# ---- rounded blocks


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_rounded_blocks_keep_their_weights_and_compute_in_float32(dtype):
    model: Any = small()
    whole = model.stack.blocks[0].mlp.fc1.weight.clone()
    applied(planned(Precision(dtype=dtype), model), model)
    twin = prepared(model, "float32")
    assert rounded(model) and not rounded(twin)
    weight = twin.stack.blocks[0].mlp.fc1.weight
    left = model.stack.blocks[0].mlp.fc1.weight
    if dtype == "int8":
        assert isinstance(model.stack.blocks[0].mlp.fc1, Int8Linear)
        left = left * model.stack.blocks[0].mlp.fc1.scale
    assert torch.equal(weight, left.float()) and not torch.equal(weight, whole)
    torch.testing.assert_close(weight, whole, atol=1e-3, rtol=1e-2)


def test_what_rounding_on_the_way_does_is_measured():
    model: Any = small()
    assert rounding(model, expected(ExportNetwork(prepared(model, "float32")), samples(3))) is None
    torch.nn.init.normal_(model.head.decpose.weight, std=0.1)
    applied(planned(Precision(dtype="bfloat16"), model), model)
    found = rounding(model, expected(ExportNetwork(prepared(model, "float32")), samples(3)))
    assert found is not None and 1e-3 < found["mean_mm"] < found["worst_mm"] < 100


def test_the_table_says_what_rounding_on_the_way_does():
    batches = [{"batch": 1, "worst_mm": 0.05, "worst_frame": "a#0", "mean_mm": 0.01, "flipped": ["a#0", "b#1"]}]
    parity = {"frames": 64, "bound_mm": 0.1, "batches": batches}
    result = {"file": "model.onnx", "path": "out/model.onnx", "parity": parity, "rise_mm": None}
    result |= {"provenance": {"data": {"name": "synth-video", "split": "test"}}}
    result |= {"rounding": {"worst_mm": 2.5, "mean_mm": 1.0}, "decoder": {"file": "decoder.onnx", "parity": parity}}
    shown = parity_table(result)
    assert list(shown.columns[0].cells) == ["model.onnx", "decoder.onnx"]
    assert list(shown.columns[-1].cells) == ["2: a#0 ..."] * 2
    assert "64 frames of synth-video:test" in str(shown.caption) and "moves its joints by 1 mm" in str(shown.caption)


# ---- adapters


@pytest.fixture(scope="module", params=["Timm", "DINOv3"])
def adapted(request, tmp_path_factory) -> Any:
    """An adapter whose tokens are merged, its file in the format of ONNX, and pictures of its size. DINOv3's tokens
    turn to their places."""
    folder = tmp_path_factory.mktemp("adapter")
    (folder / "mine.py").write_text(FILE.replace("Timm", request.param))
    model = hmr.load(str(folder / "mine.py")).eval()
    applied(planned(MergeTokens(keep=30, per_layer=20), model), model)
    height, width = model.crop_size
    pictures = [
        replace(one, image=one.image[:height, :width], mask=one.mask[100 : 100 + height, 70 : 70 + width].copy())
        for one in samples(6)
        if one.mask is not None
    ]
    result = export(model, folder / "out", pictures)
    return model, folder / "out" / "model.onnx", pictures, result


def test_an_adapters_file_gives_its_joints(adapted):
    model, path, pictures, result = adapted
    loaded, seen = hmr.load(path), batch(pictures)
    with torch.no_grad():
        mine, theirs = model(*seen.inputs), loaded(*seen.inputs)
    torch.testing.assert_close(loaded.joints(theirs), mine.joints, atol=1e-5, rtol=1e-5)
    assert loaded.body.identity == model.body.identity and loaded.crop_size == model.crop_size
    assert all(row["worst_mm"] <= 0.1 for row in result["parity"]["batches"]) and result["rise_mm"] is None
    assert loaded.interface.licence == {"weights": "MIT"} and loaded.interface.joint_names == tuple("01234")


def test_crops_are_cut_as_the_adapter_cuts_them_or_not_at_all(adapted):
    model, path, _, _ = adapted
    loaded, frame, box = hmr.load(path), samples(1)[0].image, (20.0, 30.0, 90.0, 150.0)
    assert (loaded.adapter.crops(frame, box) == model.adapter.crops(frame, box)).all()
    loaded.interface = loaded.interface.model_copy(update={"own_crops": True})
    with pytest.raises(BadInput, match="its crops are cut by its adapter's: name the adapter"):
        _ = loaded.adapter


def test_an_adapters_file_is_timed_beside_it(adapted):
    model, path, _, _ = adapted
    assert [c.runtime.split()[0] for c in contenders([model, hmr.load(path)], False, CPU)][-1] == "onnxruntime"
    cases = side_by_side([model, hmr.load(path)], [1], 1, False, CPU)["cases"]
    assert cases[-1]["name"] == str(path) and cases[-1]["mac_ratio"] == 1


def test_vertices_of_an_adapter_are_refused(adapted, tmp_path):
    with pytest.raises(BadInput, match="is an adapter, which gives joints alone: leave out --vertices"):
        export(adapted[0], tmp_path / "out", adapted[2], vertices=True)


# ---- motion decoders


def moving(kind: str = "diffusion") -> DecodedModel:
    """An encoder with a decoder of random weights, whose clips have twelve frames."""
    encoder = test_decoder.encoder()
    torch.nn.init.normal_(encoder.head.decpose.weight, std=0.1)
    sizes = TINY.model_copy(update={"features": 6 + WIDTH})
    return DecodedModel(encoder, test_decoder.decoder(sizes, kind=kind, encoder="e" * 64)).eval()


@pytest.fixture(scope="module")
def moved(tmp_path_factory) -> Any:
    model, folder = moving(), tmp_path_factory.mktemp("decoder") / "out"
    return model, folder, export(model, folder, samples(7, model.encoder.crop_size), vertices=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_decoders_file_lies_beside_the_encoders_and_gives_what_the_model_gives(moved):
    model, folder, result = moved
    loaded, seen = hmr.load(folder / "model.onnx"), batch(samples(20, model.encoder.crop_size))
    with torch.no_grad():
        for fps in (30.0, 24.0):  # 24: frames in between are interpolated
            mine, theirs = model(*seen.inputs, fps=fps), loaded(*seen.inputs, fps=fps)
            torch.testing.assert_close(loaded.joints(theirs), model.joints(mine), atol=1e-4, rtol=0)
    assert loaded.takes_clips and loaded.decoder.frames == 12 and loaded.decoder.look_ahead is None
    assert [row["batch"] for row in result["decoder"]["parity"]["batches"]] == [1, 2, 5]
    assert all(0 < row["worst_mm"] <= 0.1 for row in result["decoder"]["parity"]["batches"])
    shapes = {port["name"]: port["shape"] for port in result["decoder"]["interface"]["outputs"]}
    assert shapes["joints"] == ["batch", 12, 24, 3] and shapes["vertices"][1] == 12


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("form", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize("kind", ["linear", "regressor", "diffusion"])
def test_every_kind_of_decoder_passes_in_every_format(kind, form, tmp_path):
    model = moving(kind)
    result = export(model, tmp_path / "out", samples(9, model.encoder.crop_size), form=form, batch=2)
    # one clip at a time where the encoder's batch is fixed
    assert [row["batch"] for row in result["decoder"]["parity"]["batches"]] == [1]
    assert sorted(path.suffix for path in (tmp_path / "out").glob("decoder.*"))[-1] in (".onnx", ".pt2", ".xml")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_decoder_belongs_to_its_encoder(moved, tmp_path):
    model, folder, _ = moved
    with pytest.raises(BadInput, match="a motion decoder alone: name the file of its encoder"):
        hmr.load(folder / "decoder.onnx")
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    with pytest.raises(BadInput, match=r"decoder\.onnx: there is no such file"):
        hmr.load(tmp_path / "model.onnx")
    other = moving("regressor")
    export(other, tmp_path / "other", samples(3, model.encoder.crop_size))
    (tmp_path / "decoder.onnx").write_bytes((tmp_path / "other" / "decoder.onnx").read_bytes())
    with pytest.raises(BadInput, match="was exported with another decoder"):
        hmr.load(tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_follows_people_by_a_file_as_by_its_model(moved, tmp_path):
    """Its walls are of one grey, so tokens tie: in 9 of 48 crops the encoder's file merges others, which moves features
    by up to 8e-4 (else by 5e-7), and behind them random weights move a rotation's entries by 8e-3. So the decoder's
    file is held closer by itself, behind the model's own encoder."""
    model, folder, _ = moved
    walk, loaded, behind = film(tmp_path / "walk.mp4"), hmr.load(folder / "model.onnx"), hmr.load(folder / "model.onnx")
    behind.encoder = model.encoder
    for each, name in ((model, "one"), (loaded, "two"), (behind, "three")):
        run_into(Run(each, Film(walk), Squares(), focal=200.0), tmp_path / name)
    alike(tmp_path / "one", tmp_path / "two", 1e-2)
    alike(tmp_path / "one", tmp_path / "three", 1e-3)
    again = hmr.load(folder / "model.onnx")
    again.encoder.interface.hashes["decoder"] = "0" * 64
    runs = [identity(Run(each, Film(walk), Squares()), [], each.encoder.body)["model"] for each in (loaded, again)]
    assert len(set(runs)) == 2  # another file is another run


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_file_with_a_decoder_is_timed_and_evaluated_as_a_video_model(moved):
    _, folder, _ = moved
    loaded = hmr.load(folder / "model.onnx")
    (one,) = contenders([loaded], False, CPU)
    assert one.decoder is not None and one.decoder[0] == 12 and one.precision == "float32"
    frames = hmr.frames("synth-video:test", 4, model=loaded)
    rows = evaluate(loaded, frames)["rows"]
    assert rows[0]["mpjpe_mm"]["mean"] > 0 and not hmr.load(folder / "model.onnx").training
