"""Searches of one study, again and again on one table of measured recipes: `python -m experiments.search.replay`."""

from experiments.search.replay.searches import main

__all__ = ["main"]
