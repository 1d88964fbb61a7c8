"""Exported files: what they give is what the model gives, what they say of themselves is so.

One small model is traced and written once; every test here reads that file. Those of strangers: test_export_hostile.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import hmr
from compress.errors import BadInput
from compress.pipeline import compress
from compress.policies.merge_tokens import MergeTokens
from compress.recipe import Recipe
from experiments.cli.deploy import frames_at_once
from hmr.data.sample import batch
from hmr.deploy import export as exporting
from hmr.deploy.export import RESULT, export
from hmr.deploy.network import ExportNetwork, prepared
from hmr.deploy.onnx_file import described, read_onnx
from hmr.deploy.parity import compared, expected, given, refuse_unlike
from hmr.deploy.quantise import products_under, quantised
from hmr.deploy.runtime import in_groups
from hmr.evaluation.evaluate import evaluate
from tests import exported
from tests.exported import samples
from tests.test_docs import NAMED, ROOT

FIELDS = ("global_orient", "body_pose", "betas", "camera", "features")
made, xml, file = exported.made, exported.xml, exported.file  # fixtures


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_file_is_a_model_that_gives_what_it_was_made_from_gives(made, file, count):
    seen, loaded = batch(samples(count)), hmr.load(file)
    with torch.no_grad():
        mine, theirs = made.model(*seen.inputs), loaded(*seen.inputs)
    for name in FIELDS:
        torch.testing.assert_close(getattr(theirs, name), getattr(mine, name), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loaded.joints(theirs), made.model.joints(mine), atol=1e-5, rtol=1e-5)


def test_parity_is_measured_at_three_batches_on_every_frame(made):
    parity = json.loads((made.folder / RESULT).read_text())["parity"]
    assert [row["batch"] for row in parity["batches"]] == [1, 2, 5]
    assert parity["frames"] == 7 and parity["bound_mm"] == 0.1
    assert all(0 <= row["mean_mm"] <= row["worst_mm"] <= 0.1 for row in parity["batches"])


def test_tokens_of_a_file_are_those_of_the_model(made):
    """Not by way of `compared`: the map itself, which says where each patch went."""
    seen = batch(samples(3))
    assert seen.masks is not None
    given = {"crops": seen.crops.numpy(), "masks": seen.masks.float().numpy()}
    source = hmr.load(made.file).runtime.run(given, ["source"])["source"]
    assert np.array_equal(source, made.model.encode(seen.crops, seen.masks).source.numpy())
    assert source.max() == 89


def test_a_file_says_what_goes_in_and_comes_out(made):
    graph, interface = onnx.load(made.file), read_onnx(made.file)[1]
    onnx.checker.check_model(graph, full_check=True)

    def shapes(values: Any) -> dict[str, tuple[int | str, ...]]:
        dims = {value.name: value.type.tensor_type.shape.dim for value in values}
        return {name: tuple(d.dim_param or d.dim_value for d in of) for name, of in dims.items()}

    for ports, values in ((interface.inputs, graph.graph.input), (interface.outputs, graph.graph.output)):
        told = {port.name: port.shape for port in ports}
        found = shapes(values)
        assert list(told) == list(found)
        for name, shape in told.items():
            assert shape[0] == "batch" and isinstance(found[name][0], str) and found[name][1:] == shape[1:]
    assert interface.hashes["body"] == made.model.body.sha256 and interface.coverage == 0.0
    assert len(interface.joint_names) == 24 and "MIT" in interface.licence["weights"]
    assert interface.macs == made.model.cost().macs.true
    traces = [p.key for n in graph.graph.node for p in n.metadata_props]
    assert traces == [] and b"/hmr/" not in made.file.read_bytes()  # nothing of this machine's files


def test_evaluate_takes_a_file(made, monkeypatch):
    frames = hmr.frames("synth:test", 2, model=made.model)
    one, two = (evaluate(model, frames)["rows"][0]["mpjpe_mm"]["mean"] for model in (made.model, hmr.load(made.file)))
    assert one == pytest.approx(two, abs=0.01)


def test_a_file_is_not_compressed_again(made):
    loaded = hmr.load(made.file)
    with pytest.raises(BadInput, match=r"model.onnx (is an exported file|was compressed already)"):
        compress(loaded, Recipe(schema_version=1, name="again", steps=(MergeTokens(keep=100),)), calib=None, test=None)
    with pytest.raises(BadInput, match="exported file, and this needs blocks"):
        _ = loaded.stack


def test_what_a_file_needs_is_named(made):
    loaded, seen = hmr.load(made.file), batch(samples(2))
    with pytest.raises(BadInput, match="needs masks: share of each pixel"):
        loaded(seen.crops)
    with pytest.raises(BadInput, match=r"crops are \('B', 3, 256, 192\), these are \(2, 3, 128, 192\)"):
        loaded(seen.crops[:, :, ::2], seen.masks)


def test_the_script_of_the_docs_gives_the_same_joints(made, tmp_path):
    said = script(made, tmp_path, sys.executable)
    assert said.shape == (24, 3) and abs(said - posed(made)).max() <= 1e-3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_script_of_the_docs_needs_three_packages(made, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    packages = ["onnxruntime", "numpy", "pillow"]
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *packages], check=True)
    listed = subprocess.run([python, "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    assert "torch" not in listed and "fasthmr" not in listed
    assert abs(script(made, tmp_path, python) - posed(made)).max() <= 1e-3


def script(made: Any, folder: Path, python: str) -> Any:
    """Joints (24, 3) that the script of docs/deploy.md prints for a picture and a mask of the size of a crop."""
    (text,) = (text for name, text in NAMED.findall((ROOT / "docs" / "deploy.md").read_text()) if name == "picture.py")
    assert len(text.splitlines()) <= 25
    (folder / "picture.py").write_text(text)
    (one,) = samples(1)
    assert one.mask is not None
    Image.fromarray(one.image).save(folder / "person.png")
    Image.fromarray(255 * one.mask.astype(np.uint8)).save(folder / "mask.png")
    words = [python, "picture.py", str(made.file), "person.png", "mask.png"]
    said = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout
    return np.array([[float(number) for number in line.split()[1:]] for line in said.splitlines()])


def posed(made: Any) -> Any:
    seen = batch(samples(1))
    with torch.no_grad():
        return made.model.joints(made.model(*seen.inputs))[0].numpy()


# ---- the gate


def running(network: ExportNetwork, off_mm: float = 0.0, swapped: bool = False) -> Any:
    """A runtime that gives what the network gives, but for one joint, and another map of tokens, of one frame."""

    def run(given: Any, wanted: Any) -> dict[str, Any]:
        found = network(*(torch.from_numpy(given[name]) for name in network.inputs))
        values = {name: value.detach().numpy().copy() for name, value in zip(network.outputs, found, strict=True)}
        odd = np.abs(given["crops"] - given["crops"].min()).sum((1, 2, 3)).argmax()
        values["joints"][odd, 3, 0] += off_mm / 1000
        if swapped:
            values["source"][odd, 0] = (values["source"][odd, 0] + 1) % 90
        return {name: values[name] for name in wanted}

    return run


def test_the_gate_names_the_worst_frame_and_every_flip(made):
    network = ExportNetwork(prepared(made.model, "float32"))
    frames = expected(network, samples(3))
    row = compared(running(network, 0.2, swapped=True), frames, 3)
    assert row.worst_mm == pytest.approx(0.2, rel=1e-3) and row.worst_frame in frames.names
    assert row.flipped == (row.worst_frame,)
    with pytest.raises(
        BadInput, match=rf"batch 3 a joint of frame {row.worst_frame} lies 0.2 mm .*other tokens.* in 1"
    ):
        refuse_unlike([row], "float32", "small")
    refuse_unlike([row], "float16", "small")  # 1 mm there
    wide = compared(running(network, 1.5), frames, 3)
    with pytest.raises(BadInput, match=r"1.5 mm .* float16 may be off by 1 mm"):
        refuse_unlike([wide], "float16", "small")
    lost = compared(running(network, float("nan")), frames, 3)
    with pytest.raises(BadInput, match="inf mm"):
        refuse_unlike([lost], "float16", "small")


def test_nothing_is_written_where_a_joint_lies_elsewhere(made, tmp_path, monkeypatch):
    network = ExportNetwork(prepared(made.model, "float32"))
    off = exporting.Written(made.file, read_onnx(made.file)[1], running(network, 0.15))
    monkeypatch.setattr(exporting, "written", lambda *given: off)
    with pytest.raises(BadInput, match="nothing was written"):
        export(made.model, tmp_path / "out", samples(2))
    assert list(tmp_path.iterdir()) == []


def test_a_fixed_batch_is_filled_up_with_copies():
    seen: list[int] = []

    def run(given: Any, wanted: Any) -> dict[str, Any]:
        seen.append(len(given["crops"]))
        return {"joints": 2 * given["crops"]}

    found = in_groups(run, {"crops": np.arange(6.0)[:, None]}, ["joints"], 4)
    assert seen == [4, 4] and found["joints"][:, 0].tolist() == [0, 2, 4, 6, 8, 10]


# ---- int8


def test_int8_rounds_the_products_of_the_blocks_alone(made, tmp_path):
    """The model's own rounding of the same layers, by torchao, is about as far off; and the head stays as it was."""
    network = ExportNetwork(prepared(made.model, "float32"))
    inputs = given(network, samples(6))
    path = quantised(made.file, tmp_path / "model.onnx", inputs, network.blocks)
    interface = read_onnx(made.file)[1].model_copy(update={"precision": "int8"})
    described(path, interface)
    rounded = onnx.load(path).graph
    scales = [node for node in rounded.node if node.op_type == "DequantizeLinear"]
    assert len(products_under(made.file, network.blocks)) == 8  # qkv, proj, fc1 and fc2 of two blocks
    assert len(scales) == 2 * 8 and path.stat().st_size < made.file.stat().st_size
    seen = batch(samples(6))
    with torch.no_grad():
        right, loaded = made.model(*seen.inputs).features, hmr.load(path)
        off = (loaded(*seen.inputs).features - right).norm() / right.norm()
    assert 1e-5 < off < 0.1 and loaded.precision == "int8"


def test_int8_needs_frames(made, tmp_path):
    nothing = {"crops": np.zeros((0, 3, 256, 192), np.float32)}
    with pytest.raises(BadInput, match="0 frames for ranges"):
        quantised(made.file, tmp_path / "model.onnx", nothing, ExportNetwork(made.model).blocks)
    with pytest.raises(BadInput, match="name --format onnx or openvino"):
        export(made.model, tmp_path / "out", samples(1), form="torch", precision="int8")


# ---- what cannot be exported


def test_batch_is_a_number_or_dynamic():
    assert frames_at_once("dynamic") is None and frames_at_once("8") == 8
    for odd in ("0", "-1", "many", "1.5"):
        with pytest.raises(BadInput, match="name a number of frames, or dynamic"):
            frames_at_once(odd)
