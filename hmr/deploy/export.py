"""`fasthmr export`: a model as a file for another runtime, which is written once it gives what the model gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
from hmr.adapters.adapted import gives_joints
from hmr.adapters.adapter import Adapter
from hmr.data.sample import Sample
from hmr.deploy.formats import traced, write_onnx, write_openvino, write_torch
from hmr.deploy.interface import Interface
from hmr.deploy.network import DecoderNetwork, ExportNetwork, Network, ports, prepared
from hmr.deploy.onnx_file import described
from hmr.deploy.parity import (
    BATCHES,
    BOUNDS_MM,
    READ,
    Expected,
    Parity,
    clips_of,
    compared,
    decoded,
    expected,
    given,
    refuse_unlike,
    rise,
    rounding,
)
from hmr.deploy.quantise import quantised
from hmr.deploy.runtime import Arrays, Run, in_groups, opened

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

    A motion decoder becomes a file of its own beside the model's. samples: frames on which files have to give what the
    model gives, see `hmr.deploy.parity`, in the order of a video for a motion decoder. batch: how many frames go in at
    once; None: any number. vertices: whether vertices come out too. calib: frames that int8 takes its ranges from.
    Raises BadInput for a model that cannot be exported, where a runtime is missing, where a file gives something else,
    and where `folder` has something in it.
    """
    one_of(form, FORMATS, "format")
    one_of(precision, PRECISIONS, "precision")
    if precision == "int8" and form == "torch":
        raise BadInput("int8 is for ONNX Runtime and OpenVINO: name --format onnx or openvino")
    refuse_taken(folder)
    twin = prepared(model, "float32")
    network = ExportNetwork(prepared(model, precision) if precision == "float16" else twin, vertices)
    asked = Asked(model, form, batch, precision, vertices, calib)
    observer("exporting", "the model's own outputs", 0, 3)
    frames = expected(ExportNetwork(twin, vertices), samples)
    with atomic_folder(folder) as unfinished:
        decoder = written(DecoderNetwork(twin, vertices), asked, unfinished) if model.takes_clips else None
        observer("exporting", "tracing", 1, 3)
        file = written(network, asked, unfinished, decoder)
        observer("exporting", "comparing", 2, 3)
        result = {
            "file": file.path.name,
            "parity": held(file, frames, asked),
            "rise_mm": rise(file.run, frames, network.body, samples, batch),
            "rounding": rounding(model, frames),
            "interface": file.interface.model_dump(mode="json"),
            "decoder": None if decoder is None else held_decoder(file, decoder, frames, twin, asked),
        }
        (unfinished / RESULT).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return {**result, "path": str(folder / file.path.name)}


@dataclass(frozen=True)
class Asked:
    """What is exported, and how; as `export` takes it."""

    model: Any
    form: str
    batch: int | None
    precision: str
    vertices: bool
    calib: Sequence[Sample]

    @property
    def what(self) -> str:
        return f"{self.model.encoder.name} as {self.form}"

    @property
    def sizes(self) -> Sequence[int]:
        """How many frames go in at once where a file is compared."""
        return [self.batch] if self.batch else BATCHES


@dataclass(frozen=True)
class Written:
    """A file that was written, what it says of itself, and what runs it."""

    path: Path
    interface: Interface
    run: Run


def written(network: Network, asked: Asked, folder: Path, beside: Written | None = None) -> Written:
    """The file of a network; `beside`: that of the motion decoder, which takes one clip at once where `batch` is a
    number, and stays in float32."""
    decodes = isinstance(network, DecoderNetwork)
    if decodes:
        asked = replace(asked, batch=asked.batch and 1, precision="float32")
    interface = interface_for(network, asked, beside)
    path = write(traced(network, asked.batch), network, interface, folder / ("decoder" if decodes else "model"), asked)
    if path.suffix == ".pt2":
        return Written(path, interface, program_of(path, interface))
    runtime = opened(path)
    return Written(path, runtime.interface, runtime.run)


def write(
    program: torch.export.ExportedProgram, network: Network, interface: Interface, stem: Path, asked: Asked
) -> Path:
    """The file of a format at `stem` with its suffix."""
    if asked.form == "torch":
        return write_torch(program, interface, stem.with_suffix(".pt2"))
    if asked.form == "onnx" and interface.precision != "int8":
        return write_onnx(program, network, interface, stem.with_suffix(".onnx"))
    with TemporaryDirectory(dir=stem.parent) as beside:
        path = write_onnx(program, network, interface, Path(beside) / "model.onnx")
        if interface.precision == "int8":
            assert isinstance(network, ExportNetwork)  # a motion decoder stays in float32
            rounded = stem.with_suffix(".onnx") if asked.form == "onnx" else Path(beside) / "int8.onnx"
            path = quantised(path, rounded, given(network, asked.calib), network.blocks, asked.batch)
            described(path, interface)
        return path if asked.form == "onnx" else write_openvino(path, interface, stem.with_suffix(".xml"))


