"""The paper's tables and those that a sceptic asks for: one file each, which says what is compared."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from experiments.ablation import Table
from experiments.choices import one_of


def table(name: str) -> Table:
    """The table called `name`; raises BadInput, with the nearest that exists, where there is none."""
    known = sorted(module.name.replace("_", "-") for module in iter_modules(__path__))
    chosen: Table = import_module(f"{__name__}.{one_of(name, known, 'table').replace('-', '_')}").TABLE
    return chosen
