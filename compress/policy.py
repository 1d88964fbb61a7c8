"""What a user asks for (a policy), and what was decided for one model (a plan): both are data, acting is a function.

`Policy.plan` may be slow and look at frames, and changes nothing. The plan it returns is all that a saved model needs
to come back: no data and no search. Both are handed one `Context`, which holds everything beside the model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from compress.errors import BadInput
from compress.late import LateStack, stack_of
from compress.stack import Schedule, Stack, transformer_blocks

if TYPE_CHECKING:
    from compress.context import Context


class Compressible(Protocol):
    """A model that policies can work on: a module with a stack of blocks, whose forward pass runs `encode`."""

    dim: int  # features of a token
    grid: tuple[int, int]  # patches (rows, columns) of a crop
    head_needs: Literal["tokens", "grid"]
    schedule: Schedule  # what its forward pass hands to `encode`
    protect: float | None  # share of a patch above which a mask makes it the person's; None: no mask is used

    @property
    def stack(self) -> Stack:
        """The image encoder."""

    @property
    def stacks(self) -> Mapping[str, LateStack]:
        """Those behind it, by what recipes call them."""


@dataclass(frozen=True)
class Knob:
    """The values of a field that a search tries: low, low + step, ..., high. With `choices`, the places of words."""

    low: float
    high: float
    step: float
    choices: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return all(isinstance(value, int) for value in (self.low, self.high, self.step))

    @property
    def values(self) -> list[float]:
        """Every value, in order; with `choices`, their places."""
        return [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]

    def up_to(self, most: float) -> Knob:
        """The same steps as far as `most`, the lowest at least."""
        return replace(self, high=self.low + max(0, (most - self.low) // self.step) * self.step)


def knob(low: float, high: float, step: float) -> dict[str, Any]:
    """For `Field(json_schema_extra=...)`: what a search tries stands beside a field and not in its type, so that a
    recipe may ask for any other value. Steps that are powers of two add up without rounding."""
    return {"knob": {"low": low, "high": high, "step": step}}


def of_stack() -> Any:
    """A field for the stack of blocks that is meant; the image encoder stays out of JSON, as before there were more."""
    return Field(
        None,
        min_length=1,
        exclude_if=lambda stack: stack is None,
        description="the stack of blocks that is compressed, as the model calls it; unset: its image encoder",
    )


def labelled(policy: str, stack: str | None) -> str:
    """What a step is called beside others."""
    return policy if stack is None else f"{policy}@{stack}"


def misuse(field: str, message: str, hint: str = "") -> PydanticCustomError:
    """For validators: an error of one field that shows only beside the others. A recipe's check names its line."""
    return PydanticCustomError("misuse", "{message}", {"field": field, "message": message, "hint": hint})


