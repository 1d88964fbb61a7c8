"""Whether the parts that were found are what a user's network does: its blocks one by one, and all of it together."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from compress.errors import BadInput
from compress.policy import Compressible
from compress.stack import evaluating, through
from compress.tokens import Tokens
from hmr.models.known.layouts import Parts
from hmr.models.known.windows import grids, listed, takes_grid, window_of
from hmr.models.own_embedding import first
from hmr.models.own_stack import OwnStack

PROBE = (2, 3)  # the grid that a block is tried on
ROPES = ("rope", "rope_or_rope_list", "position_embeddings")  # what blocks call their rotary positions


def off(mine: Tensor, theirs: Tensor, before: Tensor) -> float:
    """How far tokens lie from `theirs`, as a share of what was added to `before`; what rounding takes is left out."""
    if mine.shape != theirs.shape:
        return float("nan")
    rounding = 8 * torch.finfo(theirs.dtype).eps * theirs.norm()
    return float((mine - theirs).norm().sub(rounding).clamp_min(0) / (theirs - before).norm().clamp_min(1e-30))


@torch.no_grad()
def prove(stack: OwnStack, block: nn.Module) -> None:
    """Raise BadInput where a block's output for a few random tokens differs from that of its parts together.

    That is how a block shows what its weights do not: another order, windows, parallel halves. On the meta device there
    is nothing to compare.
    """
    name = type(block).__name__
    like = Parts(block).like(stack.layout)
    if like.is_meta:
        return
    tokens = probe(stack, block, like)
    with evaluating(cast(Compressible, block)):
        try:
            whole = run_alone(stack, block, tokens)
        except Exception as error:  # whatever a stranger's forward raises
            raise BadInput(f"{name} blocks cannot be run on tokens alone ({error})") from error
        if not whole.isfinite().all():
            odd = next((name for name, value in block.named_parameters() if not value.isfinite().all()), "none of them")
            raise BadInput(f"a {name} block gives numbers that are not finite; weights that have such numbers: {odd}")
        x = tokens.x + stack.attend(block, tokens)[0]
        mine = x + stack.feed(block, x)
    limit = 1e-4 if like.dtype in (torch.float32, torch.float64) else 5e-2
    if not (share := off(mine, whole, tokens.x)) <= limit:
        raise BadInput(
            f"{name} blocks do more than x + attention(norm(x)), then x + MLP(norm(x)): put together from their parts "
            f"they differ by {share:.2g} of what they add"
        )


def probe(stack: OwnStack, block: nn.Module, like: Tensor) -> Tokens:
    """A few random tokens of the type of `like`; blocks with windows take some whole ones, and no prefix."""
    attention, side = Parts(block).get(stack.layout.attention), window_of(block) or 1
    prefix = 0 if takes_grid(block) else cast(int, getattr(attention, "num_prefix_tokens", 1))
    grid = (PROBE[0] * side, PROBE[1] * side)
    noise = torch.randn(2, prefix + grid[0] * grid[1], stack.width, generator=torch.Generator().manual_seed(0))
    return Tokens.of(noise.to(like), grid, prefix)


def run_alone(stack: OwnStack, block: nn.Module, tokens: Tokens) -> Tensor:
    """What a block's own forward makes of tokens (B, N, C). Raises what that raises."""
    given = arguments(stack, block, tokens)
    if not takes_grid(block):
        return first(block(tokens.x, **given))
    last, ahead = grids(tokens.x, tokens.grid)
    try:
        said = first(block(last, **given))
    except Exception:  # of blocks that take (B, C, rows, columns)
        said = first(block(ahead, **given))
    return listed(said, stack.width)


def arguments(stack: OwnStack, block: nn.Module, tokens: Tokens) -> dict[str, Any]:
    """What a block's forward takes beside the tokens."""
    names = inspect.signature(block.forward).parameters
    given: dict[str, Any] = {}
    if "attention_mask" in names:
        given["attention_mask"] = None
    if stack.rope is not None:
        place = next((name for name in ROPES if name in names), "")
        if not place:
            raise BadInput(f"its forward takes no rotary positions ({', '.join(ROPES)})")
        sin, cos = (of[0, 0] for of in stack.rope.at(tokens))
        given[place] = stack.rope.given(sin, cos, tokens.x.dtype)
    return given


@torch.no_grad()
def prove_whole(stack: OwnStack, owners: Sequence[nn.Module], crop: Tensor, norm_is_named: bool) -> None:
    """Raise BadInput where a network, run whole on a crop (1, 3, H, W), hands its first block, its next ones or its
    last norm other tokens than `stack` does.

    `owners`: the modules that may be run, innermost first; where none runs on a crop alone, a warning says that nothing
    was compared. A norm that the user named may be one that the network's own forward does not use.
    """
    if crop.is_meta:
        return
    name = type(owners[-1]).__name__
    with watched(stack) as (seen, normed):
        errors = [attempt(owner, crop) for owner in owners if "last" not in seen]
    if "last" not in seen:
        warnings.warn(f"{name} does not run on a crop alone ({errors[-1]}): only its blocks were checked", stacklevel=4)
        return
    tokens = stack.embed(crop)
    limit = 1e-3 if crop.dtype in (torch.float32, torch.float64) else 1e-1
    if not off(tokens.x, seen["first"], torch.zeros_like(seen["first"])) <= limit:
        raise BadInput(f"the first block of {name} takes other tokens than its embedding makes: give embed=")
    done = through(stack, stack.blocks, tokens)
    if not off(done.x, seen["last"], seen["first"]) <= limit:
        raise BadInput(f"{name} does more between its blocks than run them one after the other")
    if norm_is_named or isinstance(stack.norm, nn.Identity):
        return
    last = seen["last"]
    if not any(torch.equal(given, x) for given in normed for x in (last, last[:, tokens.prefix :])):
        raise BadInput(f"the last norm of {name} is not what follows its last block: give norm=, or norm='' for none")


def attempt(owner: nn.Module, crop: Tensor) -> Exception | None:
    """Run a network on a crop; what it raises."""
    with evaluating(cast(Compressible, owner)):
        try:
            owner(crop)
        except Exception as error:  # whatever a stranger's forward raises, also once it has the features
            return error
    return None


@contextmanager
def watched(stack: OwnStack) -> Iterator[tuple[dict[str, Tensor], list[Tensor]]]:
    """Afterwards: what went into the first block and came out of the last one; and what went into the last norm."""
    seen: dict[str, Tensor] = {}
    normed: list[Tensor] = []

    def before(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen["first"] = listed((*given, *named.values())[0], stack.width)

    def after(module: nn.Module, given: tuple[Any, ...], said: Any) -> None:
        seen["last"] = listed(first(said), stack.width)

    def norm(module: nn.Module, given: tuple[Any, ...]) -> None:
        normed.append(given[0])

    hooks = [
        stack.blocks[0].register_forward_pre_hook(before, with_kwargs=True),
        stack.blocks[-1].register_forward_hook(after),
        stack.norm.register_forward_pre_hook(norm),
    ]
    try:
        yield seen, normed
    finally:
        for hook in hooks:
            hook.remove()
