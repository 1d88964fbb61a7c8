"""The SMPL head of HMR2.0: one query token reads the image tokens and becomes pose, shape and camera.

Class structure and state_dict keys are 4D-Humans' (`smpl_head.*`), including the numbers that its dropouts leave out.
"""

from __future__ import annotations

from dataclasses import dataclass

import roma
import torch
from torch import Tensor, nn

from hmr.models.sizes import Sizes
from hmr.models.vit import attention

JOINTS = 24
BETAS, CAMERA = 10, 3


@dataclass(frozen=True)
class HMROutput:
    """What every HMR model returns; rotations are those of SMPL's joints, the root in camera axes (x right, y down)."""

    global_orient: Tensor  # (B, 1, 3, 3)
    body_pose: Tensor  # (B, 23, 3, 3); of a hand (B, 15, 3, 3)
    betas: Tensor  # (B, 10)
    camera: Tensor  # (B, 3) weak perspective (s, tx, ty)
    features: Tensor  # (B, D) query token after its last layer, before the linear heads

    @property
    def rotations(self) -> Tensor:
        """(B, 24, 3, 3), of a hand (B, 16, 3, 3), as BodyModel takes them."""
        return torch.cat((self.global_orient, self.body_pose), 1)


def rotations_from_6d(pose: Tensor) -> Tensor:
    """pose (..., 6) = two 3-vectors -> rotations (..., 3, 3), whose *columns* are the orthonormalised vectors.

    Zhou et al., On the Continuity of Rotation Representations (2019), in the column convention of 4D-Humans.
    """
    vectors = pose.unflatten(-1, (2, 3)).transpose(-1, -2)  # (..., 3, 2): one vector per column
    return roma.special_gramschmidt(vectors, epsilon=1e-8)


def sixd_from_rotations(rotations: Tensor) -> Tensor:
    """rotations (..., 3, 3) -> the first two columns, one after the other (..., 6)."""
    return rotations[..., :2].transpose(-1, -2).flatten(-2)


class SelfAttention(nn.Module):
    """Attention among the query tokens (B, Q, D); with one query it is a linear map, kept because its weights exist."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (_split(t, self.heads) for t in self.to_qkv(x).chunk(3, -1))
        return self.to_out(attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention of query tokens (B, Q, D) over image tokens (B, N, C)."""

    def __init__(self, dim: int, context_dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_kv = nn.Linear(context_dim, 2 * heads * dim_head, bias=False)
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        k, v = (_split(t, self.heads) for t in self.to_kv(context).chunk(2, -1))
        return self.to_out(attention(_split(self.to_q(x), self.heads), k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """The MLP of a decoder layer."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        # The identities stand where 4D-Humans has dropout (of share 0), so that keys `net.0` and `net.3` agree.
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.net(x)


class PreNorm(nn.Module):
    """fn(norm(x), context)."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.fn(self.norm(x), context)


class DecoderLayer(nn.ModuleList):
    """Self-attention, cross-attention and MLP, each with a residual."""

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        for part in self:
            x = x + part(x, context)
        return x


class CrossTransformer(nn.Module):
    """Layers one after the other; there is no final norm."""

    def __init__(self, dim: int, context_dim: int, depth: int, heads: int, dim_head: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(
                PreNorm(dim, fn)
                for fn in (
                    SelfAttention(dim, heads, dim_head),
                    CrossAttention(dim, context_dim, heads, dim_head),
                    FeedForward(dim, mlp_dim),
                )
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, context)
        return x


class TransformerDecoder(nn.Module):
    """Query inputs (B, Q, T) and image tokens (B, N, C) -> query tokens (B, Q, D)."""

    def __init__(
        self, token_dim: int, dim: int, context_dim: int, depth: int, heads: int, dim_head: int, mlp_dim: int
    ) -> None:
        super().__init__()
        self.to_token_embedding = nn.Linear(token_dim, dim)
        self.pos_embedding = nn.Parameter(torch.zeros(1, 1, dim))
        self.transformer = CrossTransformer(dim, context_dim, depth, heads, dim_head, mlp_dim)
        nn.init.trunc_normal_(self.pos_embedding, std=0.02)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        return self.transformer(self.to_token_embedding(queries) + self.pos_embedding, context)


class SMPLHead(nn.Module):
    """Image tokens (B, N, C), in any order and number -> HMROutput.

    With `token_dim` 1 the query starts from a zero; with 157 from the mean pose, betas and camera. Each of the
    `iterations` adds its update to the estimate, which starts from the init buffers. Heads of other families override
    what they do otherwise: the query, the update, or the way from 6D to rotations.
    """

    joints = JOINTS
    pose_buffer = "init_body_pose"
    init_body_pose: Tensor  # (1, 144)
    init_betas: Tensor  # (1, 10)
    init_cam: Tensor  # (1, 3)

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.token_dim, self.iterations = sizes.token_dim, sizes.iterations
        self.transformer = TransformerDecoder(
            sizes.token_dim,
            sizes.head_dim,
            sizes.dim,
            sizes.head_depth,
            sizes.head_heads,
            sizes.head_dim_head,
            sizes.head_mlp_dim,
        )
        self.decpose = self.pose_decoder(sizes)
        self.decshape, self.deccam = (small(nn.Linear(sizes.head_dim, n)) for n in (BETAS, CAMERA))
        self.register_buffer(self.pose_buffer, sixd_from_rotations(torch.eye(3)).repeat(self.joints)[None])
        self.register_buffer("init_betas", torch.zeros(1, BETAS))
        self.register_buffer("init_cam", torch.tensor([[0.9, 0.0, 0.0]]))  # a person who fills 90 % of the crop

    def pose_decoder(self, sizes: Sizes) -> nn.Module:
        """What reads the pose, or most of it, off the query token."""
        return small(nn.Linear(sizes.head_dim, 6 * self.joints))

    def query(self, estimate: Tensor, condition: Tensor | None) -> Tensor:
        """What the query token is embedded from (B, token_dim)."""
        return estimate.new_zeros(estimate.shape[0], 1) if self.token_dim == 1 else estimate

    def pose_update(self, features: Tensor) -> Tensor:
        """Query token (B, D) -> what it adds to the pose (B, joints * 6)."""
        return self.decpose(features)

    def rotations(self, pose: Tensor) -> Tensor:
        """pose (..., 6) -> rotations (..., 3, 3)."""
        return rotations_from_6d(pose)

    def forward(self, tokens: Tensor, condition: Tensor | None = None) -> HMROutput:
        mean = torch.cat((self.get_buffer(self.pose_buffer), self.init_betas, self.init_cam), 1)  # (1, joints * 6 + 13)
        estimate = mean.expand(tokens.shape[0], -1)
        for _ in range(self.iterations):
            query = self.query(estimate, condition)
            features = self.transformer(query[:, None].to(tokens.dtype), tokens)[:, 0]  # (B, D)
            updates = (self.pose_update(features), self.decshape(features), self.deccam(features))
            estimate = estimate + torch.cat([update.float() for update in updates], 1)
        pose, betas, camera = estimate.split((6 * self.joints, BETAS, CAMERA), 1)
        rotations = self.rotations(pose.unflatten(1, (self.joints, 6)))
        return HMROutput(rotations[:, :1], rotations[:, 1:], betas, camera, features)


def small(linear: nn.Linear) -> nn.Linear:
    """A linear layer that starts near zero, so that a new model starts at the mean, as 4D-Humans."""
    nn.init.xavier_uniform_(linear.weight, gain=0.01)
    nn.init.zeros_(linear.bias)
    return linear


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, N, H * d) -> (B, H, N, d)
