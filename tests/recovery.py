"""A tiny model, what compression leaves of it, and crops that it recovers on."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compress.context import Context
from compress.distillation.training import distil
from compress.policies.merge_layers import MergeLayers
from compress.policies.recover import Recover
from hmr.body.files import load_body
from hmr.models.model import HMRModel, build
from hmr.training.distance import distance
from tests import sizes
from tests.planning import applied, planned

SIZES = {**sizes.TINY, "depth": 4, "head_mlp_dim": 24}
DISTANCE = partial(distance, load_body("open"))


class Noise:
    """Crops of smooth noise, and a box as mask."""

    distance = staticmethod(DISTANCE)

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Any) -> tuple[Tensor, Tensor]:
        generators = [torch.Generator().manual_seed(i) for i in indices]
        coarse = torch.stack([torch.randn(3, 8, 6, generator=generator) for generator in generators])
        masks = torch.zeros(len(generators), 256, 192)
        for i, index in enumerate(indices):
            masks[i, 60 + index : 200, 50:140] = 1
        return torch.nn.functional.interpolate(coarse, scale_factor=32), masks

    def provenance(self) -> dict[str, Any]:
        return {}


CROPS = Noise(12)


def original(seed: int = 0) -> HMRModel:
    """A tiny random model whose blocks and head say something."""
    torch.manual_seed(seed)
    model = build("hmr2", SIZES).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and ("blocks" in name or "dec" in name):
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def compressed(teacher: HMRModel, *steps: Any) -> HMRModel:
    student = copy.deepcopy(teacher)
    for step in steps or (MergeLayers(strategy="explicit", windows=((1, 2),)),):
        applied(planned(step, student), student)
    return student


def recovered(student, teacher, folder, steps=4, **more):
    plan = recovery(student, teacher, steps=steps, lr=1e-3, batch=4)
    return distil(plan, student, teacher, CROPS, folder, **more)


def recovery(student: HMRModel, teacher: HMRModel, **asked: Any) -> Any:
    """The plan of a training."""
    return Recover(**asked).plan(student, Context(teacher))


def outputs(model: HMRModel) -> Tensor:
    crop, mask = CROPS.read(range(3))
    with torch.no_grad():
        said = model(crop, mask)
    return torch.cat([said.rotations.flatten(1), said.betas, said.camera, said.features], 1)
