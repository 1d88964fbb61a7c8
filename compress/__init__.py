"""Compression of transformers: tokens, stacks of blocks, policies, recipes and artefacts. Knows no human, no data set.

from compress import Recipe, compress
made = compress(model, Recipe.load("quickstart"), calib=calib_frames, test=test_frames)
made.rows, made.model, made.save("small")
"""

from compress.errors import BadInput
from compress.pipeline import Compressed, compress
from compress.policy import Plan, Policy
from compress.recipe import Recipe

__all__ = ["BadInput", "Compressed", "Plan", "Policy", "Recipe", "compress"]
