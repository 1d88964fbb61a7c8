"""The network of an adapter as a model that the commands take: an `OwnModel` whose output are joints in metres."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from compress.artefact import Base, weights_id
from compress.errors import BadInput
from compress.tokens import Tokens
from hmr.adapters.adapter import Named
from hmr.data.crop import IMAGE_MEAN, IMAGE_STD
from hmr.models.cost import frame_calls
from hmr.models.own_model import OwnModel
from hmr.models.own_stack import Embed


@dataclass(frozen=True)
class PlacedJoints:
    """What a model gives that knows of no body: joints (B, J, 3) m, and everything that its network gave."""

    joints: Tensor
    outputs: Any = None

    @property
    def from_root(self) -> Tensor:
        """The joints (B, J, 3) m from the first one."""
        joints = self.joints.float()
        return joints - joints[:, :1]


@dataclass(frozen=True)
class OwnJoints:
    """Stands where others have a body: an adapter's joints are measured as they are."""

    name: str
    sha256: str  # of the adapter's file

    def to(self, device: torch.device) -> OwnJoints:
        """Itself: it holds nothing."""
        return self

    @property
    def identity(self) -> dict[str, str]:
        """Whose joints these are, for reports."""
        return {"name": self.name, "sha256": self.sha256}


class AdaptedModel(OwnModel):
    """What an adapter loads. Crops come in normalised as for every model, and go on as the adapter has them."""

    poses_hand = False
    is_meta = False
    gives_joints = True  # and no bodies

    def __init__(self, named: Named) -> None:
        mine = named.adapter
        module = mine.load()
        if not isinstance(module, nn.Module):
            raise BadInput(f"{named.name}: load() gives no network of torch but {type(module).__name__}")
        facts: dict[str, Any] = {"blocks": mine.blocks, "stacks": mine.stacks, "head_needs": mine.head_needs}
        super().__init__(module.eval(), mine.read, mine.size, **facts, **mine.known)
        self.adapter, self.name, self.architecture = mine, named.name, type(mine).__name__
        self.body = OwnJoints(f"joints of {self.architecture}", named.sha256)
        self.sha256 = weights_id(self)
        self._stack.to_tokens = partial(renormalised, self._stack.to_tokens, mine.mean, mine.std)
        self.built_from = {"adapter": named.name, "sha256": named.sha256, "licence": mine.licence}

    @property
    def base(self) -> Base:
        """As `OwnModel.base`; an artefact comes back with the adapter whose name and hash it records."""
        return Base(name=self.name, architecture=self.architecture, sizes=self.built_from, sha256=self.sha256)

    @property
    def family(self) -> NoReturn:
        """None: raises BadInput, for whoever needs one."""
        raise BadInput(f"{self.name} is an adapter, which gives joints and no body: this takes a model of a family")

    head = family  # which whoever trains a decoder asks for
    calls = frame_calls

    def forward(self, crop: Tensor, mask: Tensor | None = None, condition: Tensor | None = None) -> PlacedJoints:
        """crop (B, 3, H, W), ImageNet-normalised RGB, and the mask where it is needed; nobody looks at `condition`."""
        return self.read(self.encode(crop, mask))

    def read(self, tokens: Tokens, condition: Tensor | None = None) -> PlacedJoints:
        """The joints, and the network's output, from finished tokens."""
        return self.placed(super().read(tokens))

    def placed(self, outputs: Any) -> PlacedJoints:
        """A network's outputs with their joints; raises BadInput where those are not of shape (B, J, 3)."""
        joints = self.adapter.joints(outputs)
        if not isinstance(joints, Tensor) or joints.ndim != 3 or joints.shape[-1] != 3:
            shape = tuple(joints.shape) if isinstance(joints, Tensor) else type(joints).__name__
            raise BadInput(f"{self.name}: joints(outputs) are (B, J, 3) metres, and these are {shape}")
        return PlacedJoints(joints, outputs)

    def joints(self, output: PlacedJoints) -> Tensor:
        """Joints (B, J, 3) in m of an output."""
        return output.joints


Colours = tuple[float, float, float]


def renormalised(embed: Embed, mean: Colours, std: Colours, crop: Tensor) -> Tensor:
    """Tokens of a crop (B, 3, H, W) that is normalised as ImageNet's are, for a network that was taught otherwise."""
    return embed(recoloured(crop, mean, std))


def recoloured(crop: Tensor, mean: Colours, std: Colours) -> Tensor:
    """A crop (B, 3, H, W) normalised as ImageNet's are, by another mean and deviation."""
    if (mean, std) == (IMAGE_MEAN, IMAGE_STD):
        return crop
    # colour by colour: numbers in a tensor would be copied to the device with every batch
    colours = zip(crop.unbind(1), mean, std, IMAGE_MEAN, IMAGE_STD, strict=True)
    return torch.stack([(one * scale + shift - m) / s for one, m, s, shift, scale in colours], 1)


def gives_joints(model: Any) -> bool:
    """Whether a model is an adapter's or a file made of one, which give joints and no bodies."""
    return bool(getattr(model.encoder, "gives_joints", False))


def refuse_adapter(model: Any, what: str) -> None:
    """Raise BadInput where a model is an adapter's and `what` needs bodies."""
    if gives_joints(model):
        raise BadInput(f"{what}, and {model.encoder.name} is an adapter, which gives joints alone: name another model")
