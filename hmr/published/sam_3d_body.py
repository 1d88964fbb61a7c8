"""SAM 3D Body (Yang et al. 2025, "SAM 3D Body: Robust full-body human mesh recovery"): people, or right hands, as
keypoints of the Momentum Human Rig. Keys are those of the authors' code, without its `_hand`.

A crop is taken as a whole picture, with the lens that the authors take for those, and without keypoints or masks as
prompts. The authors' own run refines the hands of a body by two further crops; here a crop is one run of one decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.tokens import Tokens
from hmr.adapters.adapter import Adapter
from hmr.data.crop import cut
from hmr.media.boxes import Corners
from hmr.models.families.family import Box
from hmr.published.parts.dinov3 import DINOv3
from hmr.published.parts.encoder import Encoder
from hmr.published.parts.mhr import KEYPOINTS, POSE, MHRHead, Rig, TwoLayers, rig
from hmr.published.parts.places import RandomWaves, WholePicture
from hmr.published.parts.sam_3d_body_decoder import (
    BoxMLP,
    PersonCamera,
    Projected,
    PromptLayers,
    PromptSizes,
    RayCondition,
)
from hmr.published.parts.weights import checkpoint, count, filled, state_of

PATCH = 16
HIPS = [9, 10]  # of the keypoints
# tokens: pose, the last pose, a prompt, two hands, keypoints in the picture, keypoints in space
HANDS, POINTS, SPACE = slice(3, 5), slice(5, 5 + KEYPOINTS), slice(5 + KEYPOINTS, 5 + 2 * KEYPOINTS)
SHARED = ("backbone.", "prompt_encoder.", "prompt_to_token.", "hand_box_embedding.", "hand_cls_embed.", "bbox_embed.")
UNUSED = ("prompt_encoder.", "head_pose.")  # further prompts, and the rig's own


class Prompts(nn.Module):
    """What stands for no keypoint and for no mask."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.invalid_point_embed, self.no_mask_embed = (nn.Embedding(1, dim) for _ in range(2))


