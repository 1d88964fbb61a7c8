"""What a known backbone does before its blocks and after them: its first tokens, its patches, its last norm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from compress.errors import BadInput
from hmr.models.known.layouts import Parts
from hmr.models.own_stack import Embed, Patches

NORMS = ("last_norm", "norm", "layernorm", "post_layernorm", "rms_norm")


def above(module: nn.Module, parent: str) -> Iterator[nn.Module]:
    """The module at `parent` and those around it, innermost first."""
    steps = parent.split(".") if parent else []
    for end in range(len(steps), -1, -1):
        yield module.get_submodule(".".join(steps[:end]))


def embedders(owners: Iterable[nn.Module]) -> list[nn.Module]:
    """Those that take a picture, as far as their parts show."""
    stems = ("patch_embed", "embeddings", "prepare_tokens_with_masks")
    return [owner for owner in owners if any(hasattr(owner, name) for name in stems)]


def embedding(owners: list[nn.Module]) -> Embed:
    """How a known backbone makes its first tokens: its own function where it has one.

    No closure: a copy of the model has to ask the copy's layers, and a process it is sent to its own.
    """
    for owner in owners:
        if hasattr(owner, "prepare_tokens_with_masks"):  # DINOv2; DINOv3 returns the grid too
            return partial(dino_tokens, owner)
        if isinstance(getattr(owner, "embeddings", None), nn.Module):  # Hugging Face
            return cast(Embed, owner.embeddings)
        if hasattr(owner, "patch_embed") and hasattr(owner, "_pos_embed"):  # timm
            return partial(timm_tokens, owner)
        if hasattr(owner, "patch_embed") and hasattr(owner, "pos_embed") and not hasattr(owner, "cls_token"):
            return partial(vitpose_tokens, owner)
    names = ", ".join(type(owner).__name__ for owner in owners)
    raise BadInput(
        f"how {names} makes the first tokens was not recognised: no prepare_tokens_with_masks (DINO), embeddings "
        "(Hugging Face), _pos_embed (timm) or pos_embed without a cls_token (ViTPose); give embed="
    )


def first(value: Any) -> Tensor:
    return value[0] if isinstance(value, tuple | list) else value


def dino_tokens(owner: Any, crop: Tensor) -> Tensor:
    return first(owner.prepare_tokens_with_masks(crop))


def timm_tokens(owner: Any, crop: Tensor) -> Tensor:
    x = first(owner._pos_embed(owner.patch_embed(crop)))  # EVA's gives its rotary positions too
    return Parts(owner).run("norm_pre", x)  # without the `patch_drop` of training


def vitpose_tokens(owner: Any, crop: Tensor) -> Tensor:
    x = first(owner.patch_embed(crop))
    x = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x  # (B, C, rows, columns) -> (B, N, C)
    table = owner.pos_embed
    if table.shape[1] == x.shape[1]:
        return x + table
    return x + table[:, 1:] + table[:, :1]  # the place of a class token that is gone goes to every token


def patching(owners: list[nn.Module], patch: int | None) -> Patches:
    """How many rows and columns of patches a crop (B, 3, H, W) gives."""
    if patch is not None:
        return partial(square_grid, patch)
    for owner in owners:
        stem = getattr(owner, "patch_embed", None) or getattr(owner, "embeddings", None)
        convs = [m for m in stem.modules() if isinstance(m, nn.Conv2d)] if isinstance(stem, nn.Module) else []
        if len(convs) == 1 and convs[0].padding != "same":
            return partial(conv_grid, convs[0])
    names = ", ".join(type(owner).__name__ for owner in owners)
    raise BadInput(f"the patches of {names} were not recognised (no single convolution makes them): give patch=")


def square_grid(patch: int, crop: Tensor) -> tuple[int, int]:
    return crop.shape[2] // patch, crop.shape[3] // patch


def conv_grid(conv: nn.Conv2d, crop: Tensor) -> tuple[int, int]:
    padding = (0, 0) if isinstance(conv.padding, str) else conv.padding  # "valid"
    rows, columns = (
        (crop.shape[2 + i] + 2 * int(padding[i]) - conv.kernel_size[i]) // conv.stride[i] + 1 for i in (0, 1)
    )
    return rows, columns


def last_norm(module: nn.Module, owners: list[nn.Module], norm: str | None) -> nn.Module:
    """The norm after the last block; the module that embeds has it, or one inside of that."""
    if norm is not None:
        return module.get_submodule(norm) if norm else nn.Identity()
    found = (getattr(owner, name, None) for owner in owners for name in NORMS)
    if (one := next((m for m in found if isinstance(m, nn.Module)), None)) is None:
        names = ", ".join(type(owner).__name__ for owner in owners)
        raise BadInput(f"no last norm ({', '.join(NORMS)}) was found in {names}: give norm=, or norm='' for none")
    return one
