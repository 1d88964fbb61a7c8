"""Names that users type, held against the names there are."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from compress.errors import BadInput


def one_of(name: str, choices: Iterable[str], what: str) -> str:
    """`name` itself if it is one of `choices`; else BadInput with the nearest choice, or all of them."""
    known = list(choices)
    if name in known:
        return name
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(known)}"
    raise BadInput(f"there is no {what} '{name}': {hint}")
