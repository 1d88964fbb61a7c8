"""Fewer bits: the blocks in bfloat16, or their linear layers in int8.

The stem, the tokens that the blocks add to, the last norm and the head stay in float32. Half way through the training
of reference-small, on 16 frames of synth:val at 128 x 96, joints moved by 0.2 mm with the blocks in bfloat16; by 1.0 mm
with their tokens in bfloat16 too, 1.3 mm with the whole stack, 1.6 mm with the head as well; and by 1.4 mm in int8.

A linear map in the place of blocks (`compress.stack.LinearBlock`) goes to bfloat16 with them, and stays as it is in
int8: it reads tokens that no norm has scaled, so that rounding moved what three maps of `reference` add by 3 to 5 %,
where it moved the outputs of the same blocks' qkv layers by less than 1 %.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from compress.context import Context
from compress.cost.bfloat16 import warn_if_slow
from compress.errors import BadInput
from compress.late import LateStack, stack_of
from compress.policy import Compressible, MadeFor, Plan, Policy, knob, of_stack

LEVELS = 127.5  # of int8 on either side of 0
WORKFLOWS = "torchao.quantization.quantize_.workflows"
Dtype = Literal["float32", "bfloat16", "int8"]


class Precision(Policy):
    """Change the numbers that the blocks compute with. `bfloat16` asks of the stack that its `attend` and `feed` take
    float32 tokens all the same."""

    stage: ClassVar[int] = 4

    policy: Literal["precision"] = "precision"
    stack: str | None = of_stack()
    dtype: Dtype = Field(
        description="float32: as it is; int8: linear layers of the blocks, activations on the fly",
        json_schema_extra=knob(0, 2, 1),
    )

    def check(self, model: Compressible) -> None:
        """Raise BadInput without such a stack and where int8 layers do not run here; warn where bfloat16 is slow."""
        stack_of(model, self.stack)
        if self.dtype == "int8":
            refuse_int8()
        if self.dtype == "bfloat16":
            warn_if_slow(next(model.parameters()).device.type)  # type: ignore[attr-defined]  # it is a module

    def plan(self, model: Compressible, context: Context) -> PrecisionPlan:
        """Nothing is measured. Raises BadInput as `check`."""
        self.check(model)
        return PrecisionPlan(stack=self.stack, made_for=MadeFor.of(model, self.stack), dtype=self.dtype)


class PrecisionPlan(Plan):
    """The numbers that the blocks of a model compute with."""

    noun: ClassVar[str] = "the change of precision"
    remedy: ClassVar[str] = "put precision last"

    policy: Literal["precision"] = "precision"
    dtype: Dtype

    @property
    def empty(self) -> bool:
        return self.dtype == "float32"

    def describe(self) -> str:
        return f"The blocks{f' of {self.stack}' if self.stack else ''} compute in {self.dtype}."

    def shape(self, model: Any) -> Any:
        """Raises as `check`, and BadInput where int8 layers do not run here."""
        return self._changed(model, Int8Linear.like)

    def apply(self, model: Any, context: Context) -> Any:
        """Raises as `shape`."""
        return self._changed(model, Int8Linear.of)

    def _changed(self, model: Any, int8: Any) -> Any:
        self.check(model)
        stack = stack_of(model, self.stack)
        if self.dtype == "int8":
            refuse_int8()
            replace_linear(stack.blocks, int8)
        elif self.dtype == "bfloat16" and isinstance(stack, LateStack):  # whose caller hands its blocks float32
            replace_linear(stack.blocks, HalfLinear.of)
        elif self.dtype == "bfloat16":
            stack.blocks.to(torch.bfloat16)
        return model


Precision.makes = PrecisionPlan


def replace_linear(blocks: nn.ModuleList, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Put what `make` makes of each linear layer in its place: not of one that computes otherwise, as DINOv3's, which
    masks the keys' bias, nor of one whose weights torch's own attention reads by itself."""
    inside = {id(layer) for m in blocks.modules() if isinstance(m, nn.MultiheadAttention) for layer in m.modules()}
    for name, layer in list(blocks.named_modules(remove_duplicate=False)):
        if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward and id(layer) not in inside:
            blocks.set_submodule(name, make(layer))


