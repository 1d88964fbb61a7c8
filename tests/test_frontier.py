"""The rows of artefacts beside their original on every data set, and under wrong masks."""

from __future__ import annotations

import copy

import pytest

from compress.context import silent
from compress.stack import Schedule
from experiments.paper.equal_macs.frontier import every_row
from hmr.data.mask_errors import MASKS
from tests.recovery import original


def test_rises_are_over_the_original_and_masks_matter_to_what_looks_at_them() -> None:
    model = original()
    dropped = copy.deepcopy(model)
    dropped.schedule, dropped.protect = Schedule(drop=132), 0.0
    models = {"same": copy.deepcopy(model), "dropped": dropped}
    plain, same, less = every_row(model, models, {"synth:val": 4}, silent)
    assert [row["name"] for row in (plain, same, less)] == ["original", "same", "dropped"]
    assert (plain["macs_share"], same["times_fewer"], less["tokens"][-1]) == (1, 1, 60)
    assert less["times_fewer"] == pytest.approx(1 / less["macs_share"]) and less["macs_share"] < 0.5
    for kind in ("synth", *(kind.replace(" ", "_") for kind in MASKS)):
        assert plain[f"{kind}_mpjpe_mm"] == same[f"{kind}_mpjpe_mm"] == plain["synth_mpjpe_mm"]  # they look at no mask
        assert plain[f"{kind}_mpjpe_rise_mm"] is None and not any(same[f"{kind}_mpjpe_rise_mm"].values())
    assert less["exact_mpjpe_mm"] == less["synth_mpjpe_mm"] != less["eroded_mpjpe_mm"]
    assert less["synth_mpjpe_rise_mm"]["mean"] == pytest.approx(
        less["synth_mpjpe_mm"]["mean"] - plain["synth_mpjpe_mm"]["mean"], abs=1e-3
    )
