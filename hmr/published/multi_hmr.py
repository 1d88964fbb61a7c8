"""Multi-HMR (Baradel et al. 2024, "Multi-HMR: Multi-person whole-body human mesh recovery in a single shot"): DINOv2,
each of whose patches may hold the head of a person, and queries of those that do. Keys are those of the authors' code.

A crop is taken as a whole picture of a camera that sees 60 degrees, and the patch of the highest score is the person.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.errors import BadInput
from compress.tokens import Tokens
from hmr.adapters.adapter import Adapter
from hmr.data.crop import cut
from hmr.media.boxes import Corners
from hmr.models.head import CAMERA, TransformerDecoder, rotations_from_6d
from hmr.published.parts.dinov2 import DINOv2Hub, hub_backbone
from hmr.published.parts.encoder import Encoder
from hmr.published.parts.places import RAY, fourier, rays_by_row
from hmr.published.parts.smplx_joints import EXPRESSION, SMPLXJoints, smplx_joints
from hmr.published.parts.weights import checkpoint, count, filled, state_of

PATCH = 14
ROTATIONS = 53  # pelvis, 21 of the body, 15 of each hand, jaw
HEAD = 15  # SMPL-X's joint, by which people are placed
FARTHEST = 50.0  # m
LAYER = "x_attention_head.transformer.transformer.layers"
Numbers = tuple[Tensor, Tensor, Tensor, Tensor]
UNUSED = ("backbone.encoder.mask_token", "x_attention_head.init_betas_kid")


class HumanQueries(nn.Module):
    """The feature of a patch that holds a person (B, C) and the whole grid (B, C, h, w) -> the person's parameters."""

    init_body_pose: Tensor  # (1, 318)
    init_betas: Tensor  # (1, betas)
    init_cam: Tensor  # (1, 3)
    init_expression: Tensor  # (1, 10)

    def __init__(
        self, context: int, dim: int, depth: int, heads: int, width: int, hidden: int, side: int, betas: int
    ) -> None:
        super().__init__()
        pose = 6 * ROTATIONS
        self.transformer = TransformerDecoder(
            pose + betas + CAMERA + context, dim, context, depth, heads, width, hidden
        )
        self.decpose, self.decshape, self.deccam, self.decexpression = (
            nn.Linear(dim, n) for n in (pose, betas, CAMERA, EXPRESSION)
        )
        self.cross_queries_x, self.cross_queries_y, self.cross_values_x, self.cross_values_y = (
            nn.Parameter(torch.zeros(side, context)) for _ in range(4)
        )
        starts = {"body_pose": pose, "betas": betas, "cam": CAMERA, "expression": EXPRESSION}
        for name, size in starts.items():
            self.register_buffer(f"init_{name}", torch.zeros(1, size))

    def forward(self, person: Tensor, grid: Tensor, row: Tensor, column: Tensor) -> Numbers:
        """row, column (B,): of the person's patch. Returns pose (B, 318) in 6D, betas, camera and expression."""
        query = person + self.cross_queries_x[row] + self.cross_queries_y[column]
        value = self.cross_values_x[row] + self.cross_values_y[column]
        rows, columns = grid.shape[2:]
        here = nn.functional.one_hot(row * columns + column, rows * columns).to(grid.dtype)  # (B, N)
        context = grid.flatten(2).transpose(1, 2) + here[..., None] * value[:, None]
        start = torch.cat((self.init_body_pose, self.init_betas, self.init_cam), 1).expand(query.shape[0], -1)
        out = self.transformer(torch.cat((query, start), 1)[:, None], context)[:, 0]
        return (
            self.decpose(out) + self.init_body_pose,
            self.decshape(out) + self.init_betas,
            self.deccam(out) + self.init_cam,
            self.decexpression(out) + self.init_expression,
        )


