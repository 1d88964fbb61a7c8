"""The ladder of retraining: what is mapped, and which rung is chosen."""

import torch

from experiments.paper.ladder import cheapest, linear_map


def test_a_linear_map_between_features_finds_one_that_is_there():
    torch.manual_seed(0)
    mine, weight = 3 * torch.randn(500, 6) + 2, torch.randn(6, 4)
    mine[:, 5] = 1.0  # a feature that says nothing
    theirs = mine @ weight - 1
    assert (linear_map(mine, theirs)(mine) - theirs).abs().mean() < 0.05 * theirs.std()


def row(name, low):
    return {"name": name, "over_best_mm": {"mean": low + 1, "lo": low, "hi": low + 2}}


def test_the_cheapest_rung_within_the_interval_of_the_best_is_chosen():
    assert cheapest([row("dear", 0.5), row("near", -0.5), row("best", 0.0)]) == "near"
    assert cheapest([row("dear", 0.5), row("nearly", 0.1), row("best", 0.0)]) == "best"