class SAM3DBodyNetwork(nn.Module):
    """Crops (B, 3, side, columns) -> keypoints (B, 70, 3) m and what they were posed from, of people or right hands.

    The rig is the user's own: it is no part of the weights, and of no artefact.
    """

    def __init__(
        self,
        backbone: nn.Module,
        posed: Rig,
        view: WholePicture,
        sizes: PromptSizes,
        hand_scale: float | None = None,
        points: int = 18439 + 127,
    ) -> None:
        super().__init__()
        dim, context = sizes.dim, sizes.context
        self.backbone, self.view, self.decoder = backbone, view, PromptLayers(sizes)
        self.head_pose = MHRHead(dim, posed, hand_scale is not None, points)
        self.head_camera = PersonCamera(dim, hand_scale or 1.0)
        self.init_pose, self.init_camera = nn.Embedding(1, POSE), nn.Embedding(1, 3)
        self.init_to_token_mhr, self.prev_to_token_mhr = nn.Linear(POSE + 6, dim), nn.Linear(POSE + 3, dim)
        self.prompt_encoder, self.prompt_to_token = Prompts(context), nn.Linear(context, dim)
        self.grid_waves, self.ray_cond_emb = RandomWaves(context), RayCondition(context, view, PATCH)
        self.hand_box_embedding, self.hand_cls_embed, self.bbox_embed = (
            nn.Embedding(2, dim),
            nn.Linear(dim, 2),
            BoxMLP(dim),
        )
        self.keypoint_embedding, self.keypoint3d_embedding = (nn.Embedding(KEYPOINTS, dim) for _ in range(2))
        self.keypoint_posemb_linear, self.keypoint3d_posemb_linear = (TwoLayers(n, dim, dim, nn.ReLU()) for n in (2, 3))
        self.keypoint_feat_linear = nn.Linear(context, dim)

    def forward(self, crop: Tensor) -> dict[str, Tensor]:
        x = self.backbone(crop)
        rows, columns = crop.shape[2] // PATCH, crop.shape[3] // PATCH
        return self.read(x[:, x.shape[1] - rows * columns :].transpose(1, 2).unflatten(2, (rows, columns)))

    def read(self, grid: Tensor) -> dict[str, Tensor]:
        """From the backbone's grid (B, C, h, w)."""
        grid = grid + self.prompt_encoder.no_mask_embed.weight[0, :, None, None]
        grid = self.ray_cond_emb(grid)
        rows, columns = grid.shape[2:]
        picture, where = grid.flatten(2).transpose(1, 2), self.grid_waves(rows, columns)
        x, place = self.tokens(grid.shape[0])
        for i, layer in enumerate(self.decoder.layers):
            x = layer(x, place, picture, where, first=i == 0)
            out = self.decoder.norm_final(x)
            said = self.posed(out[:, 0])
            if i + 1 < len(self.decoder.layers):
                x, place = self.looked(x, place, said, grid)
        boxes, shown = self.bbox_embed(out[:, HANDS]).sigmoid(), self.hand_cls_embed(out[:, HANDS])
        return {**said, "hand_boxes": boxes, "hand_logits": shown}

    def tokens(self, batch: int) -> tuple[Tensor, Tensor]:
        """The first tokens (B, 145, D), and what is added to them as their places."""
        start = torch.cat((self.init_pose.weight, self.init_camera.weight), 1)
        condition = start.new_tensor([[0, 0, self.view.side / self.view.focal]])  # the crop's middle, and its side
        first = self.init_to_token_mhr(torch.cat((condition, start), 1))
        said = torch.cat(
            (self.prev_to_token_mhr(start), self.prompt_to_token(self.prompt_encoder.invalid_point_embed.weight))
        )
        asked = (self.hand_box_embedding.weight, self.keypoint_embedding.weight, self.keypoint3d_embedding.weight)
        x = torch.cat((first, said, *asked))
        place = torch.cat((torch.zeros_like(first), said, torch.zeros_like(torch.cat(asked))))
        return x.expand(batch, -1, -1), place.expand(batch, -1, -1)

    def posed(self, token: Tensor) -> dict[str, Tensor]:
        """A person of the pose token (B, D): pose (B, 519), camera (B, 3), vertices, keypoints; and their places."""
        person = self.head_pose(token, self.init_pose.weight)
        camera = self.head_camera.proj(token) + self.init_camera.weight
        place, depth = self.head_camera.projected(camera, person.keypoints, self.view)
        said = {"pose": person.pose, "vertices": person.vertices, "keypoints": person.keypoints}
        return {**said, "camera": camera, "place": place, "depth": depth}

    def looked(self, x: Tensor, place: Tensor, said: Mapping[str, Tensor], grid: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and their places, after keypoints were looked up in the grid."""
        seen = Projected(said["place"], said["depth"])
        wide = seen.place.new_tensor((2 * self.view.side / self.view.columns, 2))
        features = F.grid_sample(grid, (seen.place * wide)[:, :, None], align_corners=False)[..., 0].transpose(1, 2)
        keypoints = said["keypoints"]
        space = self.keypoint3d_posemb_linear(keypoints - keypoints[:, HIPS].mean(1, keepdim=True))
        found = self.keypoint_feat_linear(features * seen.visible)
        x = torch.cat((x[:, : POINTS.start], x[:, POINTS] + found, x[:, SPACE]), 1)
        return x, torch.cat(
            (place[:, : POINTS.start], self.keypoint_posemb_linear(seen.place) * seen.visible, space), 1
        )


class SAM3DBody(Adapter):
    """The released model with DINOv3-H+: 70 keypoints of a body from its hips; `hand`: 21 of a right hand."""

    size, blocks, head_needs, licence = (512, 512), "backbone.encoder.blocks", "grid", "SAM"
    stacks: ClassVar[Mapping[str, str]] = {"decoder": "decoder.layers"}
    checkpoint: ClassVar[str] = "model.ckpt"
    hand: ClassVar[bool] = False  # the hand decoder, for pictures of right hands, left ones mirrored
    # of the released model_config.yaml; shapes do not tell them
    backbone_heads: ClassVar[int] = 20
    heads: ClassVar[int] = 8
    hand_scale: ClassVar[float] = 10.0

    def rig(self) -> Rig:
        """MHR, as `hmr.published.parts.mhr.rig` imports it."""
        return rig()

    def backbone(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The backbone of a file's sizes."""
        hidden, dim = state["backbone.encoder.blocks.0.mlp.w1.weight"].shape
        depth = count(state, "backbone.encoder.blocks")
        return Encoder(DINOv3(dim, depth, self.backbone_heads, hidden))

    def sizes(self, state: Mapping[str, Tensor]) -> PromptSizes:
        """Those of a file's decoder."""
        dim, context = state["keypoint_feat_linear.weight"].shape
        depth, hidden = count(state, "decoder.layers"), state["decoder.layers.0.ffn.layers.1.weight"].shape[1]
        width = state["decoder.layers.0.self_attn.proj.weight"].shape[1] // self.heads
        return PromptSizes(dim, context, depth, self.heads, width, hidden)

    def load(self) -> SAM3DBodyNetwork:
        """Raises BadInput where there are no weights, or no MHR."""
        source = checkpoint(self.checkpoint, "https://huggingface.co/facebook/sam-3d-body-dinov3")
        state = of_decoder(state_of(source, "init_to_token_mhr.weight"), self.hand)
        network = SAM3DBodyNetwork(
            self.backbone(state),
            self.rig(),
            WholePicture(self.size[0], self.size[1]),
            self.sizes(state),
            self.hand_scale if self.hand else None,
            state["head_pose.keypoint_mapping"].shape[1],
        )
        return filled(network, state, source.path, UNUSED)

    def crops(self, frame: NDArray[np.uint8], box: Corners) -> NDArray[np.uint8]:
        """A square around the box, a quarter larger than that for a body and a tenth smaller for a hand."""
        left, top, right, bottom = box
        side = Box(factor=0.9 if self.hand else 1.25).side(right - left, bottom - top)
        return cut(frame, ((left + right) / 2, (top + bottom) / 2), side, self.size)

    def read(self, model: Any, tokens: Tokens) -> dict[str, Tensor]:
        person: dict[str, Tensor] = model.read(tokens.to_grid())
        return person

    def joints(self, outputs: Any) -> Tensor:
        """Of a body the middle of its hips and 70 keypoints; of a hand 21, its wrist first."""
        keypoints: Tensor = outputs["keypoints"]
        if self.hand:
            return torch.cat((keypoints[:, 41:42], keypoints[:, 21:41]), 1)
        return torch.cat((keypoints[:, HIPS].mean(1, keepdim=True), keypoints), 1)


def of_decoder(state: Mapping[str, Tensor], hand: bool) -> dict[str, Tensor]:
    """The weights of one of both decoders and of what they share, under the body's keys."""
    found = {key: value for key, value in state.items() if key.startswith(SHARED)}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        if part.endswith("_hand") == hand and not key.startswith((*SHARED, "hand_pe_layer.")):
            found[f"{part.removesuffix('_hand')}.{rest}"] = value
    waves = "hand_pe_layer" if hand else "prompt_encoder.pe_layer"
    name = "positional_encoding_gaussian_matrix"
    return found | {f"grid_waves.{name}": state[f"{waves}.{name}"]}