class HalfLinear(nn.Linear):
    """A linear layer in bfloat16 whose input and output are of the type of what goes in."""

    @classmethod
    def of(cls, linear: nn.Linear) -> HalfLinear:
        """`linear`, rounded; under the same keys."""
        made = cls(linear.in_features, linear.out_features, linear.bias is not None, "meta", torch.bfloat16)
        made.weight = nn.Parameter(linear.weight.detach().bfloat16(), linear.weight.requires_grad)
        if linear.bias is not None:
            made.bias = nn.Parameter(linear.bias.detach().bfloat16(), linear.bias.requires_grad)
        return made

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class Int8Linear(nn.Module):
    """A linear layer whose weight is int8, one scale a row; each row of its input is rounded to int8 on the fly.

    torchao's `Int8DynamicActivationInt8WeightConfig`, with the parts of its tensor as plain tensors: so they are saved
    as safetensors, under strict keys, and need no torchao to be looked at.
    """

    scale: Tensor
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)  # (out, in) int8
        self.register_buffer("scale", scale)  # (out, 1) float32
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach().clone(), False))

    @classmethod
    def like(cls, linear: nn.Linear) -> Int8Linear:
        """As wide as `linear`, of no weights."""
        weight = torch.zeros_like(linear.weight, dtype=torch.int8)
        return cls(weight, torch.ones_like(linear.weight[:, :1], requires_grad=False), linear.bias)

    @classmethod
    def of(cls, linear: nn.Linear) -> Int8Linear:
        """`linear`, rounded."""
        ao = torchao()
        quantised = ao.Int8Tensor.from_hp(linear.weight.detach(), ao.PerRow())
        return cls(quantised.qdata, quantised.scale, linear.bias)

    @torch.no_grad()
    def linear(self) -> nn.Linear:
        """A layer of float32 with these rounded weights, which rounds no input."""
        found = nn.Linear(self.weight.shape[1], self.weight.shape[0], self.bias is not None, self.scale.device)
        found.weight.copy_(self.weight * self.scale)
        if self.bias is not None:
            found.bias.copy_(self.bias)
        return found.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():  # fvcore counts on a trace, and a trace cannot hold torchao's tensors
            return F.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), self.bias)
        if torch.compiler.is_compiling():
            return self.compiled(x)
        ao = torchao()
        block = [1, self.weight.shape[1]]  # one scale a row
        rounding = importlib.import_module(WORKFLOWS).QuantizeTensorToInt8Kwargs(granularity=ao.PerRow())
        weight = ao.Int8Tensor(self.weight, self.scale, block, x.dtype, act_quant_kwargs=rounding)
        return F.linear(x, weight, self.bias)

    def compiled(self, x: Tensor) -> Tensor:
        """The same of x (..., in) by torch's own operations: torch.compile does not look into torchao's tensors."""
        rows = x.flatten(0, -2)
        scale = (rows.abs().amax(1, keepdim=True).float() / LEVELS).clamp_min(torch.finfo(torch.float32).eps)
        near = (rows * (1 / scale)).round().clamp(-128, 127).to(torch.int8)
        products = torch._int_mm(near, self.weight.t()) * scale
        found = (products.to(x.dtype) * self.scale.flatten()).unflatten(0, x.shape[:-1])
        return (found if self.bias is None else found + self.bias).to(x.dtype)


def rounded(model: Any) -> bool:
    """Whether blocks of a model compute in fewer bits than float32's."""
    return any(value.itemsize < 4 for value in model.parameters())


def unrounded(model: Any) -> None:
    """Let a model compute in float32 throughout, with the weights that it has: rounded ones stay as they are."""
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if isinstance(layer, Int8Linear):
            model.set_submodule(name, layer.linear())
    model.float()


@cache
def torchao() -> Any:
    """torchao's quantization, imported without its warnings of each kernel that was built for another machine."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return importlib.import_module("torchao.quantization")
    finally:
        logging.disable(before)


def refuse_int8() -> None:
    """Raise BadInput where torchao is missing or its int8 layers do not run with this torch."""
    if importlib.util.find_spec("torchao") is None:
        raise BadInput("precision: dtype: int8 needs torchao, which is not installed: install it, or use bfloat16")
    try:
        Int8Linear.of(nn.Linear(16, 16))(torch.ones(2, 16))
    # A torchao that was built for another torch may fail in its import, in a layout or in a kernel.
    except (ImportError, RuntimeError, NotImplementedError, TypeError, AttributeError) as error:
        found = version("torchao")  # from its metadata: to import it is what may have failed
        raise BadInput(
            f"precision: dtype: int8 does not run with torchao {found} and torch {torch.__version__} "
            f"({error}): use bfloat16"
        ) from error
