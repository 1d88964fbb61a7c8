"""The policy `motion_decoder`: a clip of motion is decoded from the model's features, in its pose head's place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compress.context import Context
from compress.errors import BadInput
from compress.files.weights import digest
from compress.policy import Compressible, MadeFor, Plan, Policy, misuse
from compress.training.task import Budget
from diffusion.decoded import DecodedModel, encoder_id, features_of, refuse_other_bodies
from diffusion.model.decoder import ClipDecoder, Kind, Target, decoder_file, facts_of, load_decoder
from diffusion.model.schedule import Objective
from diffusion.model.sizes import DecoderSizes

NOTHING = "none"


class Retraining(Budget):
    """How the decoder is trained for the encoder that compressing has just made."""

    init: str = Field(NOTHING, min_length=1, description="a shipped decoder or a file to start from, or none")
    data: str = Field("synth-video", min_length=1, description="videos of the splits train and val, or a file of clips")
    frames: int | None = Field(
        None,
        ge=1,
        description="of the training videos, whose features take longer than the training; all if unset",
        exclude_if=lambda frames: frames is None,
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        """At most one: what has a closed form takes neither, and `MotionDecoder` knows what that is."""
        if self.minutes is not None and self.steps is not None:
            raise misuse("steps", "a training needs either minutes or steps, and not both")
        return self


class MotionDecoder(Policy):
    """Decode motion with `weights`, which were made for this very encoder, or with a decoder that `train` makes."""

    stage: ClassVar[int] = 5

    policy: Literal["motion_decoder"] = "motion_decoder"
    kind: Kind = Field("diffusion", description="the paper's, a regressor of its size, or the ridge regression of both")
    weights: str | None = Field(
        None, min_length=1, description="a shipped decoder, or the file that `fasthmr train decoder` wrote"
    )
    steps: int = Field(1, ge=1, le=1000, description="denoising steps; one is the paper's")
    seed: int = Field(0, ge=0, lt=1 << 63, description="of the noise that decoding starts from")
    look_ahead: int | None = Field(
        None,
        ge=0,
        description="frames after its own, at 30 frames/s, that a pose may depend on",
        exclude_if=lambda frames: frames is None,
    )
    train: Retraining | None = Field(
        None,
        description="train it for this encoder, as part of compressing",
        exclude_if=lambda train: train is None,  # so that recipes without it keep their ids
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.weights is None) == (self.train is None):
            raise misuse("train" if self.train else "policy", "a decoder needs either weights or train, and not both")
        if self.kind != "diffusion":
            self.refuse_changed(("steps", "seed"), f"with kind: {self.kind}, which decodes from no noise")
        if self.train:
            self.refuse_budget(self.train)
        return self

    def refuse_budget(self, train: Retraining) -> None:
        """For validators: raise `misuse` for what a linear decoder has no use for, and where another kind lacks it."""
        asked = [name for name in ("minutes", "steps") if getattr(train, name) is not None]
        if self.kind == "linear":
            asked += ["init"] if train.init != NOTHING else []
            if asked:
                message = f"{asked[0]} has no meaning with kind: linear, which is computed at once"
                raise misuse(f"train.{asked[0]}", message)
        elif not asked:
            raise misuse("train", "a training needs either minutes or steps")

    @property
    def trains(self) -> bool:
        return self.train is not None

    @property
    def model_specific(self) -> bool:
        return self.weights is not None

    @staticmethod
    def exported(encoder: Any, file: Path) -> DecodedModel:
        """The model of a file of `fasthmr export` and of the decoder that lies beside it; raises BadInput where that
        is missing, damaged or another's."""
        from diffusion.exported import ExportedDecoder

        return DecodedModel(encoder, ExportedDecoder(file, encoder))

    def check(self, model: Compressible) -> None:
        """Raises BadInput for a model of another body than SMPL's, as HaMeR's hand, and for an `init` that is none."""
        refuse_other_bodies(model)
        self.init()

    def init(self) -> Path | None:
        """The decoder's file that training starts from. Raises BadInput where there is none."""
        if self.train is None or self.train.init == NOTHING:
            return None
        return decoder_file(self.train.init)

    def plan(self, model: Any, context: Context) -> DecoderPlan:
        """The decoder of the file, or the one that is trained for this model now; its weights go to `context.weights`.

        Raises BadInput where the file holds none, or one that was trained on another encoder's features; a model
        without weights, whose cost alone is asked for, takes any decoder of the right width. And as
        `diffusion.training.run.decoder_training`.
        """
        self.check(model)
        if self.train is not None:
            return self.trained(self.train, model, context)
        path = self.file()
        decoder = self.read(path, str(path))
        if model.is_meta:
            refuse_other_width(decoder, model, str(path))
        else:
            decoder.refuse_other(encoder_id(model))
        return self.plan_of(decoder, path, model, context)

    def file(self) -> Path:
        """Where `weights` are. Raises BadInput, with the way to make some, where they are not."""
        try:
            return decoder_file(self.weights or "")
        except BadInput as error:
            raise BadInput(
                f"motion_decoder: weights: {error}; a decoder belongs to one encoder: compress it, train one with "
                "`fasthmr train decoder --model FOLDER --out RUN`, and name RUN/decoder.safetensors; or let `train:` "
                "make one"
            ) from error

    def read(self, path: Path, name: str) -> ClipDecoder:
        """The decoder of a file. Raises BadInput where it is of another kind than was asked for."""
        decoder = load_decoder(path, steps=self.steps, seed=self.seed, look_ahead=self.look_ahead)
        if self.look_ahead is not None and self.look_ahead >= decoder.sizes.frames:
            raise BadInput(f"motion_decoder: look_ahead: {name} has clips of {decoder.sizes.frames} frames: name fewer")
        if decoder.kind != self.kind:
            raise BadInput(f"motion_decoder: kind: {self.kind}, and {name} is a decoder of kind {decoder.kind}")
        return decoder

    def trained(self, train: Retraining, model: Any, context: Context) -> DecoderPlan:
        """A decoder trained on this model's features, which takes minutes; one that was killed goes on."""
        from diffusion.training.retraining import retrained

        with retrained(model, self.kind, train, self.init(), context) as made:
            plan = self.plan_of(self.read(made.path, str(made.path)), made.path, model, context)
        return plan.model_copy(update={"measured": made.measured})

    def plan_of(self, decoder: ClipDecoder, path: Path, model: Any, context: Context) -> DecoderPlan:
        """The plan of a decoder whose weights `context` is to have."""
        weights = digest(path)
        context.weights[weights] = decoder.state_dict()
        facts: dict[str, Any] = {**facts_of(decoder), **self.model_dump(include={"steps", "seed", "look_ahead"})}
        return DecoderPlan(made_for=MadeFor.of(model), sizes=decoder.sizes, weights=weights, **facts)


