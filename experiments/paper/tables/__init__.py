"""The tables of the FastHMR paper (arXiv:2510.10868) and three further comparisons: one file each.

A file defines what is compared on which frames, what the paper found, in figures and in a sentence, and how to see in
measured rows whether it is so here. A new table is a new file.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from compress.choices import one_of
from experiments.paper.ablation import Table

ALL = "all"


def tables(name: str) -> list[Table]:
    """The table called `name`, or with `all` every one of the paper, by its number there.

    Raises BadInput, with the nearest that exists, where there is none.
    """
    known = sorted((module.name for module in iter_modules(__path__)), key=lambda name: (len(name), name))
    one_of(name, [ALL, *known], "table")
    chosen = [other for other in known if other[-1].isdigit()] if name == ALL else [name]
    return [import_module(f"{__name__}.{one}").TABLE for one in chosen]
