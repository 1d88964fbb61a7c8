"""TokenHMR (Dwivedi et al. 2024): HMR2.0's network whose 21 body joints come out of a pose codebook.

The query token becomes 160 places, a mixer decides which of 2048 codes stands at each, and the convolutional decoder
of the tokenizer, which has a file of its own, turns the mean codes into 21 joints in 6D. Wrist ends and the root are
read off directly.
"""

from __future__ import annotations

import re
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from hmr.models.families.family import Family, SeparatePart, Shapes
from hmr.models.head import SMPLHead, rotations_from_6d, small
from hmr.models.sizes import Sizes

MIXER = "smpl_head.decpose."
TOKENIZER = f"{MIXER}tokenizer."
DECODER = f"{TOKENIZER}decoder.decoder."
BODY, HANDS = 21, 2  # joints out of the codebook, and those after them


class TokenSizes(Sizes):
    """Sizes of a TokenHMR model and of its tokenizer's decoder."""

    places: int = Field(160, ge=BODY)  # where codes stand
    hidden: int = Field(64, ge=1)
    mixers: int = Field(4, ge=0, le=1000)
    place_mlp: int = Field(64, ge=1)
    channel_mlp: int = Field(256, ge=1)
    codes: int = Field(2048, ge=1)
    code_dim: int = Field(256, ge=1)
    decoder_dim: int = Field(512, ge=1)
    decoder_steps: int = Field(4, ge=1, le=1000)  # from `places` down to 21 joints
    decoder_depth: int = Field(2, ge=1, le=1000)
    dilation: int = Field(3, ge=1)


class Unit(nn.Module):
    """Linear layer, LayerNorm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.ff = nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.ff(x)


class MixerMLP(nn.Module):
    """Two linear layers with an exact GELU; indices count the dropouts of the original."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.ff = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.ff(x)


