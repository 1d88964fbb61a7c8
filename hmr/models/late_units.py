"""The heads and hidden units of a decoder's blocks, by their linear layers: what `compress.stack.Units` asks for."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from compress.errors import BadInput
from compress.stack import Heads, Units
from hmr.models.known.layouts import COUNTS, OUTS, TOTALS

LAST = (*OUTS, "to_out", "to_out.0")
WIDE = (*TOTALS, "embed_dims", "embed_dim", "inner_dim")  # may count the features of all heads


def late_units(block: nn.Module) -> Units:
    """Of a block with any number of attentions and one MLP. Raises BadInput that says what is not known of it."""
    heads = tuple(heads_of(attention) for attention in attentions(block))
    known = {layer for one in heads for layer in one.attention.modules()}
    rest = [layer for layer in block.modules() if isinstance(layer, nn.Linear) and layer not in known]
    if len(rest) < 2:
        raise BadInput("their MLP has no linear layers to and from hidden units")
    *up, down = rest
    if any(layer.out_features not in (down.in_features, 2 * down.in_features) for layer in up):
        raise BadInput("their linear layers beside attention are more than one MLP's")
    return Units(heads, tuple(up), down)


def attentions(block: nn.Module) -> Iterator[nn.Module]:
    """The modules that count heads, outermost ones alone."""
    inside: set[nn.Module] = set()
    for module in block.modules():
        if module not in inside and counts_of(module):
            inside |= set(module.modules())
            yield module


def counts_of(module: nn.Module) -> tuple[str, ...]:
    """The names of the ints that count its heads."""
    return tuple(name for name in COUNTS if isinstance(getattr(module, name, None), int))


def heads_of(attention: nn.Module) -> Heads:
    """The layers of one attention."""
    kind = type(attention).__name__
    if isinstance(attention, nn.MultiheadAttention):
        raise BadInput("torch's MultiheadAttention keeps its projections in one tensor, which is not cut here")
    linear = {name: part for name, part in attention.named_modules() if isinstance(part, nn.Linear)}
    out = next((name for name in LAST if name in linear), "")
    if not out or len(linear) < 2:
        raise BadInput(f"their {kind} has no projections to heads and out of them ({', '.join(LAST)})")
    width = linear[out].in_features
    project = tuple(layer for name, layer in linear.items() if name != out)
    if any(layer.out_features % width for layer in project):
        raise BadInput(f"the projections of their {kind} are of unlike width")
    norms = [part for part in attention.modules() if isinstance(part, nn.LayerNorm | nn.RMSNorm)]
    return Heads(
        attention,
        counts_of(attention),
        project,
        linear[out],
        per_head=tuple(norm for norm in norms if norm.normalized_shape == (width,)),
        totals=tuple(name for name in WIDE if getattr(attention, name, None) == width),
    )