class FrozenModel(BaseModel):
    """Frozen and strict: an unknown key, a number in quotes or an infinity is an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class MadeFor(FrozenModel):
    """The model that a plan was made for, by one of its stacks."""

    depth: int = Field(ge=0)
    dim: int = Field(ge=1)
    grid: tuple[int, int]

    @classmethod
    def of(cls, model: Compressible, stack: str | None = None) -> MadeFor:
        """The sizes of `model` and of a stack of it as they are now; on the meta device too. Raises BadInput where it
        has no such stack."""
        found = stack_of(model, stack)
        return cls(depth=len(found.blocks), dim=model.dim if stack is None else found.dim, grid=model.grid)


@dataclass(frozen=True)
class ModelSize:
    """What of a model bounds what a policy may ask for."""

    blocks: int  # that are transformers: linear maps between them do not count
    grid: tuple[int, int]  # patches (rows, columns)
    late: tuple[tuple[str, int], ...] = ()  # name and blocks of each stack behind the image encoder

    @classmethod
    def of(cls, model: Compressible) -> ModelSize:
        """The size of `model` as it is now; on the meta device too."""
        late = tuple((name, len(transformer_blocks(stack))) for name, stack in model.stacks.items())
        return cls(len(transformer_blocks(model.stack)), model.grid, late)

    def depth(self, stack: str | None) -> int:
        """Blocks of a stack; 0 where there is none."""
        return self.blocks if stack is None else dict(self.late).get(stack, 0)

    def with_depth(self, stack: str | None, blocks: int) -> ModelSize:
        """The same with so many blocks in a stack."""
        if stack is None:
            return replace(self, blocks=blocks)
        return replace(self, late=tuple({**dict(self.late), stack: blocks}.items()))

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]


class Plan(FrozenModel, ABC):
    """What was decided for one model; as JSON it is an entry of an artefact's plan.json.

    Subclasses name themselves in `policy: Literal[...]` and carry what was decided. Both `shape` and `apply` begin
    with `check`. Weights are no part of a plan: it names them by hash, and `Context.weights` holds them.
    """

    noun: ClassVar[str] = "plan"  # what was made, in messages
    remedy: ClassVar[str] = "make the plan again for this model"  # what helps where it was made for another depth

    policy: str
    stack: str | None = of_stack()
    made_for: MadeFor
    # Errors, counts and times that stand beside the decision; an artefact's id leaves them out, so that two runs that
    # decide the same are the same.
    measured: dict[str, Any] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """The policy's name, and its stack's where that is not the image encoder."""
        return labelled(self.policy, self.stack)

    @property
    @abstractmethod
    def empty(self) -> bool:
        """Whether the plan leaves its model as it is."""

    @abstractmethod
    def shape(self, model: Any) -> Any:
        """`model` in the planned structure; its weights may be anything. Works in place, unless the structure around
        the model changes too, as where a decoder is put behind it. Raises as `check`."""

    def apply(self, model: Any, context: Context) -> Any:
        """`model` in the planned structure and with the planned weights, as `shape`; where weights follow from the
        structure alone, that is all. What is measured on the way goes to `context.measured`. Raises as `check`."""
        return self.shape(model)

    def plan(self, model: Any, context: Context) -> Self:
        """Itself: where a plan stands in the place of a policy, nothing is decided again."""
        return self

    @abstractmethod
    def describe(self) -> str:
        """What was decided, in a sentence for reports."""

    def verify(self, model: Compressible) -> None:
        """Raise BadInput where `model`, of the planned structure and with its weights again, is not the planned one."""
        return

    def decided(self) -> dict[str, Any]:
        """The plan as JSON values, without what was measured."""
        return self.model_dump(mode="json", exclude={"measured"})

    def check(self, model: Compressible) -> None:
        """Raise BadInput, with what to do about it, where `model` is not of the sizes the plan was made for."""
        found, wanted = MadeFor.of(model, self.stack), self.made_for
        if found.depth != wanted.depth:
            raise BadInput(
                f"{self.noun} was made for {wanted.depth} blocks, this model has {found.depth}: {self.remedy}"
            )
        if found != wanted:
            raise BadInput(
                f"{self.noun} was made for tokens {wanted.dim} wide on a {wanted.grid[0]} x {wanted.grid[1]} grid, "
                f"this model's are {found.dim} wide on {found.grid[0]} x {found.grid[1]}: "
                "make the plan again for this model"
            )


class Policy(FrozenModel, ABC):
    """What the user asked for: a step of a recipe. Subclasses name themselves in `policy: Literal[...]`."""

    # Its place in a recipe: 0 for layers, 1 for tokens and width, 2 for rank, 3 for training, 4 for precision, 5 for
    # what reads the finished features. A merge is made from the original weights, and what is rounded is not worked on
    # any more.
    stage: ClassVar[int] = 1

    # The fields with a knob that the size of a model bounds, in the order in which a search draws them: what a field
    # may be follows from those before it.
    bounded: ClassVar[tuple[str, ...]] = ()

    policy: str

    makes: ClassVar[type[Plan]]  # what `plan` returns

    @property
    def label(self) -> str:
        """The policy's name, and its stack's where it has one that is not the image encoder."""
        return labelled(self.policy, getattr(self, "stack", None))

    @property
    def needs_calib(self) -> bool:
        """Whether `plan` measures on frames of the calibration split."""
        return False

    @property
    def trains(self) -> bool:
        """Whether something is trained, which takes minutes: a search leaves that to the best recipes."""
        return False

    @property
    def model_specific(self) -> bool:
        """Whether it takes weights that were trained for the model of the steps before it."""
        return False

    @property
    def needs_masks(self) -> bool:
        """Whether the compressed model needs a person mask with every crop."""
        return False

    def refuse_changed(self, fields: Iterable[str], where: str) -> None:
        """For validators: raise `misuse` where a field that has no meaning `where` is not at its default. A step that
        comes back from JSON names them all."""
        for field in fields:
            if getattr(self, field) != type(self).model_fields[field].default:
                raise misuse(field, f"{field} has no meaning {where}")

    def knobs(self, size: ModelSize | None = None) -> dict[str, Knob]:
        """What a search can turn: by field, those that have a meaning in this policy as it stands, `bounded` ones
        first. With the `size` of a model, they go as far as that allows."""
        found, fields = {}, type(self).model_fields
        for name in (*self.bounded, *(name for name in fields if name not in self.bounded)):
            extra = fields[name].json_schema_extra
            if isinstance(extra, dict) and "knob" in extra and getattr(self, name) is not None:
                words = tuple(word for word in get_args(fields[name].annotation) if isinstance(word, str))
                found[name] = Knob(**extra["knob"], choices=words)  # type: ignore[arg-type]  # as `knob` wrote it
        if size is not None:
            found |= {name: found[name].up_to(most) for name, most in self.largest(size).items() if name in found}
        return found

    def largest(self, size: ModelSize) -> dict[str, int]:
        """The largest values of `bounded` fields that mean something in a model of this size."""
        return {}

    def fit(self, size: ModelSize) -> ModelSize:
        """The size that a model of `size` has after this step, as far as it is known without looking at data; where a
        search for an error decides, the one it cannot exceed. Raises BadInput where the model is too small."""
        return size

    @property
    def sizes_by_error(self) -> bool:
        """Whether a search for an error decides the size that `fit` only bounds."""
        return False

    def check(self, model: Compressible) -> None:
        """Raise BadInput where no plan for `model` can be made, as far as that is known without looking at data.

        Every step is checked against the model before the first one is planned: a search that takes an hour is not to
        end in an error that could have been raised at once. Later steps meet a model of this depth or less.
        """
        return

    def outline(self, model: Any) -> Plan:
        """A plan of the shapes that this step leaves of `model`, with any choice among equals, to count them by. Raises
        BadInput where frames have to be looked at for that."""
        raise BadInput(f"{self.policy}: what it leaves is decided on frames")

    @abstractmethod
    def plan(self, model: Any, context: Context) -> Plan:
        """Decide what to do to `model`, which stays as it is.

        Raises BadInput where it cannot be done, and where `context` lacks what the policy needs.
        """
