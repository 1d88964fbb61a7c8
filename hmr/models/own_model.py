"""A user's own transformer as a model: `stack_from` finds the parts of its blocks, or names what it could not find.

Known are the blocks of ViTPose, timm (EVA02 too), DINOv2 and DINOv3 as their authors wrote them, and Hugging Face's of
transformers 4 and 5. Nothing is guessed: every weight of a block has to be accounted for, the parts put together have
to give what the block itself gives, and all of it what the network itself gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from compress.artefact import Base, weights_id
from compress.cost.macs import Cost
from compress.errors import BadInput
from compress.late import LateStack
from compress.policy import Compressible
from compress.stack import Schedule, Stack, encode, evaluating
from compress.tokens import Tokens, coverage
from hmr.models.cost import frame_cost
from hmr.models.known.layouts import layout_of
from hmr.models.known.rope import rope_of
from hmr.models.late_units import late_units
from hmr.models.own_embedding import above, embedders, embedding, last_norm, patching
from hmr.models.own_proof import prove, prove_whole
from hmr.models.own_stack import Embed, OwnStack


def stack_from(
    module: nn.Module,
    blocks: str = "backbone.blocks",
    *,
    embed: Embed | None = None,
    patch: int | None = None,
    norm: str | None = None,
) -> OwnStack:
    """The blocks at `blocks` in a user's module as a `Stack`; the module itself is not changed.

    What cannot be found may be named: `embed`, crop (B, 3, H, W) -> tokens (B, prefix + patches, C) as the first block
    takes them, prefix tokens first; `patch`, pixels per token and side; `norm`, the last norm's dotted name ("": none).
    Raises BadInput that names the block's class and what was missed.
    """
    found, holder, place = placed(module, blocks)
    parent = blocks.rpartition(".")[0]
    layouts = [layout_of(block) for block in found]
    owners = list(above(module, parent))
    stack = OwnStack(holder, place, layouts[0], embed or embedding(owners), patching(owners, patch))
    stack.norm = last_norm(module, owners, norm)
    owner = next((o for o in owners if isinstance(getattr(o, "cls_norm", None), nn.Module)), None)
    stack.prefix_norm = None if owner is None else cast(nn.Module, owner.cls_norm)
    stack.rope = rope_of(owners, type(found[0]).__name__)
    for block in found:
        prove(stack, block)
    return stack


def placed(module: nn.Module, blocks: str) -> tuple[nn.ModuleList | nn.Sequential, nn.Module, str]:
    """A list of blocks by its dotted name, the module that holds it and its name there. Raises BadInput where there is
    none whose blocks can change alone and merge."""
    parent, _, place = blocks.rpartition(".")
    name = type(module).__name__
    try:
        found, holder = module.get_submodule(blocks), module.get_submodule(parent)
    except AttributeError as error:
        raise BadInput(f"{name} has no {blocks!r} ({error}): name its list of blocks") from error
    if not isinstance(found, nn.ModuleList | nn.Sequential) or not len(found):
        raise BadInput(f"{blocks!r} of {name} is not a list of blocks but {type(found).__name__}")
    if len({id(block) for block in found}) < len(found):
        raise BadInput(f"the {len(found)} blocks of {name} share weights, so none can change alone")
    if len({type(block) for block in found}) > 1:
        kinds = ", ".join(sorted({type(block).__name__ for block in found}))
        raise BadInput(f"the blocks of {name} are of several kinds, which cannot merge: {kinds}")
    return found, holder, place


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside of `torch.compile` and of wrappers for several devices, whose names are no part of its keys."""
    inner = getattr(module, "_orig_mod", None)
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = module.module
    return unwrapped(inner) if isinstance(inner, nn.Module) else module


