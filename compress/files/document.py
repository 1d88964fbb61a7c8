"""YAML and JSON files that users write: plain values for a pydantic model, and every mistake with its line and field.

Reading one executes nothing, and a small file cannot grow large: tags, anchors and aliases are refused.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError, RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, NodeEvent

from compress.choices import nearest
from compress.errors import BadInput

LARGEST = 1 << 16  # bytes; such a file is a page
DEEPEST = 20  # lists and mappings in each other; a recipe has 5
Place = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong with a file, as `fasthmr recipe check --json` lists it."""

    file: str
    line: int  # from 1
    field: str  # empty where the file could not be read as far as that
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " + (f"{self.field}: " if self.field else "")
        return where + self.message + (f": {self.hint}" if self.hint else "")


class InvalidDocument(BadInput):
    """A file with mistakes."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = mistakes


class Constructor(RoundTripConstructor):
    """Values with the lines of their keys; dates, which JSON does not have, are text."""

    def check_mapping_key(self, node: Any, key_node: Any, mapping: Any, key: Any, value: Any) -> bool:
        """Refuse a key that is there twice; ruamel.yaml's own message does not name the first line."""
        if key in mapping:
            problem = f"the key '{key}' is there twice, first in line {mapping.lc.key(key)[0] + 1}"
            raise DuplicateKeyError(problem=problem, problem_mark=key_node.start_mark)
        return True


Constructor.add_constructor("tag:yaml.org,2002:timestamp", RoundTripConstructor.construct_scalar)


def read_text(path: str | Path) -> str:
    """The text of a file; raises BadInput where it cannot be read, is longer than a page or no text."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise BadInput(f"{path}: longer than {LARGEST} bytes")
        return content.decode()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def parse(
    text: str, file: str, model: type[Model], kind: Callable[[Any], type[BaseModel] | None] = lambda values: None
) -> Model:
    """The YAML or JSON `text` of `file` as a `model`; raises InvalidDocument with every mistake in it.

    `kind` gives the model of values whose place in `model` is annotated with an abstract class; hints need it.
    """
    values = read_values(text, file)
    try:
        return model.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise InvalidDocument(*(mistake(e, values, file, model, kind) for e in error.errors())) from error


def read_values(text: str, file: str) -> Any:
    """Plain values, where lists and mappings know the lines of what they hold; raises InvalidDocument."""
    yaml = YAML(typ="rt", pure=True)
    yaml.Constructor = Constructor
    line = 1
    try:
        refuse_unsafe(text)
        values = yaml.load(text)
        json.dumps(values, default=str)
        return values
    except MarkedYAMLError as error:
        problem = error.problem
        line = error.problem_mark.line + 1 if error.problem_mark else 1
    except YAMLError as error:  # a character that YAML does not know
        problem = str(error).splitlines()[0]
    except TypeError:
        problem = "a key is a list or a mapping"
    except ValueError:  # Python reads and writes no integer of more than some thousand digits
        problem = "a number has too many digits"
    raise InvalidDocument(Mistake(file, line, "", f"cannot be read: {problem}"))


def refuse_unsafe(text: str) -> None:
    """Raise MarkedYAMLError for what could execute, grow large or recurse, before any value is made."""
    depth = 0
    for event in YAML(pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        problem = ""
        if isinstance(event, NodeEvent) and event.anchor:  # an alias's too
            problem = f"anchors and aliases are not allowed ({event.anchor}), write the value out"
        elif getattr(event, "tag", None):
            problem = f"tags are not allowed ({event.tag}), write plain values"
        elif depth > DEEPEST:
            problem = f"nested more than {DEEPEST} deep"
        if problem:
            raise MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def mistake(
    error: ErrorDetails, values: Any, file: str, model: type[BaseModel], kind: Callable[[Any], type[BaseModel] | None]
) -> Mistake:
    """What pydantic reports, as a sentence about the file."""
    place, line = located(error, values)
    message, hint = described(error)
    if error["type"] == "extra_forbidden":
        hint = nearest(str(place[-1]), fields_beside(place, values, model, kind))
    return Mistake(file, line, dotted(place), message, hint)


def located(error: ErrorDetails, values: Any) -> tuple[Place, int]:
    """Where an error is, and its line: that of the innermost field around it that is in the file."""
    place = error["loc"]
    if error["type"] == "misuse":
        named = error["ctx"]["field"].split(".")
        place = (*place, *(int(part) if part.isdigit() else part for part in named if part))
    line, depth = 0, 0
    for part in place:
        if isinstance(values, dict) and part in values:
            line = values.lc.key(part)[0]  # type: ignore[attr-defined]  # ruamel.yaml's mappings know it
        elif isinstance(values, list) and part in range(len(values)):
            line = values.lc.item(part)[0]  # type: ignore[attr-defined]  # and its lists
        else:
            break
        values, depth = values[part], depth + 1
    # behind a field, pydantic names the member of a union that was tried
    return (place if error["type"] in ("extra_forbidden", "missing", "misuse") else place[:depth]), line + 1


def described(error: ErrorDetails) -> tuple[str, str]:
    """(message, hint) of an error."""
    context, given, key = error.get("ctx", {}), error["input"], error["loc"][-1:]
    match error["type"]:
        case "extra_forbidden":
            return f"there is no key '{key[0]}' here", ""
        case "missing":
            return f"the key '{key[0]}' is missing", ""
        case "literal_error":
            expected = [part.strip("'") for part in context["expected"].replace(" or ", ", ").split(", ")]
            return f"{shown(given)} is not possible", nearest(str(given), expected)
        case "misuse" | "value_error":
            return str(context.get("message") or context["error"]), context.get("hint", "")
    message = error["msg"].replace("an object", "a mapping of keys").replace("valid array", "list")
    return f"{message[:1].lower()}{message[1:]} (got {shown(given)})", ""


def fields_beside(
    place: Place, values: Any, model: type[BaseModel], kind: Callable[[Any], type[BaseModel] | None]
) -> list[str]:
    """The fields of the model that belongs to the mapping around `place`."""
    models = [model]
    for part in place[:-1]:
        values = values[part]
        if isinstance(part, str):
            fields = [one.model_fields[part].annotation for one in models if part in one.model_fields]
            models = [inner for field in fields for inner in models_in(field)]
        if isinstance(values, dict) and (found := kind(values)):
            models = [found]
    return [name for one in models for name in one.model_fields]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation names, as `Split` in `tuple[Split | None, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def shown(value: object) -> str:
    """A value as the file would have it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def dotted(place: Place) -> str:
    """steps[0].keep"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def to_yaml(values: Any) -> str:
    """Plain values as YAML, keys in their order."""
    yaml, out = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # typed as its default, None
    yaml.dump(values, out)
    return out.getvalue()