class MultiHMRNetwork(nn.Module):
    """Pictures (B, 3, S, S) -> scores of patches, and of the best one's person the parameters and joints.

    The body is the user's own: it is no part of the weights, and of no artefact.
    """

    def __init__(self, backbone: DINOv2Hub, body: SMPLXJoints, queries: HumanQueries, dim: int) -> None:
        super().__init__()
        self.backbone, self.bodies = Encoder(backbone), (body,)
        self.mlp_classif, self.mlp_offset = (
            nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, n)) for n in (1, 2)
        )
        self.x_attention_head = queries

    def forward(self, crop: Tensor) -> dict[str, Tensor]:
        grid = (crop.shape[2] // PATCH, crop.shape[3] // PATCH)
        return self.read(self.backbone(crop)[:, 1:].transpose(1, 2).unflatten(2, grid))

    def read(self, grid: Tensor) -> dict[str, Tensor]:
        """From the backbone's grid (B, C, h, w)."""
        patches = grid.flatten(2).transpose(1, 2)  # (B, N, C)
        scores = self.mlp_classif(patches)[..., 0].sigmoid()
        best = scores.argmax(1)
        side = grid.shape[2]
        row, column = best // side, best % side
        focal = side * PATCH / (2 * math.tan(math.radians(30)))
        rays = fourier(rays_by_row(side * PATCH, PATCH, focal, grid)).expand(grid.shape[0], -1, -1, -1)
        wide = torch.cat((grid, rays), 1)
        person = wide.flatten(2).transpose(1, 2)[torch.arange(len(best), device=best.device), best]  # (B, C + 99)
        offset = self.mlp_offset(person[:, : grid.shape[1]])
        said = self.x_attention_head(person, wide, row, column)
        place = (torch.stack((column, row), 1) + 0.5 + offset) * PATCH  # x, y in pixels
        return {"scores": scores, "place": place, **self.posed(said, place, side * PATCH, focal)}

    def posed(self, numbers: Numbers, place: Tensor, side: int, focal: float) -> dict[str, Tensor]:
        """Rotations (B, 53, 3, 3), betas, expression, the head's distance (B, 1) m and joints (B, 55, 3) m."""
        pose, betas, camera, expression = numbers
        rotations = rotations_from_6d(pose.unflatten(1, (ROTATIONS, 6)))
        depth = (camera[:, :1].exp() - 1e-10).clamp(0, FARTHEST)
        jaw, eyes = rotations[:, 52:], torch.eye(3, device=pose.device).expand(pose.shape[0], 2, 3, 3)
        whole = torch.cat((rotations[:, :22], jaw, eyes, rotations[:, 22:52]), 1)  # in SMPL-X's order
        joints = self.bodies[0].to(pose.device)(whole, betas, expression)
        head = torch.cat(((place - side // 2) / focal, torch.ones_like(depth)), 1) * depth
        joints = joints - joints[:, HEAD : HEAD + 1] + head[:, None]
        return {"rotations": rotations, "betas": betas, "expression": expression, "depth": depth, "joints": joints}


class MultiHMR(Adapter):
    """A released model: SMPL-X's 55 joints of the person whose head shows best. `size` is that of the file, 672, 896 or
    1288 pixels."""

    size, blocks, head_needs = (896, 896), "backbone.encoder.blocks", "grid"
    licence = "NAVER non-commercial"
    stacks: ClassVar[Mapping[str, str]] = {"decoder": LAYER}
    checkpoint: ClassVar[str] = "multiHMR_896_L.pt"
    smplx: ClassVar[str] = "SMPLX_NEUTRAL.npz"
    heads: ClassVar[int] = 8
    backbone_heads: ClassVar[int | None] = None  # 64 wide, as DINOv2's are

    def load(self) -> MultiHMRNetwork:
        """Raises BadInput where there are no weights, no SMPL-X, or the weights are for pictures of another size."""
        source = checkpoint(self.checkpoint, "https://github.com/naver/multi-hmr")
        state = state_of(source, "x_attention_head.cross_queries_x")
        (side, context), (betas, dim) = (
            state[f"x_attention_head.{name}"].shape for name in ("cross_queries_x", "decshape.weight")
        )
        if self.size != (side * PATCH, side * PATCH):
            raise BadInput(
                f"{source.path}: for pictures of {side * PATCH} pixels: set size = ({side * PATCH}, {side * PATCH})"
            )
        width = state[f"{LAYER}.0.0.fn.to_out.0.weight"].shape[1] // self.heads
        hidden = state[f"{LAYER}.0.2.fn.net.0.weight"].shape[0]
        queries = HumanQueries(context, dim, count(state, LAYER), self.heads, width, hidden, side, betas)
        backbone = hub_backbone(state, "backbone.encoder", self.backbone_heads)
        network = MultiHMRNetwork(backbone, smplx_joints(self.smplx, betas), queries, context - RAY)
        return filled(network, state, source.path, UNUSED)

    def crops(self, frame: NDArray[np.uint8], box: Corners) -> NDArray[np.uint8]:
        """A square around the box, half larger: people stand in a picture."""
        left, top, right, bottom = box
        side = 1.5 * max(right - left, bottom - top)
        return cut(frame, ((left + right) / 2, (top + bottom) / 2), side, self.size)

    def read(self, model: Any, tokens: Tokens) -> dict[str, Tensor]:
        person: dict[str, Tensor] = model.read(tokens.to_grid())
        return person

    def joints(self, outputs: Any) -> Tensor:
        joints: Tensor = outputs["joints"]
        return joints
