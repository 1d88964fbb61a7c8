"""Where the blocks of known transformers keep their parts, and what a block has of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from compress.errors import BadInput
from compress.stack import Heads, Units

HEADS = ("num_heads", "heads", "num_attention_heads")
KEYS = "num_key_value_heads"  # of keys and values, where each serves several heads
COUNTS, TOTALS = (
    (*HEADS, "num_kv_heads", KEYS),
    ("attn_dim", "kv_dim", "all_head_size"),
)  # what changes with fewer heads

# Of each part, the names it has in timm, ViTPose, DINOv2 and DINOv3, and in transformers 4 and 5; the first that a
# block has is taken.
ATTENTIONS = ("attn", "attention.attention", "attention", "self_attn")
PROJECTIONS = (("qkv",), ("q_proj", "k_proj", "v_proj"), ("query", "key", "value"))
OUTS = ("proj", "o_proj", "out_proj", "projection_layer")
NORM1 = ("norm1", "layernorm_before", "layer_norm1", "rms_norm1")
NORM2 = ("norm2", "layernorm_after", "layer_norm2", "rms_norm2")
MLPS = (("mlp",), ("ffn",), ("intermediate", "output.dense"))
SCALE1 = ("ls1", "layer_scale1", "gamma_1", "lambda_1")
SCALE2 = ("ls2", "layer_scale2", "gamma_2", "lambda_2")
DOWNS = ("fc2", "w3", "down_proj", "output.dense")


@dataclass(frozen=True)
class BlockLayout:
    """Where pre-norm blocks of one kind keep their parts, as dotted names; "" or () for one they do not have."""

    attention: str  # the module that knows the number of heads
    norm1: str
    project: tuple[str, ...]  # one fused projection, or those to q, k and v
    bias: tuple[str, ...]  # of q, k and v, beside a fused projection that has none
    qk_norm: tuple[str, str]
    out: tuple[str, ...]  # one after the other
    scale1: str
    norm2: str
    mlp: tuple[str, ...]  # one after the other
    scale2: str

    @property
    def names(self) -> tuple[str, ...]:
        """All that there is."""
        found = (self.norm1, *self.project, *self.bias, *self.qk_norm, *self.out, self.scale1)
        return tuple(name for name in (*found, self.norm2, *self.mlp, self.scale2) if name)


@dataclass(frozen=True)
class Parts:
    """A block's parts by name; one that is missing changes nothing."""

    block: nn.Module

    def get(self, name: str) -> nn.Module | Tensor | None:
        here: Any = self.block
        for step in name.split("."):
            here = getattr(here, step, None)
        return here if isinstance(here, nn.Module | Tensor) else None

    def has(self, *names: str) -> bool:
        return all(self.get(name) is not None for name in names)

    def first(self, *names: str) -> str:
        """The first of `names` that the block has, or ""."""
        return next((name for name in names if self.has(name)), "")

    def run(self, name: str, x: Tensor) -> Tensor:
        """x after a part; a part that is a tensor is a scale."""
        part = self.get(name) if name else None
        if part is None:
            return x
        return x * part if isinstance(part, Tensor) else part(x)

    def dtype(self, norm: str) -> torch.dtype:
        """What a norm computes in; one without weights of its own in what the block does."""
        return next(iter((*cast(nn.Module, self.get(norm)).parameters(), *self.block.parameters()))).dtype

    def heads(self, layout: BlockLayout) -> int:
        attn = self.get(layout.attention)
        return next((n for name in HEADS if isinstance(n := getattr(attn, name, None), int)), 0)

    def key_heads(self, layout: BlockLayout) -> int:
        """Heads of keys and of values: as many, or fewer that each serve several (Ainslie et al. 2023, GQA)."""
        count = getattr(self.get(layout.attention), KEYS, None)
        return count if isinstance(count, int) else self.heads(layout)

    def width(self, layout: BlockLayout) -> int:
        """Features of a token."""
        return self.like(layout).shape[-1]

    def like(self, layout: BlockLayout) -> Tensor:
        """A weight (..., C) of the type that tokens have: the norm's where it has one, as a projection may be in fewer
        bits than what goes through it."""
        parts = (cast(nn.Module, self.get(name)) for name in (layout.norm1, layout.project[0]))
        return next(value for part in parts for value in part.parameters())


