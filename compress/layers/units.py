"""Which layers the units of a stack's blocks are of.

Blocks are those of a plain ViT (`attn.qkv`, one layer for q, k and v, `attn.proj`, `attn.heads`, `mlp.fc1`, `mlp.fc2`),
or of a stack that names theirs by `units(block)`, a `compress.stack.Units`.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from compress.errors import BadInput
from compress.stack import HasBlocks, Heads, Units


def units_of(stack: HasBlocks, block: nn.Module) -> Units:
    """The layers of a block that have units: as its stack names them, or those of a plain ViT. Raises BadInput for
    a block of another kind."""
    known = getattr(stack, "units", None)
    try:
        found = plain_units(block) if known is None else known(block)
    except (AttributeError, BadInput) as error:
        raise BadInput(f"the layers of {type(block).__name__} blocks are not known: {error}") from error
    layers = [layer for one in found.heads for layer in (*one.project, one.out)]
    if not all(isinstance(layer, nn.Linear) for layer in (*layers, *found.up, found.down)):
        raise BadInput(f"{type(block).__name__} blocks cannot be cut: their layers are not linear")
    if any("weight" not in dict(layer.named_parameters(recurse=False)) for layer in (*layers, *found.up, found.down)):
        raise BadInput(
            f"{type(block).__name__} blocks cannot be cut: a weight is computed from others, as by a mask: "
            "make it plain first, as torch.nn.utils.prune.remove(layer, 'weight') does"
        )
    return found


def plain_units(block: nn.Module) -> Units:
    """Of a block of a plain ViT. Raises AttributeError, or BadInput where nothing counts its heads."""
    attention, qkv, out, up, down = map(block.get_submodule, ("attn", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"))
    if not isinstance(getattr(attention, "heads", None), int):
        raise BadInput("their attention names no `heads`")
    heads = Heads(attention, ("heads",), (qkv,), out)  # type: ignore[arg-type]  # linear layers, see `units_of`
    return Units((heads,), (up,), down)  # type: ignore[arg-type]  # linear layers too


def with_bias(layer: nn.Linear) -> Tensor:
    """A layer's bias; one of zeros where it had none."""
    found = cast(nn.Parameter | None, layer.bias)  # torch's types say that there always is one
    if found is None:
        layer.bias = found = nn.Parameter(layer.weight.new_zeros(layer.out_features), layer.weight.requires_grad)
    return found