def program_of(path: Path, interface: Interface) -> Run:
    """What runs a program of torch that was just written."""
    program = torch.export.load(path).module()

    def run(given: Arrays, wanted: Sequence[str]) -> dict[str, Any]:
        with torch.no_grad():
            made = program(*(torch.from_numpy(given[port.name]) for port in interface.inputs))
        return {port.name: value.numpy() for port, value in zip(interface.outputs, made, strict=True)}

    return run


def held(file: Written, frames: Expected, asked: Asked) -> dict[str, Any]:
    """How far a file is off, as JSON values; raises BadInput where that is too far."""
    rows = [compared(file.run, frames, size) for size in asked.sizes]
    refuse_unlike(rows, asked.precision, asked.what)
    return summary(rows, frames, asked.precision)


def held_decoder(file: Written, decoder: Written, frames: Expected, twin: Any, asked: Asked) -> dict[str, Any]:
    """As `held` for a motion decoder, which reads what the encoder's file gives."""
    length, rows = int(decoder.interface.inputs[0].shape[1]), []
    wanted = decoded(DecoderNetwork(twin), clips_of(frames.wanted, length))
    for size in asked.sizes:
        found = in_groups(file.run, frames.given, READ, size)
        rows.append(compared(decoder.run, replace(wanted, given=clips_of(found, length)), (asked.batch and 1) or size))
    refuse_unlike(rows, asked.precision, f"the motion decoder of {asked.what}")
    parity = summary(rows, wanted, asked.precision)
    return {"file": decoder.path.name, "parity": parity, "interface": decoder.interface.model_dump(mode="json")}


def interface_for(network: Network, asked: Asked, decoder: Written | None) -> Interface:
    """What the file of a network says of itself; the hash of its graph is put in as it is written."""
    inputs, outputs = ports(network, asked.batch)
    model, base, body = asked.model, asked.model.base, network.body
    hashes = {"model": model.encoder.sha256 or base.sha256, "body": body.sha256}
    if decoder is not None and (graph := decoder.interface.hashes.get("graph")):  # a program of torch has none
        hashes["decoder"] = graph
    decodes = isinstance(network, DecoderNetwork)
    named = {port.name: port.shape for port in outputs}
    return Interface(
        name=model.encoder.name,
        architecture=model.encoder.architecture,
        precision=asked.precision,  # type: ignore[arg-type]  # one of them was asked for
        inputs=inputs,
        outputs=outputs,
        macs=model.cost().macs.true,
        coverage=None if decodes else model.protect,
        joint_names=joint_names(model, int(named["joints"][-2])),
        licence=licences(model),
        hashes=hashes,
        commit=commit(),
        versions={name: package_version(name) for name in PACKAGES},
        own_crops=gives_joints(model) and type(model.encoder.adapter).crops is not Adapter.crops,
        decoded_by=None if decoder is None else model.decoded_by,
        look_ahead=model.decoder.look_ahead if decodes else None,
    )


def joint_names(model: Any, count: int) -> tuple[str, ...]:
    """Names of a model's joints; an adapter's have numbers alone."""
    return tuple(map(str, range(count))) if gives_joints(model) else model.encoder.body.layout.joints


def licences(model: Any) -> dict[str, str]:
    """Under what the weights and the body in a file may be passed on."""
    if gives_joints(model):
        return {"weights": model.encoder.adapter.licence}
    body, family, own = model.encoder.body, model.encoder.family, "Apache-2.0 (NOTICE)"
    bodies = own if body.name == "open" else f"{body.layout.name}'s own, see {body.layout.register_at}"
    made = f"that of the weights it was made from, of {family.name} (code: {family.licence})"
    return {"weights": made, "body": bodies}


def summary(rows: Sequence[Parity], frames: Expected, precision: str) -> dict[str, Any]:
    """The comparison as JSON values."""
    return {"frames": len(frames.names), "bound_mm": BOUNDS_MM.get(precision), "batches": [asdict(row) for row in rows]}
