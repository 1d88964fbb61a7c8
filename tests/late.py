"""A network of somebody else's with a decoder behind its image encoder, and what its errors are judged by."""

# nn.Module hides what it has, and the blocks here are written as their authors write them, without types
# mypy: disable-error-code="operator,union-attr,arg-type,override,index"

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from compress.policy import Policy
from compress.tokens import Tokens
from hmr.models.own_model import OwnModel
from tests.known_network import CROP
from tests.networks import DIM, FAMILIES, MLP, Timm
from tests.planning import context

QUERIES, LAYERS = 3, 4
images, masks = FAMILIES["timm"].images, FAMILIES["timm"].masks


class Reading(nn.Module):
    """Attention of queries over a context, as SAM 3D Body's authors name its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.embed_dims = 4, 16
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(DIM, 16) for _ in range(3))
        self.proj = nn.Linear(16, DIM)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            layer(t).reshape(len(t), -1, self.num_heads, 4).transpose(1, 2)
            for layer, t in ((self.q_proj, x), (self.k_proj, context), (self.v_proj, context))
        )
        seen = (q @ k.mT / math.sqrt(4)).softmax(-1) @ v
        return self.proj(seen.transpose(1, 2).reshape(len(x), -1, self.embed_dims))


class Fixed(Reading):
    """Its heads have 16 features together, however many there are."""

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        self.embed_dims = 16
        return super().forward(x, context)


class Layer(nn.Module):
    """Gives the context back beside its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.cross_attn, self.ffn = Reading(), Reading(), MLP()
        self.ln1, self.ln2, self.ln3 = (nn.LayerNorm(DIM) for _ in range(3))

    def forward(self, token_embedding: Tensor, image_embedding: Tensor) -> tuple[Tensor, Tensor]:
        x = self.ln1(token_embedding)
        x = token_embedding + self.self_attn(x, x)
        x = x + self.cross_attn(self.ln2(x), image_embedding)
        return x + self.ffn(self.ln3(x)), image_embedding


class Body(nn.Module):
    """Timm's network, and queries that read it."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.layers = Timm(), nn.ModuleList(Layer() for _ in range(LAYERS))
        self.queries, self.out = nn.Parameter(torch.randn(1, QUERIES, DIM)), nn.Linear(DIM, 5)

    def decode(self, image: Tensor) -> Tensor:
        x = self.queries.expand(len(image), -1, -1)
        for layer in self.layers:
            x, image = layer(token_embedding=x, image_embedding=image)
        return self.out(x)

    def forward(self, crop: Tensor) -> Tensor:
        return self.decode(self.vit(crop))


def own() -> OwnModel:
    torch.manual_seed(0)
    stacks = {"decoder": "layers"}
    return OwnModel(Body(), lambda own, tokens: own.decode(tokens.x), CROP, blocks="vit.blocks", stacks=stacks).eval()


class Apart:
    """A judge: how far an output is from the original's, in mm."""

    masks = None

    def __init__(self, model: Any) -> None:
        self.model, self.crops = model, [images(3), images(2)]
        with torch.no_grad():
            self.wanted = [model(crop) for crop in self.crops]

    def errors(self, index: int, tokens: Tokens, model: Any = None) -> Tensor:
        said = (model or self.model).read(tokens)
        return 1000 * (said - self.wanted[index]).flatten(1).norm(dim=1)


def made(*steps: Policy) -> tuple[OwnModel, list[Any]]:
    model = own()
    shared = context(copy.deepcopy(model), Apart(copy.deepcopy(model)))
    for step in steps:
        plan = step.plan(model, shared)
        model = plan.apply(model, shared)
        shared.plans.append(plan)
    return model, shared.plans
