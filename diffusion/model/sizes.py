"""The numbers that decide the shapes of the motion VAE and the denoiser, by name."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from compress.errors import BadInput
from compress.policy import FrozenModel
from diffusion.model.representation import WIDTHS, Representation


class DecoderSizes(FrozenModel):
    """One size of motion VAE and denoiser; the defaults are the paper's (FastHMR, Tab. 13, 14).

    NOTE: the paper gives its VAE nine layers, and what runs behind the encoder of pictures 29.5 M parameters and 6.8 G
    MACs a clip. Both come out, within 3 %, with nine layers in the half of the VAE that encodes, which does not run
    there, and five in the half that decodes; nine in that half are 44.0 M and 9.7 G.
    """

    representation: Representation = "hybrik"
    frames: int = Field(243, ge=3)  # of a clip
    stride: int = Field(1, ge=1)  # frames that the VAE takes as one token
    tokens: int = Field(27, ge=1)  # that a clip's latent has
    dim: int = Field(512, ge=8)  # of all tokens, the latent's too
    encoder_layers: int = Field(9, ge=1)
    decoder_layers: int = Field(5, ge=1)
    denoiser_layers: int = Field(5, ge=1)
    heads: int = Field(4, ge=1)
    hidden: int = Field(1024, ge=1)  # of the MLPs
    dropout: float = Field(0.1, ge=0, lt=1)
    denoiser_dropout: float = Field(0.001, ge=0, lt=1)
    calm: float = Field(0.0, ge=0, le=10)  # deviation, in frames, of the Gaussian that smooths what is decoded
    features: int = Field(1024 + 133, ge=1)  # of a frame, from the encoder of pictures, and its own pose

    @property
    def width(self) -> int:
        """Numbers of a frame."""
        return WIDTHS[self.representation]

    @model_validator(mode="after")
    def _whole(self) -> DecoderSizes:
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} does not divide into {self.heads} heads of even width")
        if self.frames % self.stride:
            raise ValueError(f"{self.frames} frames do not divide into tokens of {self.stride}")
        if not all(n % 2 for n in (self.encoder_layers, self.decoder_layers, self.denoiser_layers)):
            raise ValueError("long skips join layers in pairs around one in the middle: numbers of layers are odd")
        return self


SIZES: dict[str, DecoderSizes] = {
    "paper": DecoderSizes(),
    # What trains on two cores: a third of the frames, three of them a token of the VAE, and less than half the width.
    "reference": DecoderSizes(
        frames=81,
        stride=3,
        dim=192,
        encoder_layers=5,
        decoder_layers=5,
        denoiser_layers=5,
        hidden=384,
        dropout=0.0,  # an hour's training does not learn by heart
        denoiser_dropout=0.3,  # but a thousand videos are learned by heart in minutes
        calm=1.0,  # tokens of three frames err apart from their neighbours: a third less acceleration error
        features=192 + 133,
    ),
}


def sizes_of(name: str, **other: Any) -> DecoderSizes:
    """The sizes called `name`, with `other` in their place; raises BadInput where there are none."""
    if name not in SIZES:
        raise BadInput(f"no decoder is of size {name!r}: choose one of {', '.join(SIZES)}")
    return DecoderSizes(**{**SIZES[name].model_dump(), **other})
