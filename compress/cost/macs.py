"""What a model costs per frame, counted: parameters and multiply-accumulates (MACs).

MACs are counted by fvcore on a trace, with handles of our own, because fvcore (as torch's FlopCounterMode on a CPU)
counts 0 for fused attention. A trace needs shapes and no weights: a model on the meta device is counted in seconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from compress.stack import transformer_blocks

LAYERS = ("linear", "addmm", "conv")  # operators of layers with weights
PRODUCTS = ("matmul", "bmm", "baddbmm", "einsum", "attention")  # those between activations
PRODUCT_WORDS = ("mm", "attention", "conv", "linear")  # in the names of operators that are products of some kind
NORMS = ("layer_norm", "batch_norm")
FUSED = (
    "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)
THOP_NORM = 4  # thop's count_normalization per element, with an affine map: "MACs", though none is one


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates in three conventions."""

    true: int  # every matrix product: layers, attention, the matching of tokens
    linear: int  # linear and convolution layers alone
    thop: int  # what papers print: `linear` plus 4 per element of each LayerNorm and BatchNorm


@dataclass(frozen=True)
class Part:
    """A part of a model; the parts of a model add up to it."""

    name: str
    params: int
    macs: Macs


@dataclass(frozen=True)
class Cost:
    """The cost of one frame."""

    params: int
    params_thop: int  # only of the linear, convolution and norm layers that run: no position embedding
    macs: Macs
    layers: int  # blocks; a linear map in the place of some is none
    tokens: tuple[int, ...]  # after each block, maps included
    parts: tuple[Part, ...]


@torch.no_grad()
def cost(model: Any, *inputs: Tensor, beside: Mapping[str, Tensor] | None = None) -> Cost:
    """Count `model`, a `Compressible` nn.Module in evaluation mode, on the inputs of one frame, on its device or meta.

    beside: children of the model that its `forward` does not call, by name, with what each sees once a frame.
    Token counts follow from the schedule alone, so what the inputs show does not matter. Raises NotImplementedError
    for a product that has no handle: counting it as 0 would flatter the model.
    """
    counted = operators(model, *inputs)
    for child, seen in (beside or {}).items():
        for name, count in operators(model.get_submodule(child), seen).items():
            counted[f"{child}.{name}".removesuffix(".")] = count
        counted[""] = counted[""] + counted[child]
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_modules()}
    leaves = [name for name, module in model.named_modules() if not any(True for _ in module.children())]
    return Cost(
        params=sizes[""],
        params_thop=sum(sizes[name] for name in leaves if macs(counted[name]).thop),
        macs=macs(counted[""]),
        layers=len(transformer_blocks(model.stack)),
        tokens=tuple(model.schedule.counts(model.stack.embed(inputs[0]).x.shape[1], len(model.stack.blocks))),
        parts=tuple(parts(model, sizes, counted)),
    )


@torch.no_grad()
def stack_costs(model: Any, *inputs: Tensor, whole: Cost | None = None) -> tuple[Part, ...]:
    """The cost of each stack of a model on the inputs of one frame: `encoder`, those behind it, and the `rest` of its
    `whole` cost: what makes the first tokens, what lies around stacks, networks beside the backbone."""
    total = whole or cost(model, *inputs)
    counted = operators(model, *inputs)
    embedding = operators(_Half(model, lambda own, crop, *_: own.stack.embed(crop).x), *inputs[:2])[""]
    through = operators(_Half(model, lambda own, *seen: own.encode(*seen).x), *inputs[:2])[""].copy()
    through.subtract(embedding)
    names = {id(module): name for name, module in model.named_modules()}
    found = [Part("encoder", params_of(model.stack.blocks), macs(through))]
    for name, stack in model.stacks.items():
        inside = sum((counted[names[id(block)]] for block in stack.blocks), Counter[str]())
        found.append(Part(name, params_of(stack.blocks), macs(inside)))
    left = {f.name: getattr(total.macs, f.name) - sum(getattr(p.macs, f.name) for p in found) for f in fields(Macs)}
    return *found, Part("rest", total.params - sum(part.params for part in found), Macs(**left))


def params_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def macs(counted: Counter[str]) -> Macs:
    """The three conventions from counts by operator."""
    linear, products, norms = (sum(int(counted[name]) for name in names) for names in (LAYERS, PRODUCTS, NORMS))
    return Macs(true=linear + products, linear=linear, thop=linear + norms)