def layout_of(block: nn.Module) -> BlockLayout:
    """The layout of a block. Raises BadInput that names what is missing and what has no place in it."""
    parts = Parts(block)
    ways = [(at, tuple(f"{at}.{name}" for name in names)) for at in ATTENTIONS for names in PROJECTIONS]
    attention, project = next(((at, names) for at, names in ways if parts.has(*names)), ("", ()))
    out = parts.first(*(f"{attention}.{name}" for name in OUTS), "attention.output.dense")
    biases = tuple(f"{attention}.{name}_bias" for name in "qkv") if len(project) == 1 else ()
    layout = BlockLayout(
        attention=attention,
        norm1=parts.first(*NORM1),
        project=project,
        bias=biases if parts.has(*biases) else (),
        qk_norm=(parts.first(f"{attention}.q_norm"), parts.first(f"{attention}.k_norm")),
        out=tuple(name for name in (parts.first(f"{attention}.norm"), out) if name),
        scale1=parts.first(*SCALE1),
        norm2=parts.first(*NORM2),
        mlp=next((names for names in MLPS if parts.has(*names)), ()),
        scale2=parts.first(*SCALE2),
    )
    if missed := list(unaccounted(block, layout)):
        kind, differences = type(block).__name__, "; ".join(missed[:6])
        raise BadInput(f"{kind} blocks are of no layout known here: {differences}")
    return layout


def unaccounted(block: nn.Module, layout: BlockLayout) -> Iterator[str]:
    """What a block lacks of a layout, and the weights of the block that the layout has no place for."""
    parts = Parts(block)
    if not layout.norm1:
        yield f"no norm1 ({', '.join(NORM1[1:])})"
    if not layout.project:
        yield "no attn.qkv (q_proj, k_proj and v_proj, or query, key and value, in attention or self_attn)"
    else:
        if not parts.heads(layout):
            yield f"no {layout.attention}.{HEADS[0]}"
        widths = [getattr(parts.get(name), "out_features", 0) for name in layout.project]
        if len({*widths}) > 1 and parts.key_heads(layout) == parts.heads(layout):
            yield f"{' and '.join(layout.project)} are of unlike width"
        if not parts.has(*layout.out[-1:]) or layout.out[-1:] == (f"{layout.attention}.norm",):
            yield f"no {layout.attention}.proj ({', '.join(OUTS[1:])})"
    if not layout.norm2:
        yield f"no norm2 ({', '.join(NORM2[1:])})"
    if not layout.mlp:
        yield "no mlp (intermediate and output.dense)"
    known = tuple(f"{name}." for name in layout.names)
    for name, _ in (*block.named_parameters(), *block.named_buffers()):
        if not f"{name}.".startswith(known):
            yield f"{name} has no place"


def units_of(block: nn.Module, layout: BlockLayout) -> Units:
    """The layers of a block that have heads and hidden units; raises BadInput where its MLP is of another kind."""
    parts = Parts(block)
    mlp = {name: part for at in layout.mlp for name, part in cast(nn.Module, parts.get(at)).named_modules(prefix=at)}
    linear = {name: part for name, part in mlp.items() if isinstance(part, nn.Linear)}
    down = next((name for name in linear if name.endswith(DOWNS)), "")
    hidden = linear[down].in_features if down else 0
    up = tuple(layer for name, layer in linear.items() if name != down)
    between = [part for part in mlp.values() if part not in linear.values() and [*part.parameters(recurse=False)]]
    if not up or any(layer.out_features not in (hidden, 2 * hidden) for layer in up):
        raise BadInput("their MLP has no linear layers to and from hidden units")
    if not all(isinstance(part, nn.LayerNorm | nn.RMSNorm) for part in between):
        raise BadInput(f"their MLP has {', '.join(type(part).__name__ for part in between)} between its layers")
    attention = cast(nn.Module, parts.get(layout.attention))
    if parts.key_heads(layout) != parts.heads(layout):
        raise BadInput("their heads share keys and values, so none can go alone")
    inner = cast(nn.Linear, parts.get(layout.out[-1])).in_features
    norms = [part for name in layout.out[:-1] if isinstance(part := parts.get(name), nn.Module)]
    for name in layout.qk_norm:  # those of all heads together
        part = parts.get(name)
        if isinstance(part, nn.Module) and any(value.shape[-1] == inner for value in part.parameters()):
            norms.append(part)
    heads = Heads(
        attention=attention,
        counts=tuple(name for name in COUNTS if isinstance(getattr(attention, name, None), int)),
        project=tuple(cast(nn.Linear, parts.get(name)) for name in layout.project),
        out=cast(nn.Linear, parts.get(layout.out[-1])),
        per_head=(*norms, *((attention,) if layout.bias else ())),
        totals=tuple(name for name in TOTALS if hasattr(attention, name)),
    )
    return Units((heads,), up, linear[down], tuple(between))
