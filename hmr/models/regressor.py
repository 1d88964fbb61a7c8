"""What a model of a known family offers, whatever runs its network: how it sees people, and the body it poses."""

from __future__ import annotations

from functools import cached_property
from typing import Self

from torch import Tensor, nn

from hmr.body.files import load_body
from hmr.body.model import BodyModel
from hmr.models.families import FAMILIES, Family
from hmr.models.head import JOINTS, HMROutput


class BodyRegressor(nn.Module):
    """A network from crops to bodies, of the family of an architecture: torch's own, or a file that a runtime runs."""

    takes_clips = False  # each frame by itself; a model with a motion decoder takes the frames of a clip in their order
    compressed = False
    sha256 = ""  # of the file of weights that it was loaded from

    def __init__(self, architecture: str) -> None:
        super().__init__()
        self.name = self.architecture = architecture

    @property
    def encoder(self) -> Self:
        """Itself: what turns a frame into tokens and reads a body from them."""
        return self

    @property
    def family(self) -> Family:
        """What its network does in its own way, and how its crops are cut."""
        return family_of(self.architecture)

    @property
    def crop_size(self) -> tuple[int, int]:
        """Height and width of a crop in pixels."""
        return self.family.crop

    @property
    def needs_condition(self) -> bool:
        """Whether `forward` needs more than a crop and a mask, see `hmr.body.camera.bbox_info`."""
        return self.family.condition is not None

    @property
    def poses_hand(self) -> bool:
        """Whether its joints are a hand's and not a body's."""
        return self.family.head.joints != JOINTS

    @cached_property
    def body(self) -> BodyModel:
        """The body that its rotations pose: MANO's right hand for a model of hands, else the open body."""
        device = next(self.parameters()).device
        return load_body("mano" if self.poses_hand else "open").to(device)

    def decoded(self, output: HMROutput, fps: float | None) -> HMROutput:
        """The output (N frames) itself: this model has no motion decoder."""
        return output

    def joints(self, output: HMROutput) -> Tensor:
        """Joints (B, J, 3) in m of the posed body."""
        return posed_joints(self.body, output)

    def vertices(self, output: HMROutput) -> Tensor:
        """Vertices (B, V, 3) in m of the posed body."""
        return posed_vertices(self.body, output)


def family_of(architecture: str) -> Family:
    """The family that an entry of ARCHITECTURES belongs to: the reference models stand on DINOv2."""
    return FAMILIES.get(architecture, FAMILIES["dinov2"])


def posed_joints(body: BodyModel, output: HMROutput) -> Tensor:
    """Joints (B, J, 3) in m of the body that an output describes."""
    return body.skeleton(output.rotations.float(), output.betas.float())


def posed_vertices(body: BodyModel, output: HMROutput) -> Tensor:
    """Vertices (B, V, 3) in m of the body that an output describes."""
    return body(output.rotations.float(), output.betas.float()).vertices
