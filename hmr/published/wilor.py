"""WiLoR (Potamias et al. 2024, "WiLoR: End-to-end 3D hand localization and reconstruction in-the-wild"): right hands.

ViTPose's ViT whose first 18 tokens are the mean pose, shape and camera, embedded. They answer with a first hand, whose
vertices are looked up in an enlarged grid of the patches, which corrects it. Keys are those of the authors' code.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.tokens import Tokens
from hmr.adapters.adapter import Adapter
from hmr.body.camera import FOCAL
from hmr.body.files import load_body
from hmr.body.model import BETAS, BodyModel
from hmr.data.crop import cut
from hmr.media.boxes import Corners
from hmr.models.families.family import Box
from hmr.models.head import CAMERA, rotations_from_6d
from hmr.models.vit import Block, PatchEmbed
from hmr.published.parts.weights import checkpoint, count, filled, state_of

JOINTS = 16
PREFIX = JOINTS + 2  # one token a joint, one for the shape and one for the camera
GRID = (16, 12)
TIPS = (744, 320, 443, 554, 671)  # vertices: thumb, index, middle, ring, little finger
ORDER = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)  # OpenPose's: thumb first, tips last
Parts = tuple[Tensor, Tensor, Tensor]  # pose (B, 96) in 6D, shape (B, 10), camera (B, 3)


class HandViT(nn.Module):
    """Crops (B, 3, 256, 192) -> the first hand, and tokens of 16 x 12 patches."""

    init_hand_pose: Tensor  # (1, 96)
    init_betas: Tensor  # (1, 10)
    init_cam: Tensor  # (1, 3)

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID[0] * GRID[1], dim))
        self.pose_emb, self.shape_emb, self.cam_emb = (nn.Linear(n, dim) for n in (6, BETAS, CAMERA))
        self.decpose, self.decshape, self.deccam = (nn.Linear(dim, n) for n in (6, BETAS, CAMERA))
        for name, size in (("init_hand_pose", 6 * JOINTS), ("init_betas", BETAS), ("init_cam", CAMERA)):
            self.register_buffer(name, torch.zeros(1, size))
        self.blocks = nn.ModuleList(Block(dim, heads, 4 * dim) for _ in range(depth))
        self.last_norm = nn.LayerNorm(dim, eps=1e-6)

    def prepare_tokens_with_masks(self, crop: Tensor) -> Tensor:
        """Tokens (B, 18 + 192, C) as the first block takes them; named as DINOv2's, by which it is found."""
        x = self.patch_embed(crop).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        mean = (
            self.pose_emb(self.init_hand_pose.unflatten(1, (JOINTS, 6))),
            self.shape_emb(self.init_betas)[:, None],
            self.cam_emb(self.init_cam)[:, None],
        )
        return torch.cat([*(part.expand(x.shape[0], -1, -1) for part in mean), x], 1)

    def forward(self, crop: Tensor) -> Tensor:
        """Finished tokens (B, 18 + 192, C)."""
        x = self.prepare_tokens_with_masks(crop)
        for block in self.blocks:
            x = block(x)
        return self.last_norm(x)

    def read(self, prefix: Tensor) -> Parts:
        """The first hand, from the finished tokens before the patches (B, 18, C)."""
        return (
            self.decpose(prefix[:, :JOINTS]).flatten(1) + self.init_hand_pose,
            self.decshape(prefix[:, JOINTS]) + self.init_betas,
            self.deccam(prefix[:, JOINTS + 1]) + self.init_cam,
        )


