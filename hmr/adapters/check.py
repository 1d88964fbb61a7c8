"""`fasthmr adapter check`: whether an adapter's network can be compressed, on crops of noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.errors import BadInput
from compress.stack import Schedule, encode
from compress.tokens import Tokens
from hmr.adapters.adapted import AdaptedModel, recoloured
from hmr.adapters.adapter import Named
from hmr.data.crop import cut_by

FRAMES = 3
CLOSE = 1e-4  # of how far the joints of a person lie apart: what rounding takes
PERSON = (0.02, 10.0)  # metres from a person's joint to the farthest: a finger, and more than anybody


def checked(named: Named) -> dict[str, str]:
    """What was proved of an adapter, in a sentence each, in order. Raises BadInput with the first that does not hold:
    what is wrong with its blocks or its embedding already where it is loaded (`hmr.models.own_proof`)."""
    model = AdaptedModel(named)
    crops = torch.randn(FRAMES, 3, *model.crop_size, generator=torch.Generator().manual_seed(0))
    crops = crops.to(next(model.parameters()))
    depth, name = len(model.stack.blocks), type(model.stack.blocks[0]).__name__
    proved = {"blocks": f"{depth} {name} blocks of {model.dim} features are their attention and their MLP"}
    late = [f"{len(one.blocks)} blocks of {one.dim} features in {name}" for name, one in model.stacks.items()]
    proved |= {"stacks": f"read calls {', '.join(late)}"} if late else {}
    steps: dict[str, Callable[[AdaptedModel, Tensor], str]] = {
        "crops": cropped,
        "joints": joints_in_metres,
        "read": reads_as_forward,
        "order": reads_in_any_order,
        "prefix": prefix_stays,
        "grid": grid_comes_back,
        "batch": frames_alone,
    }
    with torch.no_grad():
        for step, holds in steps.items():
            proved[step] = holds(model, crops)
    return proved


def merging(model: AdaptedModel) -> Schedule:
    """A schedule that merges an eighth of the patches in each of the first blocks, half of them at most."""
    patches = model.grid[0] * model.grid[1]
    return Schedule((max(1, patches // 8),) * min(len(model.stack.blocks), 4))


def merged(model: AdaptedModel, crops: Tensor) -> Tokens:
    """The finished tokens of crops (B, 3, H, W) with that schedule."""
    return encode(model.stack, crops, None, merging(model))


def cropped(model: AdaptedModel, crops: Tensor) -> str:
    """`crops` gives pictures of its size, of boxes that reach beyond the picture too."""
    height, width = model.crop_size
    frame = np.zeros((2 * height, 2 * width, 3), np.uint8)
    for box in ((0.0, 0.0, 1.0 * width, 1.0 * height), (-width / 4, 7.0, width, 1.5 * height)):
        cut_by(model.adapter.crops, frame, box, model.crop_size)
    return f"crops are {height} x {width} pixels"


def joints_in_metres(model: AdaptedModel, crops: Tensor) -> str:
    """Joints are finite, and as far apart as a person's may be."""
    joints = model(crops).joints
    if len(joints) != len(crops) or not joints.isfinite().all():
        raise BadInput(
            f"{model.name}: the joints of {len(crops)} crops are {tuple(joints.shape)}, not all of them finite"
        )
    apart = torch.cdist(joints.float(), joints.float()).flatten(1).amax(1).median().item()
    if not PERSON[0] <= apart <= PERSON[1]:
        raise BadInput(
            f"{model.name}: joints(outputs) are to be in metres, and these lie up to {apart:.3g} apart: are they in "
            "millimetres, in pixels, or all the same?"
        )
    return f"{joints.shape[1]} joints, up to {apart:.2f} m apart"