def parts(model: Any, sizes: dict[str, int], counted: dict[str, Counter[str]]) -> list[Part]:
    """Stem, blocks and head as the model's children name them; `other` is what no module owns.

    That is position embeddings, and the matching of tokens between the two halves of a block.
    """
    names = {id(module): name for name, module in model.named_modules()}
    chosen = [names[id(module)] for module in pieces(model, model.stack.blocks)]
    rest = counted[""].copy()
    rest.subtract(sum((counted[name] for name in chosen), Counter()))
    found = [Part(name, sizes[name], macs(counted[name])) for name in chosen]
    return [*found, Part("other", sizes[""] - sum(sizes[name] for name in chosen), macs(rest))]


def pieces(module: nn.Module, blocks: nn.ModuleList) -> Iterator[nn.Module]:
    """Each of `blocks`, and the largest modules around them that hold none, in their order."""
    for child in module.children():
        if child is blocks:
            yield from blocks
        elif any(inner is blocks for inner in child.modules()):
            yield from pieces(child, blocks)
        else:
            yield child


def operators(model: nn.Module, *inputs: Tensor) -> dict[str, Counter[str]]:
    """Counts by operator, of each module that has a name, from one trace of model(*inputs)."""
    analysis = FlopCountAnalysis(_Flat(model), inputs).set_op_handle(**HANDLES)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with torch.no_grad(), _Unfolded():
        found = analysis.by_module_and_operator()
    unknown = (name for name in analysis.unsupported_ops() if "upsample" not in name)  # as _upsample_bilinear2d_aa
    missed = [name for name in unknown if any(word in name for word in PRODUCT_WORDS)]
    if missed:
        raise NotImplementedError(f"there is no handle for {', '.join(missed)}, which would count as nothing")
    return {name.removeprefix("model").removeprefix("."): count for name, count in found.items() if name}


class _Unfolded(TorchFunctionMode):
    """On the meta device, a convolution runs as what it is: a linear layer over patches, with the same products.

    A trace records no convolution there, and its meta kernel fails on traced sizes.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        unfolded = {torch.conv1d: self.flat, torch.conv2d: self.linear}.get(func)
        return (unfolded if unfolded and args[0].is_meta else func)(*args, **(kwargs or {}))

    def flat(self, x: Tensor, weight: Tensor, bias: Tensor | None, *places: Any) -> Tensor:
        """A convolution over one dimension is one over two, of which one has a single row."""
        stride, padding, dilation, groups = places
        along = ((1, *stride), (0, *padding), (1, *dilation))
        return self.linear(x[:, :, None], weight[:, :, None], bias, *along, groups)[:, :, 0]

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Tensor:
        padding = (0, 0) if padding == "valid" else padding
        patches = F.unfold(x, weight.shape[2:], dilation, padding, stride)  # (B, C * h * w, rows * columns)
        y = F.linear(patches.transpose(1, 2), weight.flatten(1), bias)  # (B, rows * columns, C')
        rows = (x.shape[2] + 2 * padding[0] - dilation[0] * (weight.shape[2] - 1) - 1) // stride[0] + 1
        return y.transpose(1, 2).unflatten(2, (rows, -1))


class _Half(nn.Module):
    """A part of a model's forward pass."""

    def __init__(self, model: nn.Module, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(self.model, *inputs)


class _Flat(nn.Module):
    """A model whose output is a tuple of tensors, because a trace takes no dataclass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...] | Tensor:
        output = self.model(*inputs)
        return tuple(v for v in vars(output).values() if torch.is_tensor(v)) if is_dataclass(output) else output


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Both products of q (..., M, d), k (..., N, d), v (..., N, e): QK^T and its product with V."""
    q, k, v = (get_shape(value) for value in inputs[:3])
    return Counter({"attention": math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])})


def _baddbmm(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    a, b = (get_shape(value) for value in inputs[1:3])
    return Counter({"baddbmm": math.prod(a) * b[-1]})


def _norm(name: str) -> Callable[[list[Any], list[Any]], Counter[str]]:
    return lambda inputs, outputs: Counter({name: THOP_NORM * math.prod(get_shape(inputs[0]))})


def _named_padding(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A convolution whose padding is a word, "valid" or "same", as SigLIP's patches have it."""
    return Counter(conv=math.prod(get_shape(outputs[0])) * math.prod(get_shape(inputs[1])[1:]))


HANDLES: dict[str, Any] = {
    "aten::_convolution_mode": _named_padding,
    **{f"aten::{name}": _attention for name in FUSED},
    "aten::baddbmm": _baddbmm,
    **{f"aten::{name}": _norm(name) for name in NORMS},
}
