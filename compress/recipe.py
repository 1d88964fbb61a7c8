"""Recipes: YAML files that say what to do to a model, and every mistake in them with its line and field."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args

import yaml
from pydantic import Field, PrivateAttr, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails

from compress.choices import one_of
from compress.errors import BadInput
from compress.policy import Data, misuse
from compress.registry import Step, policy, working

SHIPPED = files("compress").joinpath("recipes")
LARGEST = 1 << 16  # bytes; a recipe is a page
DEEPEST = 20  # lists and mappings in each other; a recipe has 5
STARTS = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
ENDS = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
Place = tuple[str | int, ...]
Page = TypeVar("Page", bound=Data)  # what a YAML file of ours says


class Recipe(Data):
    """Steps in their order; names no model."""

    schema_version: int = Field(ge=1, le=1)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]*$", max_length=80)
    steps: tuple[Step, ...]
    _text: str = PrivateAttr("")

    @classmethod
    def load(cls, name: str) -> Recipe:
        """The recipe of a shipped name or, with a `/` or ending in `.yaml`, of a file.

        Raises BadInput with every mistake in it, each with its line.
        """
        path, text = recipe_text(name)
        recipe = right(text, path, cls)
        recipe._text = text
        return recipe

    @property
    def text(self) -> str:
        """The YAML that the recipe was read from, or its values as YAML."""
        return self._text or yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    @model_validator(mode="after")
    def _order(self) -> Recipe:
        """Each policy at most once, and in the order of their stages."""
        names = [step.policy for step in self.steps]
        for i in range(1, len(names)):
            before, step = names[i - 1], names[i]
            if step in names[:i]:
                raise misuse(f"steps.{i}.policy", f"there are two steps of {step}: make them one")
            if self.steps[i].stage < self.steps[i - 1].stage:
                raise misuse(f"steps.{i}.policy", f"{step} comes after {before}: put {before} after {step}")
        return self

    @property
    def id(self) -> str:
        """sha256 of the canonical JSON of schema_version and steps; the name does not count."""
        content = self.model_dump(mode="json", include={"schema_version", "steps"})
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong with a recipe, as `fasthmr recipe check --json` lists it."""

    file: str
    line: int  # from 1
    field: str
    message: str
    hint: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " + (f"{self.field}: " if self.field else "")
        return where + self.message + (f": {self.hint}" if self.hint else "")


def right(text: str, file: str, kind: type[Page]) -> Page:
    """What a file says; raises BadInput with every mistake in it."""
    page, mistakes = said(text, file, kind)
    if page is None:
        raise BadInput("; ".join(map(str, mistakes)))
    return page


def check(name: str) -> dict[str, Any]:
    """`{valid, errors}` of the recipe that `name` stands for; raises BadInput where there is no such file."""
    path, text = recipe_text(name)
    _, mistakes = parsed(text, path)
    return {"valid": not mistakes, "errors": [asdict(mistake) for mistake in mistakes]}


def recipe_text(name: str) -> tuple[str, str]:
    """(where it lies, YAML text) of a shipped recipe's name or, with a `/` or ending in `.yaml`, a file's path."""
    if "/" not in name and not name.endswith(".yaml"):
        shipped = sorted(path.name.removesuffix(".yaml") for path in SHIPPED.iterdir() if path.name.endswith(".yaml"))
        path = SHIPPED.joinpath(f"{one_of(name, shipped, 'recipe')}.yaml")
        return path.name, path.read_text("utf-8")
    return name, page_text(name)