class DecoderPlan(Plan):
    """Which decoder a model has: its sizes, whose features it knows, the hash of the file that it came from."""

    noun: ClassVar[str] = "the decoder"
    remedy: ClassVar[str] = "train one for this model with `fasthmr train decoder`"

    policy: Literal["motion_decoder"] = "motion_decoder"
    sizes: DecoderSizes
    kind: Kind
    target: Target
    objective: Objective
    encoder: str
    weights: str  # sha256
    steps: int = Field(ge=1)
    seed: int = Field(ge=0)
    look_ahead: int | None = Field(None, ge=0, exclude_if=lambda frames: frames is None)

    @property
    def empty(self) -> bool:
        return False

    def describe(self) -> str:
        steps = f"{self.steps} step" + "s" * (self.steps > 1)
        how = {"diffusion": f"diffusion in {steps}", "regressor": "a regressor", "linear": "a ridge regression"}
        text = f"Clips of {self.sizes.frames} frames are decoded by {how[self.kind]}, in the place of the pose head."
        if "steps" not in self.measured:
            return text
        minutes = self.measured["seconds"] / 60
        before, after = (self.measured["val"][when]["mpjpe_mm"] for when in ("before", "after"))
        did = f"{self.measured['steps']} steps in {minutes:.1f} minutes took it from {before:.1f} to {after:.1f} mm"
        return f"{text} {did} on videos that were held out."

    def shape(self, model: Any) -> DecodedModel:
        """`model` with a decoder of any weights behind it. Raises as `check`."""
        self.check(model)
        names = ("encoder", "steps", "seed", "look_ahead")
        facts: dict[str, Any] = {name: getattr(self, name) for name in names}
        try:
            decoder = ClipDecoder(self.sizes, self.kind, self.target, self.objective, **facts)
        except ValueError as error:
            raise BadInput(f"the plan of a decoder makes none: {error}") from error
        return DecodedModel(model, decoder)

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


MotionDecoder.makes = DecoderPlan


def refuse_other_width(decoder: ClipDecoder, model: Any, name: str) -> None:
    """Raise BadInput where a decoder reads other features than the model has."""
    reads, gives = decoder.sizes.features, features_of(model)
    if reads != gives:
        raise BadInput(f"{name} reads {reads} numbers a frame, and this model gives {gives}")
