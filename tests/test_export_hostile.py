"""Exported files of strangers: changed copies of the file that test_export reads, and what is none, are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

import hmr
from compress.errors import BadInput
from hmr.deploy.interface import KEY
from hmr.deploy.onnx_file import described, read_onnx
from tests import exported

made, xml, file = exported.made, exported.xml, exported.file  # fixtures


def changed(made: Any, folder: Path, change: Any, whole: bool = True) -> Path:
    """A copy of the file after `change(graph)`; `whole`: with the hash of what it then holds, as a stranger can."""
    path = folder / "model.onnx"
    model = onnx.load(made.file)
    change(model)
    path.write_bytes(model.SerializeToString())
    if whole:
        described(path, read_onnx(made.file)[1])
    return path


def outside(where: str) -> Any:
    def change(model: Any) -> None:
        tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=where)

    return change


@pytest.mark.parametrize("where", ["../secret", "inner/../../secret", "link", "missing"])
def test_weights_outside_of_the_folder_are_refused(made, tmp_path, where):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret").write_bytes(bytes(1 << 16))
    (inner / "link").symlink_to(tmp_path / "secret")
    path = changed(made, inner, outside(where), whole=False)
    with pytest.raises(BadInput, match=r"outside of the file's own folder"):
        hmr.load(path)


def test_an_absolute_place_of_weights_is_refused(made, tmp_path):
    path = changed(made, tmp_path, outside(str(made.file)), whole=False)
    with pytest.raises(BadInput, match=r"outside of the file's own folder"):
        hmr.load(path)


def foreign(model: Any) -> None:
    model.graph.node[3].domain = "com.evil"


def imported(model: Any) -> None:
    model.opset_import.add(domain="com.evil", version=1)


def function(model: Any) -> None:
    model.functions.add(name="f", domain="")


@pytest.mark.parametrize(
    "change, words",
    [
        (foreign, "operators of 'com.evil'"),
        (imported, "operators of 'com.evil'"),
        (function, "functions of its own"),
        (lambda model: model.graph.node.pop(5), "damaged or changed"),
        (lambda model: model.metadata_props.pop(0), "not written by `fasthmr export`"),
    ],
)
def test_strange_graphs_are_refused(made, tmp_path, change, words):
    with pytest.raises(BadInput, match=words):
        hmr.load(changed(made, tmp_path, change, whole=False))


def test_an_operator_inside_of_an_operator_is_seen(made, tmp_path):
    inner = onnx.helper.make_graph([onnx.helper.make_node("X", [], ["y"], domain="com.evil")], "inner", [], [])

    def change(model: Any) -> None:
        model.graph.node[2].attribute.append(onnx.helper.make_attribute("then_branch", inner))

    with pytest.raises(BadInput, match=r"operators of 'com\.evil'"):
        hmr.load(changed(made, tmp_path, change, whole=False))


def test_a_flipped_bit_is_found(file, tmp_path):
    for source in file.parent.glob("model.*"):
        for other in file.parent.glob("model.*"):
            shutil.copy(other, tmp_path / other.name)
        content = bytearray(source.read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / source.name).write_bytes(content)
        with pytest.raises(BadInput):
            hmr.load(tmp_path / file.name)


@pytest.mark.parametrize("name, content", [("a.onnx", b"no graph"), ("b.xml", b"<net>"), ("c.onnx", b"")])
def test_what_is_no_exported_file_is_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=name):
        hmr.load(tmp_path / name)
    with pytest.raises(BadInput, match="no such file"):
        hmr.load(tmp_path / f"missing-{name}")


def test_what_a_file_says_has_to_be_complete(made, tmp_path):
    def change(model: Any) -> None:
        (entry,) = (p for p in model.metadata_props if p.key == KEY)
        told = json.loads(entry.value)
        del told["inputs"]
        entry.value = json.dumps(told)

    with pytest.raises(BadInput, match="what it says of itself is not"):
        hmr.load(changed(made, tmp_path, change, whole=False))
