"""Names that users type, held against the names there are."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TypeVar

from compress.errors import BadInput

Choice = TypeVar("Choice", bound=str)


def one_of(name: str, choices: Iterable[Choice], what: str) -> Choice:
    """The one of `choices` that is `name`; else BadInput with the nearest choice, or all of them."""
    known = list(choices)
    if name in known:
        return known[known.index(name)]
    raise BadInput(f"there is no {what} '{name}': {nearest(name, known)}")


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint: the nearest of the `choices`, or all of them where none is near."""
    known = list(choices)
    close = get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(known)}"