def page_text(name: str) -> str:
    """The text of a YAML file of ours; raises BadInput where it cannot be read or is no text of a page or so."""
    try:
        with Path(name).open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise BadInput(f"{name}: a recipe is at most {LARGEST} bytes long")
        return content.decode()
    except OSError as error:
        raise BadInput(f"{name}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{name}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def parsed(text: str, file: str) -> tuple[Recipe | None, list[Mistake]]:
    """The recipe, or None and what is wrong with it."""
    return said(text, file, Recipe)


def said(text: str, file: str, kind: type[Page]) -> tuple[Page | None, list[Mistake]]:
    """What a file says, or None and what is wrong with it."""
    reader = Reader(file)
    content = reader.content = reader.read(text)
    if reader.mistakes:
        return None, reader.mistakes
    try:
        return kind.model_validate_json(json.dumps(content)), []
    except ValidationError as error:
        return None, [mistake(details, reader, kind) for details in error.errors()]


class Reader:
    """YAML to plain values, with the line of each; what JSON could not say is a mistake.

    No tag makes an object, and an alias, which can blow up a small file, is no part of a recipe.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Place, int] = {(): 1}
        self.mistakes: list[Mistake] = []
        self.content: Any = None

    def read(self, text: str) -> Any:
        try:
            self.scan(text)
            node = None if self.mistakes else yaml.compose(text, yaml.SafeLoader)
            return self.value(node, ()) if node else None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            self.wrong((), 0 if mark is None else mark.line, f"not YAML: {error.problem}", "")
        except yaml.YAMLError as error:  # a character that YAML does not know
            self.wrong((), 0, f"not YAML: {str(error).splitlines()[0]}", "")
        return None

    def scan(self, text: str) -> None:
        """Find what would take long, or grow large, before it does: aliases, and lists of lists of lists."""
        depth = 0
        for token in yaml.scan(text, yaml.SafeLoader):
            depth += isinstance(token, STARTS) - isinstance(token, ENDS)
            if isinstance(token, yaml.AliasToken):
                self.wrong((), token.start_mark.line, f"*{token.value}: recipes have no aliases", "write it out")
                return
            if depth > DEEPEST:
                self.wrong((), token.start_mark.line, f"nested more than {DEEPEST} deep", "")
                return

    def value(self, node: yaml.Node, place: Place) -> Any:
        """What a node says; its line is noted under `place`."""
        self.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self.mapping(node, place)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.value(child, (*place, i)) for i, child in enumerate(node.value)]
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if isinstance(node, yaml.ScalarNode) and kind in ("str", "int", "float", "bool", "null"):
            return self.scalar(node, place)
        shown = node.tag.replace("tag:yaml.org,2002:", "!!")
        hint = "write it in quotes" if kind == "timestamp" else "write plain values, without tags"
        self.wrong(place, node.start_mark.line, f"the tag {shown} has no place in a recipe", hint)
        return None

    def mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                self.wrong(place, line, "a key has to be a word", "write it in quotes or without a tag")
                continue
            key = key_node.value
            here = (*place, key)
            if key in found:
                self.wrong(here, line, f"the key '{key}' is there twice", f"the first is in line {self.lines[here]}")
                continue
            self.lines[here] = line + 1
            found[key] = self.value(value_node, here)
        return found

    def scalar(self, node: yaml.ScalarNode, place: Place) -> Any:
        try:
            found = yaml.constructor.SafeConstructor().construct_object(node)
            str(found)  # Python writes no integer of more than some thousand digits, nor does JSON
        except (ValueError, KeyError, IndexError):  # an explicit !!int of a word, !!bool of one, !!float of nothing
            self.wrong(place, node.start_mark.line, f"'{node.value}' is not a {node.tag.rpartition(':')[2]}", "")
            return None
        if isinstance(found, float) and not abs(found) < float("inf"):
            self.wrong(place, node.start_mark.line, f"{node.value} is not a finite number", "")
            return None
        return found

    def wrong(self, place: Place, line: int, message: str, hint: str) -> None:
        """Note a mistake in line `line`, from 0 as YAML's marks."""
        self.mistakes.append(Mistake(self.file, line + 1, dotted(place), message, hint))

    def line(self, place: Place) -> int:
        """The line of a place, or of the nearest thing around it that is there."""
        while place not in self.lines:
            place = place[:-1]
        return self.lines[place]


def mistake(details: ErrorDetails, reader: Reader, kind: type[Data]) -> Mistake:
    """What pydantic found, in a recipe's words."""
    place = located(details)
    message, hint = worded(details, place, kind, reader)
    return Mistake(reader.file, reader.line(place), dotted(place), message, hint)


def located(details: ErrorDetails) -> Place:
    """Where an error is in the file."""
    place = details["loc"]
    if details["type"] == "misuse" and (field := details["ctx"]["field"]):
        place = (*place, *(int(part) if part.isdigit() else part for part in field.split(".")))
    return place


def worded(details: ErrorDetails, place: Place, kind: type[Data], reader: Reader) -> tuple[str, str]:
    """(message, hint) of an error."""
    context, given = details.get("ctx", {}), details["input"]
    match details["type"]:
        case "extra_forbidden":
            return f"there is no key '{place[-1]}' here", nearest(place[-1], fields_at(place, kind, reader))
        case "missing":
            return f"the key '{place[-1]}' is missing", ""
        case "literal_error":
            expected = [part.strip("'") for part in context["expected"].replace(" or ", ", ").split(", ")]
            return f"{shown(given)} is not possible", nearest(given, expected)
        case "misuse" | "value_error":
            message, _, hint = str(context.get("message") or context["error"]).partition(": did you mean")
            return message, f"did you mean{hint}" if hint else ""
    message = details["msg"].replace("an object", "a mapping of keys").replace("valid array", "list")
    return f"{message[:1].lower()}{message[1:]} (got {shown(given)})", ""


def fields_at(place: Place, kind: type[Data], reader: Reader) -> Any:
    """The keys that there are beside the one at `place`."""
    if len(place) == 1:
        return kind.model_fields
    if place[0] == "steps":
        return policy(reader.content["steps"][place[1]]["policy"]).model_fields
    inner = kind.model_fields[str(place[0])].annotation
    return next(part.model_fields for part in (inner, *get_args(inner)) if hasattr(part, "model_fields"))


def nearest(word: object, known: Any) -> str:
    """The nearest of the `known` words, or all of them."""
    close = get_close_matches(str(word), list(known), n=1)
    return f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(known)}"


def shown(value: object) -> str:
    """A value as a recipe would have it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def dotted(place: Place) -> str:
    """steps[0].keep"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe."""
    step: Any = Annotated[Union[tuple(working())], Field(discriminator="policy")]  # noqa: UP007  # any number of them
    full = create_model("Recipe", __base__=Recipe, steps=(tuple[step, ...], ...))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **full.model_json_schema()}
