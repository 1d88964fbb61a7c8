"""A model's graph as a file: traced once by torch.export, then written for ONNX Runtime, OpenVINO or torch."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from compress.errors import BadInput
from hmr.deploy.interface import KEY, Interface
from hmr.deploy.network import EXAMPLE, Network
from hmr.deploy.onnx_file import described
from hmr.deploy.openvino_runtime import NOTHING, digest, openvino

OPSET = 20  # the first with GELU
LARGEST = 1 << 30  # bytes of weights in a file of ONNX: protobuf holds 2 GiB, so more than this lie beside it


def traced(network: Network, batch: int | None) -> torch.export.ExportedProgram:
    """The graph of a network for `batch` frames, or clips, at once or, where None, any number. Raises BadInput where an
    adapter's code cannot be traced."""
    given = network.example(batch or EXAMPLE)
    frames = None if batch else {0: torch.export.Dim("batch", min=1, max=1 << 16)}
    shapes = None if frames is None else (tuple(frames for _ in given),)
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(network, given, dynamic_shapes=shapes)
    except Exception as error:  # whatever a stranger's code raises
        if not getattr(network.model, "gives_joints", False):
            raise
        hint = "" if batch else "; --batch N may do, where it asks for len() of a tensor and not for its shape"
        raise BadInput(f"{network.model.name} cannot be traced ({str(error).splitlines()[0]}){hint}") from error


def write_onnx(program: torch.export.ExportedProgram, network: Network, interface: Interface, path: Path) -> Path:
    """A file .onnx, and .onnx.data beside it where the weights are large. Raises BadInput where packages that this
    needs are not installed."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(f"to export needs {' and '.join(missing)}: pip install 'fasthmr[onnx]'")
    large = sum(value.nbytes for value in network.state_dict().values()) > LARGEST
    with torch.no_grad(), quiet():
        made = torch.onnx.export(
            program,
            input_names=list(network.inputs),
            output_names=list(network.outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert made is not None  # without a path it is returned
        for node in made.model.graph:
            node.name = f"{module_of(node.metadata_props)}/{node.name}"
            node.metadata_props.clear()  # traces of this machine's files
        made.save(path, external_data=large)
    described(path, interface)
    return path


def module_of(metadata: Mapping[str, str]) -> str:
    """The dotted name of the module that a node comes from, which torch's exporter tells of it; empty where not."""
    scopes = ast.literal_eval(metadata.get("pkg.torch.onnx.name_scopes", "[]"))
    return next((name for name in reversed(scopes[:-1]) if name), "")


def write_openvino(source: Path, interface: Interface, path: Path) -> Path:
    """A file .xml, and .bin beside it, of an ONNX file. Weights stay in the precision that they have there."""
    ov = openvino()
    model = ov.Core().read_model(str(source))
    unhashed = interface.model_copy(update={"hashes": {**interface.hashes, "graph": NOTHING}})
    model.set_rt_info(unhashed.text(), KEY)
    ov.save_model(model, str(path), compress_to_fp16=False)
    found = digest(path, NOTHING)
    path.write_bytes(path.read_bytes().replace(NOTHING.encode(), found.encode()))
    return path


def write_torch(program: torch.export.ExportedProgram, interface: Interface, path: Path) -> Path:
    """A file .pt2, for `torch.export.load`."""
    with quiet():
        torch.export.save(program, path, extra_files={f"{KEY}.json": interface.text()})
    return path


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what exporters say of torchvision, of other opsets and of their own progress."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
