"""The policy `diffusion_decoder`: a clip of motion is decoded from the model's features, in its pose head's place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from compress.context import Context
from compress.errors import BadInput
from compress.files.weights import digest
from compress.policy import Compressible, MadeFor, Plan, Policy
from diffusion.decoded import DecodedModel, encoder_id
from diffusion.model.decoder import LatentDiffusionDecoder, Predictor, facts_of, load_decoder
from diffusion.model.representation import WIDTH
from diffusion.model.schedule import Objective
from diffusion.model.sizes import DecoderSizes
from hmr.models.head import JOINTS


class DiffusionDecoder(Policy):
    """Decode motion with `weights`, which `fasthmr train decoder` made for this very encoder."""

    stage: ClassVar[int] = 4
    model_specific: ClassVar[bool] = True

    policy: Literal["diffusion_decoder"] = "diffusion_decoder"
    weights: str = Field(min_length=1, description="the file that `fasthmr train decoder` wrote")
    steps: int = Field(1, ge=1, le=1000, description="denoising steps; one is the paper's")
    seed: int = Field(0, ge=0, lt=1 << 63, description="of the noise that decoding starts from")

    def check(self, model: Compressible) -> None:
        """Raises BadInput for a model of another body than SMPL's, as HaMeR's hand."""
        refuse_other_bodies(model)

    def plan(self, model: Any, context: Context) -> DecoderPlan:
        """The decoder of the file, whose weights go to `context.weights`.

        Raises BadInput where the file holds none, or one that was trained on another encoder's features; a model
        without weights, whose cost alone is asked for, takes any decoder of the right width.
        """
        self.check(model)
        path = Path(self.weights)
        if not path.is_file():
            raise BadInput(
                f"diffusion_decoder: weights: {path}: there is no such file; a decoder belongs to one encoder: "
                "compress it, train one with `fasthmr train decoder --model FOLDER --out RUN`, and name "
                "RUN/decoder.safetensors"
            )
        decoder = load_decoder(path, steps=self.steps, seed=self.seed)
        if model.is_meta:
            refuse_other_width(decoder, model, self.weights)
        else:
            decoder.refuse_other(encoder_id(model))
        weights = digest(path)
        context.weights[weights] = decoder.state_dict()
        return DecoderPlan(
            made_for=MadeFor.of(model),
            sizes=decoder.sizes,
            weights=weights,
            steps=self.steps,
            seed=self.seed,
            **facts_of(decoder),
        )


class DecoderPlan(Plan):
    """Which decoder a model has: its sizes, whose features it knows, the hash of the file that it came from."""

    noun: ClassVar[str] = "the decoder"
    remedy: ClassVar[str] = "train one for this model with `fasthmr train decoder`"

    policy: Literal["diffusion_decoder"] = "diffusion_decoder"
    sizes: DecoderSizes
    predictor: Predictor
    objective: Objective
    encoder: str
    weights: str  # sha256
    steps: int = Field(ge=1)
    seed: int = Field(ge=0)

    @property
    def empty(self) -> bool:
        return False

    def describe(self) -> str:
        steps = f"{self.steps} step" + "s" * (self.steps > 1)
        how = f"diffusion in {steps}" if self.predictor == "diffusion" else "a regressor"
        return f"Clips of {self.sizes.frames} frames are decoded by {how}, in the place of the pose head."

    def shape(self, model: Any) -> DecodedModel:
        """`model` with a decoder of any weights behind it. Raises as `check`."""
        self.check(model)
        facts: dict[str, Any] = {"encoder": self.encoder, "steps": self.steps, "seed": self.seed}
        return DecodedModel(model, LatentDiffusionDecoder(self.sizes, self.predictor, self.objective, **facts))

    def apply(self, model: Any, context: Context) -> DecodedModel:
        """Raises as `check`, and BadInput where nobody has the weights that the plan names."""
        made = self.shape(model)
        if self.weights not in context.weights:
            raise BadInput("a decoder does not follow from its plan: load the artefact with the weights")
        made.decoder.load_state_dict(context.weights[self.weights])
        return made

    def verify(self, model: Any) -> None:
        """Raises BadInput where the loaded weights are another encoder's."""
        model.decoder.refuse_other(encoder_id(model.encoder))


DiffusionDecoder.makes = DecoderPlan


def refuse_other_bodies(model: Any) -> None:
    """Raise BadInput where a model's pose is not that of SMPL's 24 joints."""
    joints = model.head.joints
    if joints != JOINTS:
        raise BadInput(f"the motion decoder needs SMPL bodies of {JOINTS} joints, and this model has {joints}: a hand?")


def refuse_other_width(decoder: LatentDiffusionDecoder, model: Any, name: str) -> None:
    """Raise BadInput where a decoder reads other features than the model has."""
    reads, gives = decoder.sizes.features, model.head.decshape.in_features + WIDTH
    if reads != gives:
        raise BadInput(f"{name} reads {reads} numbers a frame, and this model gives {gives}")
