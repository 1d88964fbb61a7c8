"""An adapter as its user writes it: a small network of `tests.networks` with a head for five joints."""

FILE = '''
import torch
from torch import nn

import hmr
from tests.known_network import CROP
from tests.networks import DIM, Timm


class Pose(nn.Module):
    """Crops (B, 3, 32, 24), normalised with 0.5, -> places of five joints (B, 15)."""

    def __init__(self):
        super().__init__()
        self.vit, self.head = Timm(), nn.Linear(DIM, 15)

    def forward(self, crops):
        return self.head(self.vit(crops)[:, 0])


class Mine(hmr.Adapter):
    size, blocks, licence = CROP, "vit.blocks", "MIT"
    mean = std = (0.5, 0.5, 0.5)

    def load(self):
        torch.manual_seed(0)
        return Pose()

    def forward(self, model, crops, masks):
        return {"pose": model(crops)}

    def read(self, model, tokens):
        return {"pose": model.head(tokens.x[:, 0])}

    def joints(self, outputs):
        return outputs["pose"].unflatten(1, (5, 3))
'''
