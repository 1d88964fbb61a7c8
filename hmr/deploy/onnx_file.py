"""ONNX files: read with suspicion, hashed, and with what they say of themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.errors import BadInput
from hmr.deploy.interface import KEY, Interface, interface_of

DOMAINS = ("", "ai.onnx")  # whose operators ONNX itself defines


def onnx() -> Any:
    """The package; raises BadInput where it is not installed."""
    try:
        import onnx
        import onnx.external_data_helper
    except ImportError as error:
        raise BadInput("ONNX files need onnx and onnxruntime: pip install 'fasthmr[onnx]'") from error
    return onnx


def read_onnx(path: Path) -> tuple[Any, Interface]:
    """The graph of a file, without the weights that lie beside it, and what it says of itself.

    Raises BadInput for what is no ONNX, asks for operators or functions that ONNX does not define, has weights outside
    of its folder, was not written by `fasthmr export`, or was changed since.
    """
    try:
        model = onnx().load(path, load_external_data=False)
    except BadInput:
        raise
    except Exception as error:  # protobuf's own, which have no class in common
        raise BadInput(f"{path}: not an ONNX file ({error})") from error
    refuse_strange(model, path)
    text = next((entry.value for entry in model.metadata_props if entry.key == KEY), None)
    interface = interface_of(text, path)
    if graph_digest(model, path.parent) != interface.hashes.get("graph"):
        raise BadInput(f"{path}: its hash is not the one it was exported with: the file was damaged or changed")
    return model, interface


def refuse_strange(model: Any, path: Path) -> None:
    """Raise BadInput for operators that ONNX does not define, functions, and weights outside of the file's folder."""
    used = {entry.domain for entry in model.opset_import} | {node.domain for node in nodes(model.graph)}
    if strange := sorted(used - {*DOMAINS}):
        raise BadInput(f"{path}: asks for operators of {strange[0]!r}; only those that ONNX defines are run here")
    if len(model.functions):
        raise BadInput(f"{path}: defines functions of its own, which `fasthmr export` never writes")
    for tensor in tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location" and not inside(path.parent, entry.value):
                raise BadInput(f"{path}: weights lie at {entry.value[:100]!r}, outside of the file's own folder")


def inside(folder: Path, name: str) -> bool:
    """Whether a name is that of a file in `folder` itself, and no link that leads out of it."""
    place = folder / name
    return Path(name).name == name and place.is_file() and place.resolve().parent == folder.resolve()


def graphs(graph: Any) -> Iterator[Any]:
    """A graph and those inside of its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from graphs(inner)


def nodes(graph: Any) -> Iterator[Any]:
    for each in graphs(graph):
        yield from each.node


def tensors(model: Any) -> Iterator[Any]:
    """Every tensor of a model, in its order."""
    for graph in graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors)
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)


def graph_digest(model: Any, folder: Path) -> str:
    """sha256 over a model but for its metadata, and over the files of weights beside it."""
    bare = onnx().ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    digest = hashlib.sha256(bare.SerializeToString(deterministic=True))
    names = {entry.value for t in tensors(model) for entry in t.external_data if entry.key == "location"}
    for name in sorted(names):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def described(path: Path, interface: Interface) -> Interface:
    """Put what a file says of itself into it, the hash of its graph with it; what it then says."""
    model = onnx().load(path, load_external_data=False)
    whole = interface.model_copy(update={"hashes": {**interface.hashes, "graph": graph_digest(model, path.parent)}})
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=whole.text())
    path.write_bytes(model.SerializeToString(deterministic=True))
    return whole
