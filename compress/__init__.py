"""Compression of transformers: tokens, stacks of blocks, policies, recipes and artefacts. Knows no human, no data set.

    from compress import Recipe, compress
    made = compress(model, Recipe.load("quickstart"), calib=calib_frames, test=test_frames)
    made.rows, made.model, made.save("small")

All is imported when it is first asked for, so that `import compress` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.errors import BadInput
    from compress.pipeline import Compressed, compress
    from compress.policy import Plan, Policy
    from compress.recipe import Recipe

HOMES = {
    "BadInput": "compress.errors",
    "Compressed": "compress.pipeline",
    "Plan": "compress.policy",
    "Policy": "compress.policy",
    "Recipe": "compress.recipe",
    "compress": "compress.pipeline",
}
__all__ = ["BadInput", "Compressed", "Plan", "Policy", "Recipe", "compress"]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)
