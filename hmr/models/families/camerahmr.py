"""CameraHMR (Patel and Black 2025): HMR2.0's network, given where its crop lies in the image, and a network for that.

The condition of `forward` is `hmr.body.camera.bbox_info`, which needs the focal length: the camera's own where it is
known, else `FoVNet`'s.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from compress.errors import BadInput
from hmr.body.camera import focal_length
from hmr.data.crop import normalised
from hmr.models.families.family import Box, Family, SeparatePart
from hmr.models.families.hrnet import HRNet
from hmr.models.head import SMPLHead
from hmr.models.sizes import Sizes

BBOX, KEYPOINTS = 3, 88
IMAGE_SIDE = 256  # pixels of the square that FoVNet sees


class CameraSizes(Sizes):
    """Sizes of a CameraHMR model."""

    token_dim: int = Field(160, ge=1)
    fov_width: int = Field(48, ge=0)  # channels of HRNet's widest map; 0: there is no FoVNet, the focal length is known


class CameraHead(SMPLHead):
    """SMPLHead whose query token starts from the box and the mean (B, 3 + 157)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.deckp = nn.Linear(sizes.head_dim, KEYPOINTS)

    def query(self, estimate: Tensor, condition: Tensor | None) -> Tensor:
        if condition is None or condition.shape != (estimate.shape[0], BBOX):
            found = "none" if condition is None else f"shape {tuple(condition.shape)}"
            raise BadInput(
                f"camerahmr needs bbox_info ({len(estimate)}, {BBOX}) as its condition, got {found} (hmr.body.camera)"
            )
        return torch.cat((condition, estimate), 1)

    def keypoints(self, features: Tensor) -> Tensor:
        """Query token (B, D) -> what `deckp` makes of it (B, 88): trained beside the body and not part of it."""
        return self.deckp(features)


class FoVNet(nn.Module):
    """Whole image (B, 3, 256, 256), ImageNet-normalised -> fields of view (B, 2) in radians; column 1 is vertical.

    `fc2` is in the released file and nothing uses it; there is no activation between `fc1` and `fc3`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = HRNet(width)
        self.fc1 = nn.Linear(15 * width, 1024)
        self.fc2 = nn.Linear(1024, 1024)
        self.fc3 = nn.Linear(1024, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc3(self.fc1(self.backbone(image).mean((2, 3))))  # (B, 15 * width) -> (B, 2)

    def focal_length(self, image: Tensor) -> Tensor:
        """Focal length (B,) in pixels of whole images (B, H, W, 3), RGB, uint8 or float in 0..255."""
        fov = self(normalised(letterboxed(image)))[:, 1]
        return focal_length(fov, fov.new_full(fov.shape, image.shape[1]))

    @torch.no_grad()
    def focal_of(self, picture: NDArray[np.uint8]) -> float:
        """Focal length in pixels of one whole picture (H, W, 3)."""
        return self.focal_length(torch.tensor(picture, device=self.fc3.weight.device)[None]).item()


def letterboxed(image: Tensor, side: int = IMAGE_SIDE) -> Tensor:
    """Images (B, H, W, 3) in the middle of white squares (B, side, side, 3), as large as they fit; float 0..255.

    Resized by means over areas and rounded, which is OpenCV's INTER_AREA, CameraHMR's choice, for images that shrink.
    """
    height, width = image.shape[1:3]
    ratio = width / height
    rows, columns = (int(side / ratio), side) if ratio > 1 else (side, int(side * ratio))
    across, down = areas(width, columns).to(image.device), areas(height, rows).to(image.device)
    fitted = torch.einsum("rh,bhwc,vw->brvc", down, image.float(), across).round()  # (B, rows, columns, 3)
    top, left = (side - rows) // 2, (side - columns) // 2
    return F.pad(fitted, (0, 0, left, side - columns - left, top, side - rows - top), value=255.0)


def areas(pixels: int, stretches: int) -> Tensor:
    """How much of each of `pixels` lies in each of as many equal stretches, as weights (stretches, pixels)."""
    edges = torch.arange(stretches + 1, dtype=torch.float64) * pixels / stretches
    start = torch.arange(pixels, dtype=torch.float64)
    overlap = (edges[1:, None].minimum(start + 1) - edges[:-1, None].maximum(start)).clamp(min=0)
    return (overlap * stretches / pixels).float()


def _networks(sizes: Sizes) -> dict[str, nn.Module]:
    width = cast(CameraSizes, sizes).fov_width
    return {"fov_net": FoVNet(width)} if width else {}


FAMILY = Family(
    name="camerahmr",
    mark="smpl_head.deckp.weight",
    licence="none stated: ask its authors before you use or pass on anything made from it",
    head=CameraHead,
    sizes=CameraSizes,
    token_dims=(160,),
    box=Box(aspect=None),
    condition="bbox_info",
    beside=_networks,
    parts=(SeparatePart("fov_net.", "cam_model", "fc1.weight", keys=("backbone.", "fc1.", "fc2.", "fc3.")),),
    sizes_from=lambda shapes: {"fov_width": shapes.get("fov_net.fc1.weight", (0, 0))[1] // 15},
)
