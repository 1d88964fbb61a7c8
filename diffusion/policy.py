"""The policy `diffusion_decoder`: a clip of motion is decoded from the model's features, in its pose head's place."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from pydantic import Field, PrivateAttr
from torch import nn

from compress.errors import BadInput
from compress.judge import Judge
from compress.policies.recover import fingerprint
from compress.policy import Compressible, MadeFor, Plan, Policy
from diffusion.model.decoder import LatentDiffusionDecoder, Predictor, facts_of, load_decoder
from diffusion.model.schedule import Objective
from diffusion.model.sizes import Sizes
from diffusion.model.weights import digest
from hmr.models.head import JOINTS
from hmr.models.model import HMRModel

NAME = "decoder"  # of the module in a model


class DiffusionDecoder(Policy):
    """Decode motion with `weights`, which `fasthmr train decoder` made for this very encoder."""

    stage: ClassVar[int] = 4

    policy: Literal["diffusion_decoder"] = "diffusion_decoder"
    weights: str = Field(min_length=1, description="the file that `fasthmr train decoder` wrote, or a shipped name")
    steps: int = Field(1, ge=1, le=1000, description="denoising steps; one is the paper's")
    seed: int = Field(0, ge=0, lt=1 << 63, description="of the noise that decoding starts from")

    def check(self, model: Compressible) -> None:
        """Raises BadInput for a model of another body than SMPL's, as HaMeR's hand."""
        refuse_other_bodies(model)

    def plan(self, model: Compressible, judge: Judge | None = None) -> DecoderPlan:
        """The decoder of the file; raises BadInput where it is none, or was trained on another encoder's features."""
        plan, decoder = self.read(model)
        decoder.refuse_other(encoder_id(model))
        plan._decoder = decoder
        return plan

    def read(self, model: Compressible) -> tuple[DecoderPlan, LatentDiffusionDecoder]:
        """The decoder of the file, whichever encoder it knows: what it costs is the same for all of one width. Raises
        BadInput where it is none."""
        self.check(model)
        path = weights_at(self.weights)
        decoder = load_decoder(path, steps=self.steps, seed=self.seed)
        plan = DecoderPlan(
            made_for=MadeFor.of(model),
            sizes=decoder.sizes,
            weights=digest(path),
            steps=self.steps,
            seed=self.seed,
            **facts_of(decoder),
        )
        return plan, decoder


def weights_at(name: str) -> Path:
    """The file that a recipe names: weights that ship, by their name, or any other by its path."""
    shipped = Path(str(files("diffusion").joinpath("assets", f"{name}.safetensors")))
    return shipped if name == Path(name).name and shipped.is_file() else Path(name)


class DecoderPlan(Plan):
    """Which decoder a model has: its sizes, whose features it knows, the hash of the file that it came from."""

    noun: ClassVar[str] = "the decoder"
    remedy: ClassVar[str] = "train one for this model with `fasthmr train decoder`"

    policy: Literal["diffusion_decoder"] = "diffusion_decoder"
    sizes: Sizes
    predictor: Predictor
    objective: Objective
    encoder: str
    weights: str  # sha256
    steps: int = Field(ge=1)
    seed: int = Field(ge=0)
    _decoder: LatentDiffusionDecoder | None = PrivateAttr(None)

    @property
    def empty(self) -> bool:
        return False

    def shape(self, model: Compressible) -> None:
        """Raises as `check`."""
        self.check(model)
        put(
            model,
            LatentDiffusionDecoder(
                self.sizes, self.predictor, self.objective, encoder=self.encoder, steps=self.steps, seed=self.seed
            ),
        )

    def apply(self, model: Compressible) -> None:
        """Raises as `check`, and BadInput where the plan came back without the weights it was made with."""
        self.check(model)
        if self._decoder is None:
            raise BadInput("a decoder does not follow from its plan: load the artefact with the weights")
        put(model, self._decoder)

    def verify(self, model: Compressible) -> None:
        """Raises BadInput where the weights that came back are another encoder's (law 12)."""
        cast(LatentDiffusionDecoder, decoder_in(cast(nn.Module, model))).refuse_other(encoder_id(model))


def put(model: Compressible, decoder: LatentDiffusionDecoder) -> None:
    """Make `decoder` the model's."""
    module = cast(nn.Module, model)
    module.add_module(NAME, decoder.to(next(module.parameters()).device).eval())


def decoder_in(model: nn.Module) -> LatentDiffusionDecoder | None:
    """The decoder of a model that has one."""
    return cast(LatentDiffusionDecoder | None, getattr(model, NAME, None))


def refuse_other_bodies(model: Compressible) -> None:
    """Raise BadInput where a model's pose is not that of SMPL's 24 joints."""
    joints = cast(HMRModel, model).head.joints
    if joints != JOINTS:
        raise BadInput(f"the motion decoder knows SMPL bodies of {JOINTS} joints, and this model has {joints}: a hand?")


def encoder_id(model: Compressible) -> str:
    """What tells one encoder from all others: sha256 of weights, token schedule and mask threshold, decoder apart."""
    modules = cast(nn.Module, model)._modules
    decoder = modules.pop(NAME, None)
    try:
        return fingerprint(cast(Any, model))
    finally:
        if decoder is not None:
            modules[NAME] = decoder
