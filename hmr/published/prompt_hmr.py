"""PromptHMR (Wang et al. 2025, "PromptHMR: Promptable human mesh recovery"): DINOv2 over a whole picture, and tokens
for a person who is asked for by a box, which look at it as it looks back. Keys are those of the authors' code.

A crop is taken as a whole picture whose focal length is its diagonal; the box in it is the one that `crops` leaves
around a person. No text, keypoints or masks are given, and people do not look at each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.tokens import Tokens
from hmr.adapters.adapter import Adapter
from hmr.data.crop import cut
from hmr.media.boxes import Corners
from hmr.models.head import BETAS, rotations_from_6d
from hmr.models.vit import attention
from hmr.published.parts.dinov2 import DINOv2Hub, hub_backbone
from hmr.published.parts.encoder import Encoder
from hmr.published.parts.places import RAY, ChannelNorm, RandomWaves, WholePicture, fourier, rays_by_row
from hmr.published.parts.smplx_joints import SMPLXJoints, smplx_joints
from hmr.published.parts.weights import checkpoint, count, filled, state_of

PATCH = 14
ROTATIONS = 22
MARGIN = 0.1  # of the crop, on each side of the box
FOCAL = 1000.0  # pixels of the lens that distances are told for
UNUSED = ("image_encoder.backbone.encoder.mask_token", "prompt_encoder.")  # text, keypoints and masks
LAYER = "smpl_decoder.transformer.layers"
Numbers = tuple[Tensor, Tensor, Tensor, Tensor]


class NarrowAttention(nn.Module):
    """Attention in half as many features as the tokens have."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, dim // 2) for _ in range(3))
        self.out_proj = nn.Linear(dim // 2, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        heads = (project(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for project, x in parts)
        return self.out_proj(attention(*heads).transpose(1, 2).flatten(2))


class ReluMLP(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.lin1(x).relu())


class TwoWayLayer(nn.Module):
    """Tokens (B, T, D) look at each other and at the picture (B, N, D), and it looks at them (Kirillov et al. 2023,
    SAM); norms come last."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn, self.cross_attn_token_to_image, self.cross_attn_image_to_token = (
            NarrowAttention(dim, heads) for _ in range(3)
        )
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(dim) for _ in range(4))
        self.mlp = ReluMLP(dim, hidden)

    def forward(self, x: Tensor, place: Tensor, picture: Tensor, where: Tensor, first: bool) -> tuple[Tensor, Tensor]:
        """`first`: the first layer has neither places nor a residual in its self-attention."""
        x = self.norm1(self.self_attn(x, x, x) if first else x + self.self_attn(x + place, x + place, x))
        x = self.norm2(x + self.cross_attn_token_to_image(x + place, picture + where, picture))
        x = self.norm3(x + self.mlp(x))
        return x, self.norm4(picture + self.cross_attn_image_to_token(picture + where, x + place, x))


class TwoWayLayers(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayLayer(dim, heads, hidden) for _ in range(depth))
        self.final_attn_token_to_image, self.norm_final_attn = NarrowAttention(dim, heads), nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, picture: Tensor, where: Tensor) -> Tensor:
        x = tokens
        for i, layer in enumerate(self.layers):
            x, picture = layer(x, tokens, picture, where, first=i == 0)
        return self.norm_final_attn(x + self.final_attn_token_to_image(x + tokens, picture + where, picture))


class HeadMLP(nn.Module):
    """Linear layers with ReLUs between them."""

    def __init__(self, dim: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, outputs if i + 1 == depth else dim) for i in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class PersonDecoder(nn.Module):
    """Two tokens, one for pose and shape and one for the place, and what was asked (B, T, D) -> those numbers."""

    init_pose: Tensor  # (1, 132)
    init_betas: Tensor  # (1, 10)
    init_transl: Tensor  # (1, 2)
    init_depth: Tensor  # (1, 1)

    def __init__(self, dim: int, depth: int, heads: int, hidden: int, head_depth: int) -> None:
        super().__init__()
        self.transformer, self.smpl_token = TwoWayLayers(dim, depth, heads, hidden), nn.Embedding(2, dim)
        self.pose_head, self.shape_head, self.transl_head, self.depth_head = (
            HeadMLP(dim, n, head_depth) for n in (6 * ROTATIONS, BETAS, 2, 1)
        )
        for name, size in (("pose", 6 * ROTATIONS), ("betas", BETAS), ("transl", 2), ("depth", 1)):
            self.register_buffer(f"init_{name}", torch.zeros(1, size))

    def forward(self, asked: Tensor, picture: Tensor, where: Tensor) -> Numbers:
        tokens = torch.cat((self.smpl_token.weight.expand(asked.shape[0], -1, -1), asked), 1)
        body, place = self.transformer(tokens, picture, where)[:, :2].unbind(1)
        return (
            self.pose_head(body) + self.init_pose,
            self.shape_head(body) + self.init_betas,
            self.transl_head(place) + self.init_transl,
            self.depth_head(place) + self.init_depth,
        )


class BoxPrompt(nn.Module):
    """A box (left, top, right, bottom) in pixels -> three tokens: its corners, and that there is no text."""

    def __init__(self, dim: int, masks: bool) -> None:
        super().__init__()
        self.pe_layer = RandomWaves(dim)
        self.point_embeddings, self.not_embeddings = (
            nn.ModuleList(nn.Embedding(1, dim) for _ in range(2)),
            nn.Embedding(1, dim),
        )
        self.no_mask_embed = nn.Embedding(1, dim) if masks else None

    def forward(self, box: Tensor, side: int) -> Tensor:
        corners = self.pe_layer.at((box.unflatten(0, (2, 2)) + 0.5) / side)
        named = torch.cat([cast(nn.Embedding, one).weight for one in self.point_embeddings])
        return torch.cat((corners + named, self.not_embeddings.weight))[None]


class PictureEncoder(nn.Module):
    """The backbone, and its grid in the decoder's width."""

    def __init__(self, backbone: DINOv2Hub, inputs: int, dim: int) -> None:
        super().__init__()
        self.backbone = Encoder(backbone)
        self.neck = nn.Sequential(nn.Conv2d(inputs, dim, 1, bias=False), ChannelNorm(dim))


class LensEncoder(nn.Module):
    """A grid (B, D, h, w) that also knows where its patches look."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(dim + RAY, dim, 1, bias=False), ChannelNorm(dim)

    def forward(self, grid: Tensor, focal: float) -> Tensor:
        rays = fourier(rays_by_row(grid.shape[2] * PATCH, PATCH, focal, grid)).expand(grid.shape[0], -1, -1, -1)
        return self.norm(self.conv(torch.cat((grid, rays), 1)))


class PromptHMRNetwork(nn.Module):
    """Pictures (B, 3, S, S) -> of the person in their middle rotations, betas, place and joints of SMPL-X.

    The body is the user's own: it is no part of the weights, and of no artefact.
    """

    def __init__(
        self,
        encoder: PictureEncoder,
        dim: int,
        decoder: PersonDecoder,
        body: SMPLXJoints,
        masks: bool = False,
        inverse: bool = False,
    ) -> None:
        super().__init__()
        self.inverse = inverse  # whether it tells 1 / depth
        self.image_encoder, self.cam_encoder = encoder, LensEncoder(dim)
        self.prompt_encoder, self.smpl_decoder, self.bodies = BoxPrompt(dim, masks), decoder, (body,)

    def forward(self, crop: Tensor) -> dict[str, Tensor]:
        grid = (crop.shape[2] // PATCH, crop.shape[3] // PATCH)
        return self.read(self.image_encoder.backbone(crop)[:, 1:].transpose(1, 2).unflatten(2, grid))

    def read(self, grid: Tensor) -> dict[str, Tensor]:
        """From the backbone's grid (B, C, h, w)."""
        side = grid.shape[2] * PATCH
        view = WholePicture(side, side)
        grid = self.cam_encoder(self.image_encoder.neck(grid), view.focal)
        if self.prompt_encoder.no_mask_embed is not None:
            grid = grid + self.prompt_encoder.no_mask_embed.weight[0, :, None, None]
        picture, where = grid.flatten(2).transpose(1, 2), self.prompt_encoder.pe_layer(*grid.shape[2:])
        asked = self.prompt_encoder(grid.new_tensor((MARGIN, MARGIN, 1 - MARGIN, 1 - MARGIN)) * side, side)
        return self.posed(self.smpl_decoder(asked.expand(grid.shape[0], -1, -1), picture, where), view.focal)

    def posed(self, numbers: Numbers, focal: float) -> dict[str, Tensor]:
        """Rotations (B, 22, 3, 3) whose 6D are rows, betas, place (B, 3) m, and joints (B, 55, 3) m."""
        pose, betas, shift, depth = numbers
        rotations = rotations_from_6d(pose.unflatten(1, (ROTATIONS, 6))).mT
        depth = 1 / (depth + 1e-6) if self.inverse else depth
        place = torch.cat((shift * depth, depth * focal / FOCAL), 1)
        joints = self.bodies[0].to(pose.device)(rotations, betas) + place[:, None]
        return {"rotations": rotations, "betas": betas, "place": place, "joints": joints}


class PromptHMR(Adapter):
    """The released model: 55 joints of SMPL-X, the pelvis first, hands at rest."""

    size, blocks, head_needs = (896, 896), "image_encoder.backbone.encoder.blocks", "grid"
    licence = "Meshcapade non-commercial"
    stacks: ClassVar[Mapping[str, str]] = {"decoder": LAYER}
    checkpoint: ClassVar[str] = "checkpoint.ckpt"
    smplx: ClassVar[str] = "SMPLX_NEUTRAL.npz"
    heads: ClassVar[int] = 8
    backbone_heads: ClassVar[int | None] = None  # 64 wide, as DINOv2's are

    def load(self) -> PromptHMRNetwork:
        """Raises BadInput where there are no weights, or no SMPL-X."""
        source = checkpoint(self.checkpoint, "https://github.com/yufu-wang/PromptHMR")
        state = two_way(state_of(source, "smpl_decoder.smpl_token.weight"))
        dim, context = state["image_encoder.neck.0.weight"].shape[:2]
        hidden = state[f"{LAYER}.0.mlp.lin1.weight"].shape[0]
        heads = count(state, "smpl_decoder.pose_head.layers")
        decoder = PersonDecoder(dim, count(state, LAYER), self.heads, hidden, heads)
        backbone = hub_backbone(state, "image_encoder.backbone.encoder", self.backbone_heads)
        masks = "prompt_encoder.no_mask_embed.weight" in state
        encoder = PictureEncoder(backbone, context, dim)
        inverse = bool(state["smpl_decoder.init_depth"] < 1)  # it starts from 10 m
        network = PromptHMRNetwork(encoder, dim, decoder, smplx_joints(self.smplx), masks, inverse)
        return filled(network, state, source.path, UNUSED)

    def crops(self, frame: NDArray[np.uint8], box: Corners) -> NDArray[np.uint8]:
        """A square around the box, with a margin on each side of its longer one."""
        left, top, right, bottom = box
        side = max(right - left, bottom - top) / (1 - 2 * MARGIN)
        return cut(frame, ((left + right) / 2, (top + bottom) / 2), side, self.size)

    def read(self, model: Any, tokens: Tokens) -> dict[str, Tensor]:
        person: dict[str, Tensor] = model.read(tokens.to_grid())
        return person

    def joints(self, outputs: Any) -> Tensor:
        joints: Tensor = outputs["joints"]
        return joints


def two_way(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's weights without what people look at each other by, which stands between others in its layers."""
    if f"{LAYER}.0.norm5.weight" not in state:
        return dict(state)
    found = {}
    for key, value in state.items():
        layer, _, part = key.partition(f"{LAYER}.")[2].partition(".")
        name, _, rest = part.partition(".")
        if layer and name in ("norm2", "cross_person_attn", "pe"):
            continue
        if layer and name in ("norm3", "norm4", "norm5"):
            key = f"{LAYER}.{layer}.norm{int(name[-1]) - 1}.{rest}"
        found[key] = value
    return found
