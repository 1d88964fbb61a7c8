"""CameraHMR for SMPL-X (Patel and Black 2024, its second release, with hands): ViTPose's ViT and one query that knows
where the person lies in the picture. Keys are those of the authors' code.

A crop is taken as a whole picture whose focal length is its diagonal; the network for fields of view is not asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.tokens import Tokens
from hmr.adapters.adapter import Adapter
from hmr.data.crop import cut
from hmr.media.boxes import Corners
from hmr.models.families.family import Box
from hmr.models.head import CAMERA, TransformerDecoder, rotations_from_6d
from hmr.published.parts.smplx_joints import SMPLXJoints, smplx_joints
from hmr.published.parts.vitpose import ViTPose
from hmr.published.parts.weights import checkpoint, count, filled, state_of

LAYER = "smplx_head.transformer.transformer.layers"
BODY, HANDS = 25, 30  # rotations that are decoded; of the body the first 22 are used
WHERE = (0.0, 0.0, 1 / math.sqrt(2))  # the crop's middle from that of the picture, and its side, in focal lengths


class SMPLXQuery(nn.Module):
    """Tokens (B, N, C), in any order and number -> pose of body and hands in 6D, betas, camera."""

    init_body_pose: Tensor  # (1, 150)
    init_hand_pose: Tensor  # (180,)
    init_betas: Tensor  # (1, 16)
    init_cam: Tensor  # (1, 3)

    def __init__(self, context: int, dim: int, depth: int, heads: int, width: int, hidden: int, betas: int) -> None:
        super().__init__()
        self.transformer = TransformerDecoder(CAMERA, dim, context, depth, heads, width, hidden)
        sizes = {"decpose": 6 * BODY, "dechandpose": 6 * HANDS, "decshape": betas, "deccam": CAMERA}
        for name, size in sizes.items():
            self.add_module(name, nn.Linear(dim, size))
        self.register_buffer("init_hand_pose", torch.zeros(6 * HANDS))
        for name, size in (("body_pose", 6 * BODY), ("betas", betas), ("cam", CAMERA)):
            self.register_buffer(f"init_{name}", torch.zeros(1, size))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        where = tokens.new_tensor(WHERE).expand(tokens.shape[0], 1, -1)
        out = self.transformer(where, tokens)[:, 0]
        parts = (("decpose", self.init_body_pose), ("dechandpose", self.init_hand_pose), ("decshape", self.init_betas))
        pose, hands, betas = (self.get_submodule(name)(out) + start for name, start in parts)
        return pose, hands, betas, self.get_submodule("deccam")(out) + self.init_cam


class CameraHMRNetwork(nn.Module):
    """Crops (B, 3, 256, 192) -> rotations, betas, camera and joints of SMPL-X.

    The body is the user's own: it is no part of the weights, and of no artefact.
    """

    def __init__(self, backbone: ViTPose, head: SMPLXQuery, body: SMPLXJoints) -> None:
        super().__init__()
        self.backbone, self.smplx_head, self.bodies = backbone, head, (body,)

    def forward(self, crop: Tensor) -> dict[str, Tensor]:
        return self.read(self.backbone(crop))

    def read(self, tokens: Tensor) -> dict[str, Tensor]:
        """From finished tokens (B, N, C): rotations (B, 52, 3, 3) of body and hands, joints (B, 55, 3) m from the
        pelvis's place in the body."""
        pose, hands, betas, camera = self.smplx_head(tokens)
        body, fingers = (rotations_from_6d(part.unflatten(1, (-1, 6))) for part in (pose, hands))
        still = torch.eye(3, device=pose.device).expand(pose.shape[0], 3, 3, 3)  # jaw and eyes
        joints = self.bodies[0].to(pose.device)(torch.cat((body[:, :22], still, fingers), 1), betas)
        return {"rotations": torch.cat((body[:, :22], fingers), 1), "betas": betas, "camera": camera, "joints": joints}


class CameraHMRSMPLX(Adapter):
    """The released model: 55 joints of SMPL-X, the pelvis first."""

    size, blocks, licence = (256, 192), "backbone.blocks", "none stated"
    stacks: ClassVar[Mapping[str, str]] = {"decoder": LAYER}
    checkpoint: ClassVar[str] = "camerahmr_smplx.ckpt"
    smplx: ClassVar[str] = "SMPLX_NEUTRAL.npz"
    heads: ClassVar[int] = 8
    backbone_heads: ClassVar[int] = 16

    def load(self) -> CameraHMRNetwork:
        """Raises BadInput where there are no weights, or no SMPL-X."""
        source = checkpoint(self.checkpoint, "https://camerahmr.is.tue.mpg.de")
        state = state_of(source, "smplx_head.dechandpose.weight")
        hidden, context = state["backbone.blocks.0.mlp.fc1.weight"].shape
        grid = (self.size[0] // 16, self.size[1] // 16)
        backbone = ViTPose(context, count(state, "backbone.blocks"), self.backbone_heads, hidden, 0.0, grid)
        betas, dim = state["smplx_head.decshape.weight"].shape
        width = state[f"{LAYER}.0.0.fn.to_out.0.weight"].shape[1] // self.heads
        hidden = state[f"{LAYER}.0.2.fn.net.0.weight"].shape[0]
        head = SMPLXQuery(context, dim, count(state, LAYER), self.heads, width, hidden, betas)
        return filled(CameraHMRNetwork(backbone, head, smplx_joints(self.smplx, betas)), state, source.path)

    def crops(self, frame: NDArray[np.uint8], box: Corners) -> NDArray[np.uint8]:
        """The middle columns of a square around the box."""
        left, top, right, bottom = box
        side = Box(aspect=None).side(right - left, bottom - top)
        return cut(frame, ((left + right) / 2, (top + bottom) / 2), side, self.size)

    def read(self, model: Any, tokens: Tokens) -> dict[str, Tensor]:
        person: dict[str, Tensor] = model.read(tokens.x)
        return person

    def joints(self, outputs: Any) -> Tensor:
        joints: Tensor = outputs["joints"]
        return joints