class Mixer(nn.Module):
    """One layer over places, then over channels, of x (B, places, hidden)."""

    def __init__(self, sizes: TokenSizes) -> None:
        super().__init__()
        self.layernorm1 = nn.LayerNorm(sizes.hidden)
        self.MLP_token = MixerMLP(sizes.places, sizes.place_mlp)
        self.layernorm2 = nn.LayerNorm(sizes.hidden)
        self.MLP_channel = MixerMLP(sizes.hidden, sizes.channel_mlp)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.MLP_token(self.layernorm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.MLP_channel(self.layernorm2(x))


class ResidualConv1d(nn.Module):
    """A dilated and a plain convolution, each after a ReLU, around a shortcut."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x.relu()).relu())


class Residuals(nn.Module):
    """Residual convolutions in a row, the widest dilation first."""

    def __init__(self, channels: int, depth: int, dilation: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(ResidualConv1d(channels, dilation**i) for i in reversed(range(depth))))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Codebook(nn.Module):
    """Shares of each code (B, places, codes) -> mean codes (B, places, code_dim)."""

    codebook: Tensor

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("codebook", torch.randn(codes, dim))

    def forward(self, shares: Tensor) -> Tensor:
        return shares @ self.codebook


class PoseDecoder(nn.Module):
    """Codes (B, code_dim, places) -> joints (B, 6, 21)."""

    def __init__(self, sizes: TokenSizes) -> None:
        super().__init__()
        dim = sizes.decoder_dim
        lengths = [BODY + i * (sizes.places - BODY) // sizes.decoder_steps for i in range(sizes.decoder_steps)]
        layers: list[nn.Module] = [nn.Conv1d(sizes.code_dim, dim, 3, padding=1), nn.ReLU()]
        for length in reversed(lengths):
            layers += [nn.Upsample(length), nn.Conv1d(dim, dim, 3, padding=1), nn.ReLU()]
        residuals = Residuals(dim, sizes.decoder_depth, sizes.dilation)
        layers += [nn.Sequential(residuals, nn.Conv1d(dim, dim, 3, padding=1)), nn.Conv1d(dim, 6, 3, padding=1)]
        self.decoder = nn.Sequential(*layers)

    def forward(self, codes: Tensor) -> Tensor:
        return self.decoder(codes)


class Tokenizer(nn.Module):
    """The half of the pose tokenizer that is needed: shares of codes (B, places, codes) -> joints (B, 21, 6)."""

    def __init__(self, sizes: TokenSizes) -> None:
        super().__init__()
        self.decoder = PoseDecoder(sizes)
        self.quantizer = Codebook(sizes.codes, sizes.code_dim)

    def forward(self, shares: Tensor) -> Tensor:
        return self.decoder(self.quantizer(shares).transpose(1, 2)).transpose(1, 2)


class TokenClassifier(nn.Module):
    """Query token (B, D) -> pose of the body (B, 126)."""

    def __init__(self, sizes: TokenSizes) -> None:
        super().__init__()
        self.places = sizes.places
        self.mixer_trans = Unit(sizes.head_dim, sizes.places * sizes.hidden)
        self.mixer_head = nn.ModuleList(Mixer(sizes) for _ in range(sizes.mixers))
        self.mixer_norm_layer = Unit(sizes.hidden, sizes.hidden)
        self.class_pred_layer = nn.Linear(sizes.hidden, sizes.codes)
        self.tokenizer = Tokenizer(sizes)

    def forward(self, features: Tensor) -> Tensor:
        x = self.mixer_trans(features).unflatten(1, (self.places, -1))  # (B, places, hidden)
        for layer in self.mixer_head:
            x = layer(x)
        shares = self.class_pred_layer(self.mixer_norm_layer(x)).softmax(-1)  # (B, places, codes)
        return self.tokenizer(shares).flatten(1)


class TokenHead(SMPLHead):
    """SMPLHead whose body pose comes out of a codebook, and whose 6D vectors are *rows*."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.decpose_grot = small(nn.Linear(sizes.head_dim, 6))
        self.decpose_hands = small(nn.Linear(sizes.head_dim, 6 * HANDS))

    def pose_decoder(self, sizes: Sizes) -> nn.Module:
        return TokenClassifier(cast(TokenSizes, sizes))

    def pose_update(self, features: Tensor) -> Tensor:
        return torch.cat((self.decpose_grot(features), self.decpose(features), self.decpose_hands(features)), 1)

    def rotations(self, pose: Tensor) -> Tensor:
        return rotations_from_6d(pose).mT


def _sizes_from(shapes: Shapes) -> dict[str, int]:
    """The sizes of the mixer, and of the tokenizer if it is there, from keys and shapes; KeyError without a mixer."""
    hidden = shapes[f"{MIXER}class_pred_layer.weight"][1]
    found = {
        "hidden": hidden,
        "places": shapes[f"{MIXER}mixer_trans.ff.0.weight"][0] // hidden,
        "codes": shapes[f"{MIXER}class_pred_layer.weight"][0],
        "mixers": sum(key.startswith(f"{MIXER}mixer_head.") and key.endswith("layernorm1.weight") for key in shapes),
    }
    if found["mixers"]:
        found["place_mlp"] = shapes[f"{MIXER}mixer_head.0.MLP_token.ff.0.weight"][0]
        found["channel_mlp"] = shapes[f"{MIXER}mixer_head.0.MLP_channel.ff.0.weight"][0]
    decoder = [key.removeprefix(DECODER) for key in shapes if key.startswith(DECODER)]
    if decoder:
        found["decoder_dim"], found["code_dim"] = shapes[f"{DECODER}0.weight"][:2]
        found["decoder_steps"] = sum(bool(re.fullmatch(r"\d+\.weight", key)) for key in decoder) - 2
        found["decoder_depth"] = sum(key.endswith(".conv1.weight") for key in decoder)
    return found


FAMILY = Family(
    name="tokenhmr",
    mark="smpl_head.decpose_grot.weight",
    licence="MPI non-commercial",
    head=TokenHead,
    sizes=TokenSizes,
    parts=(
        SeparatePart(
            TOKENIZER,
            "tokenizer",
            "quantizer.codebook",
            keys=("decoder.decoder.", "quantizer.codebook"),
            needed="its body pose is decoded by a tokenizer",
        ),
    ),
    sizes_from=_sizes_from,
)
