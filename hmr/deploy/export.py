"""`fasthmr export`: a model as a file for another runtime, which is written once it gives what the model gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from compress.artefact import refuse_taken
from compress.atomic import atomic_folder
from compress.choices import one_of
from compress.context import Observer, silent
from compress.errors import BadInput
from compress.provenance import commit, package_version
from hmr.body.model import BodyModel
from hmr.data.sample import Sample
from hmr.deploy.formats import traced, write_onnx, write_openvino, write_torch
from hmr.deploy.interface import Interface
from hmr.deploy.network import ExportNetwork, prepared
from hmr.deploy.onnx_file import described
from hmr.deploy.parity import (
    BATCHES,
    BOUNDS_MM,
    Expected,
    Parity,
    compared,
    expected,
    given,
    refuse_unlike,
    rise,
)
from hmr.deploy.quantise import quantised
from hmr.deploy.runtime import Arrays, Run, opened

FORMATS = ("onnx", "openvino", "torch")
PRECISIONS = ("float32", "float16", "int8")
RESULT = "export.json"
PACKAGES = ("fasthmr", "torch", "onnx", "onnxruntime", "openvino")


def export(
    model: Any,
    folder: Path,
    samples: Sequence[Sample],
    *,
    form: str = "onnx",
    batch: int | None = None,
    precision: str = "float32",
    vertices: bool = False,
    calib: Sequence[Sample] = (),
    observer: Observer = silent,
) -> dict[str, Any]:
    """Write `model` to `folder` in a format of FORMATS, whole or not at all; what was written and how far it is off.

    samples: frames on which the file has to give what the model gives, see `hmr.deploy.parity`. batch: how many frames
    go in at once; None: any number. vertices: whether vertices come out too. calib: frames that int8 takes its ranges
    from. Raises BadInput for a model that cannot be exported, where a runtime is missing, where the file gives
    something else, and where `folder` has something in it.
    """
    one_of(form, FORMATS, "format")
    one_of(precision, PRECISIONS, "precision")
    if precision == "int8" and form == "torch":
        raise BadInput("int8 is for ONNX Runtime and OpenVINO: name --format onnx or openvino")
    refuse_taken(folder)
    network = ExportNetwork(prepared(model, precision), vertices)
    interface = interface_for(network, model, precision, batch)
    observer("exporting", "the model's own outputs", 0, 3)
    frames = expected(ExportNetwork(prepared(model, "float32"), vertices), samples)
    observer("exporting", "tracing", 1, 3)
    program = traced(network, batch)
    with atomic_folder(folder) as unfinished:
        path = write(program, network, interface, unfinished, form, calib)
        observer("exporting", "comparing", 2, 3)
        run = running(path, interface)
        rows = [compared(run, frames, size) for size in ([batch] if batch else BATCHES)]
        refuse_unlike(rows, precision, f"{model.encoder.name} as {form}")
        written = interface if form == "torch" else opened(path).interface
        result = {
            "file": path.name,
            "parity": summary(rows, frames, precision),
            "rise_mm": rise(run, frames, network.body, samples, batch),
            "interface": written.model_dump(mode="json"),
        }
        (unfinished / RESULT).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return {**result, "path": str(folder / path.name)}


def write(
    program: torch.export.ExportedProgram,
    network: ExportNetwork,
    interface: Interface,
    folder: Path,
    form: str,
    calib: Sequence[Sample],
) -> Path:
    """The file of a format; arguments as `export`."""
    if form == "torch":
        return write_torch(program, interface, folder)
    if form == "onnx" and interface.precision != "int8":
        return write_onnx(program, network, interface, folder)
    with TemporaryDirectory(dir=folder) as beside:
        path = write_onnx(program, network, interface, Path(beside))
        if interface.precision == "int8":
            rounded = (folder if form == "onnx" else Path(beside)) / ("model.onnx" if form == "onnx" else "int8.onnx")
            path = quantised(path, rounded, given(network, calib), network.blocks)
            described(path, interface)
        return path if form == "onnx" else write_openvino(path, interface, folder)


def running(path: Path, interface: Interface) -> Run:
    """What runs a file that was just written."""
    if path.suffix != ".pt2":
        return opened(path).run
    program = torch.export.load(path).module()

    def run(given: Arrays, wanted: Sequence[str]) -> dict[str, Any]:
        with torch.no_grad():
            made = program(*(torch.from_numpy(given[port.name]) for port in interface.inputs))
        return {port.name: value.numpy() for port, value in zip(interface.outputs, made, strict=True)}

    return run


def interface_for(network: ExportNetwork, model: Any, precision: str, batch: int | None) -> Interface:
    """What the file of a network says of itself; the hash of its graph is put in as it is written."""
    inputs, outputs = network.ports(batch)
    base, body = model.base, network.body
    return Interface(
        name=model.encoder.name,
        architecture=model.architecture,
        precision=precision,  # type: ignore[arg-type]  # one of them was asked for
        inputs=inputs,
        outputs=outputs,
        macs=network.model.cost().macs.true,
        coverage=model.protect,
        joint_names=body.layout.joints,
        licence=licences(model, body),
        hashes={"model": model.sha256 or base.sha256, "body": body.sha256},
        commit=commit(),
        versions={name: package_version(name) for name in PACKAGES},
    )


def licences(model: Any, body: BodyModel) -> dict[str, str]:
    """Under what the weights and the body in a file may be passed on."""
    own = "Apache-2.0 (NOTICE)"
    bodies = own if body.name == "open" else f"{body.layout.name}'s own, see {body.layout.register_at}"
    made = f"that of the weights it was made from, of {model.family.name} (code: {model.family.licence})"
    return {"weights": made, "body": bodies}


def summary(rows: Sequence[Parity], frames: Expected, precision: str) -> dict[str, Any]:
    """The comparison as JSON values."""
    return {"frames": len(frames.names), "bound_mm": BOUNDS_MM.get(precision), "batches": [asdict(row) for row in rows]}