def reads_as_forward(model: AdaptedModel, crops: Tensor) -> str:
    """`read` of all tokens gives what the network's own forward gives, with the adapter's own normalisation."""
    mine = model.adapter
    masks = torch.ones(len(crops), *model.crop_size, dtype=torch.bool, device=crops.device)
    try:
        outputs = mine.forward(model.module, recoloured(crops, mine.mean, mine.std), masks)
    except Exception as error:  # whatever a stranger's forward raises
        raise BadInput(f"{model.name}: forward(model, crops, masks) raises {type(error).__name__}: {error}") from error
    apart = difference(model.placed(outputs).joints, model(crops).joints)
    return close(model, apart, "read(model, tokens) gives other joints than forward(model, crops, masks)")


def reads_in_any_order(model: AdaptedModel, crops: Tensor) -> str:
    """`read` takes tokens by what they stand for, not by their place: after a merge, a token is at another place."""
    tokens = merged(model, crops)
    count = tokens.x.shape[1]
    order = torch.cat((torch.arange(tokens.prefix), torch.arange(count - 1, tokens.prefix - 1, -1))).to(crops.device)
    turned = replace(tokens.kept(order.expand(len(crops), -1)), dropped=False)  # none is gone
    try:
        apart = difference(model.read(turned).joints, model.read(tokens).joints)
    except (RuntimeError, ValueError, IndexError) as error:  # of a stranger's layers
        raise BadInput(
            f"{model.name}: read(model, tokens) cannot take merged tokens ({error}): where it needs every patch at its "
            'place, set head_needs = "grid" and read tokens.to_grid()'
        ) from error
    return close(model, apart, "read(model, tokens) depends on the order of merged tokens (use tokens.to_grid())")


def prefix_stays(model: AdaptedModel, crops: Tensor) -> str:
    """No patch merges into class, register and task tokens, and every patch has a token."""
    tokens, patches = merged(model, crops), model.grid[0] * model.grid[1]
    prefix, rest = tokens.size[:, : tokens.prefix], tokens.size[:, tokens.prefix :]
    held = (tokens.source >= tokens.prefix).all() and (tokens.source < tokens.x.shape[1]).all()
    if not held or not (prefix == 1).all() or not torch.equal(rest.sum(1), rest.new_full((len(crops),), patches)):
        raise BadInput(f"{model.name}: merging does not keep the {tokens.prefix} tokens before the patches apart")
    return f"{tokens.prefix} tokens before {patches} patches never merge; {rest.shape[1]} of those are left"


def grid_comes_back(model: AdaptedModel, crops: Tensor) -> str:
    """`to_grid` gives every patch what its token holds: all of them where none merged."""
    whole, tokens = encode(model.stack, crops), merged(model, crops)
    patches = whole.x[:, whole.prefix :].transpose(1, 2).unflatten(2, model.grid)
    grid = tokens.to_grid().flatten(2).transpose(1, 2)  # (B, N0, C)
    mine = torch.stack([x[source] for x, source in zip(tokens.x, tokens.source, strict=True)])
    if not torch.equal(whole.to_grid(), patches) or not torch.equal(grid, mine):
        raise BadInput(f"{model.name}: its {model.grid[0]} x {model.grid[1]} grid does not come back after a merge")
    return f"the grid of {model.grid[0]} x {model.grid[1]} comes back after a merge"


def frames_alone(model: AdaptedModel, crops: Tensor) -> str:
    """Merged or not, a frame's joints do not depend on the frames beside it."""
    apart = 0.0
    for make in (lambda some: encode(model.stack, some), lambda some: merged(model, some)):
        together = model.read(make(crops)).joints
        alone = torch.cat([model.read(make(crops[i : i + 1])).joints for i in range(len(crops))])
        apart = max(apart, difference(alone, together))
    return close(model, apart, "the joints of a frame depend on the frames beside it in the batch")


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference between joints (B, J, 3), as a share of the largest coordinate of `other`."""
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).abs().amax() / other.abs().amax().clamp_min(1e-12))


def close(model: Any, apart: float, wrong: str) -> str:
    """How far joints are apart; raises BadInput where that is more than rounding."""
    if not apart <= CLOSE:
        raise BadInput(f"{model.name}: {wrong}: they differ by {apart:.2g} of the largest")
    return f"equal to {apart:.1g} of the largest coordinate"