class OwnModel(nn.Module):
    """A user's model as a `compress.policy.Compressible`: policies change its stack, schedule and mask threshold.

    read(module, tokens): the model's output from finished tokens. It is handed the module, so that a copy of the model
    reads with the copy's weights. `Tokens.x` holds prefix tokens first, and `to_grid()` gives every patch its features
    back (B, C, rows, columns) whatever was merged: a model that needs that has head_needs="grid". crop: (height, width)
    of the pictures. stacks: dotted names of lists of blocks that `read` calls, by what recipes call them. Other
    arguments as `stack_from`.
    """

    takes_clips = False
    compressed = False
    needs_condition = False
    sha256 = ""

    def __init__(
        self,
        module: nn.Module,
        read: Callable[[Any, Tokens], Any],
        crop: tuple[int, int],
        *,
        blocks: str = "backbone.blocks",
        head_needs: Literal["tokens", "grid"] = "tokens",
        stacks: Mapping[str, str] | None = None,
        **found: Any,
    ) -> None:
        super().__init__()
        module = unwrapped(module)
        self.name = self.architecture = type(module).__name__
        self.module, self.reader, self.head_needs, self.crop_size = module, read, head_needs, crop
        self._stack = stack_from(module, blocks, **found)
        self.schedule, self.protect = Schedule(), cast(float | None, None)
        picture = torch.randn(1, 3, *crop, generator=torch.Generator().manual_seed(0)).to(next(module.parameters()))
        with torch.no_grad(), evaluating(cast(Compressible, module)):
            try:
                tokens = self._stack.embed(picture)
            except (RuntimeError, ValueError, AssertionError) as error:  # of a stranger's layers
                raise BadInput(f"{self.name} takes no crops of {crop[0]} x {crop[1]} ({error})") from error
        self.dim, self.grid = tokens.x.shape[-1], tokens.grid
        inner = [] if "embed" in found else embedders(above(module, blocks.rpartition(".")[0]))
        prove_whole(self._stack, [*inner, module], picture, "norm" in found)
        self.stacks = {name: self._late(blocks, picture) for name, blocks in (stacks or {}).items()}

    @torch.no_grad()
    def _late(self, blocks: str, picture: Tensor) -> LateStack:
        """A stack that `read` calls. Raises BadInput where it does not."""
        _, holder, place = placed(self.module, blocks)
        with evaluating(cast(Compressible, self.module)):
            tokens = encode(self._stack, picture)
            return LateStack.found(holder, place, late_units, lambda: self.reader(self.module, tokens))

    @property
    def stack(self) -> Stack:
        """The blocks that are compressed."""
        return self._stack

    @property
    def base(self) -> Base:
        """What an artefact made from this model records; it comes back by `artefact.load(folder, own_model)`."""
        return Base(name=self.name, architecture=self.architecture, sizes={}, sha256=weights_id(self))

    @property
    def encoder(self) -> OwnModel:
        """Itself."""
        return self

    def cost(self) -> Cost:
        """Parameters and multiply-accumulates of one crop."""
        return frame_cost(self)

    def forward(self, crop: Tensor, mask: Tensor | None = None) -> Any:
        """crop (B, 3, H, W), and the person mask (B, H, W) where tokens were reduced around it -> what `read` gives."""
        return self.read(self.encode(crop, mask))

    def read(self, tokens: Tokens) -> Any:
        """The model's output from finished tokens."""
        return self.reader(self.module, tokens)

    def encode(self, crop: Tensor, mask: Tensor | None = None) -> Tokens:
        """The finished tokens. Raises BadInput where a mask is needed and there is none."""
        return encode(self.stack, crop, self.person(crop, mask), self.schedule)

    def person(self, crop: Tensor, mask: Tensor | None) -> Tensor | None:
        """How far each patch's share of person lies above the threshold (B, N0); None where no mask is looked at."""
        if self.protect is None:
            return None
        if mask is None:
            raise BadInput("this model's tokens were reduced around the person: it needs a person mask for each crop")
        return coverage(mask, self.grid) - self.protect