class Enlarged(nn.Module):
    """A grid (B, C, h, w) in three sizes: (B, C/8, 4h, 4w), (B, C/4, 2h, 2w) and (B, C/2, h, w)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(nn.Conv2d(dim, dim // 2, 1))
        self.deconv = nn.ModuleList((doubled(dim // 2, dim // 4), doubled(dim // 2, dim // 4, dim // 8)))

    def forward(self, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grid = self.first_conv(grid)
        return self.deconv[1](grid), self.deconv[0](grid), grid


def doubled(*widths: int) -> nn.Sequential:
    """Layers from each width to the next, each of which doubles a grid's sides."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [
            nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class Correction(nn.Module):
    """What vertices see of the enlarged grids, each feature where it is largest -> changes of pose, shape, camera."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.deconv = Enlarged(dim)
        seen = dim // 8 + dim // 4 + dim // 2
        self.dec_pose, self.dec_cam, self.dec_shape = (nn.Linear(seen, n) for n in (6 * JOINTS, CAMERA, BETAS))

    def forward(self, grid: Tensor, vertices: Tensor, camera: Tensor) -> Parts:
        seen = torch.cat([looked_up(one, vertices, camera).amax(1) for one in self.deconv(grid)], -1)
        return self.dec_pose(seen), self.dec_shape(seen), self.dec_cam(seen)


def looked_up(grid: Tensor, vertices: Tensor, camera: Tensor) -> Tensor:
    """Features (B, V, C) of a grid (B, C, h, w) where vertices (B, V, 3) m lie in it by a weak camera (B, 3).

    As the authors': the projection counts from the middle, and is read as if it counted cells from the first one.
    """
    height, width = grid.shape[2:]
    scale, x, y = camera.unbind(1)
    placed = vertices + torch.stack((x, y, 2 * FOCAL / (height * scale + 1e-9)), -1)[:, None]
    cells = FOCAL / height * placed[..., :2] / placed[..., 2:]
    place = cells / cells.new_tensor((width - 1, height - 1)) * 2 - 1
    return F.grid_sample(grid, place[:, :, None], align_corners=True)[..., 0].transpose(1, 2)


class WiLoRNetwork(nn.Module):
    """Crops (B, 3, 256, 192) of right hands -> pose, shape, camera, vertices and joints.

    The body is the user's own: it is no part of the weights, and of no artefact.
    """

    def __init__(self, body: BodyModel, dim: int = 1280, depth: int = 32, heads: int = 16) -> None:
        super().__init__()
        self.backbone = HandViT(dim, depth, heads)
        self.refine_net = Correction(dim)
        self.bodies = (body,)

    def forward(self, crop: Tensor) -> dict[str, Tensor]:
        x = self.backbone(crop)
        return self.read(x[:, :PREFIX], x[:, PREFIX:].transpose(1, 2).unflatten(2, GRID))

    def read(self, prefix: Tensor, grid: Tensor) -> dict[str, Tensor]:
        """From finished tokens before the patches (B, 18, C) and the grid (B, C, 16, 12): rotations (B, 16, 3, 3),
        betas (B, 10), camera (B, 3), vertices (B, 778, 3) m, joints (B, 21, 3) m."""
        first = self.backbone.read(prefix)
        vertices = self.posed(*first)["vertices"]
        return self.posed(
            *(one + more for one, more in zip(first, self.refine_net(grid, vertices, first[2]), strict=True))
        )

    def posed(self, pose: Tensor, betas: Tensor, camera: Tensor) -> dict[str, Tensor]:
        """The hand of a pose in 6D (B, 96), a shape and a camera."""
        rotations = rotations_from_6d(pose.unflatten(1, (JOINTS, 6)))
        hand = self.bodies[0].to(pose.device)(rotations, betas)
        joints = torch.cat((hand.joints, hand.vertices[:, TIPS]), 1)[:, ORDER]
        return {"rotations": rotations, "betas": betas, "camera": camera, "vertices": hand.vertices, "joints": joints}


class WiLoR(Adapter):
    """The released model: pictures of right hands, 21 joints from the wrist."""

    size, blocks, head_needs, licence = (256, 192), "backbone.blocks", "grid", "CC-BY-NC-ND-4.0"
    checkpoint: ClassVar[str] = "wilor_final.ckpt"
    heads: ClassVar[int] = 16
    box: ClassVar[Box] = Box(factor=2.0)

    def load(self) -> WiLoRNetwork:
        """Raises BadInput where there are no weights, or no MANO (`fasthmr body import MANO_RIGHT.pkl`)."""
        source = checkpoint(self.checkpoint, "https://github.com/rolpotamias/WiLoR")
        state = state_of(source, "backbone.pose_emb.weight")
        dim, depth = state["backbone.pose_emb.weight"].shape[0], count(state, "backbone.blocks")
        return filled(WiLoRNetwork(load_body("mano"), dim, depth, self.heads), state, source.path)

    def crops(self, frame: NDArray[np.uint8], box: Corners) -> NDArray[np.uint8]:
        """The square of twice the box, of which the middle columns are left."""
        left, top, right, bottom = box
        side = self.box.side(right - left, bottom - top)
        return cut(frame, ((left + right) / 2, (top + bottom) / 2), side, self.size)

    def read(self, model: Any, tokens: Tokens) -> dict[str, Tensor]:
        hand: dict[str, Tensor] = model.read(tokens.x[:, :PREFIX], tokens.to_grid())
        return hand

    def joints(self, outputs: Any) -> Tensor:
        joints: Tensor = outputs["joints"]
        return joints
