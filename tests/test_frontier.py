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
    rows = list(every_row(model, {"same": copy.deepcopy(model), "dropped": dropped}, {"synth:val": 4}, silent))
    found = {(row["data"], row["name"]): row for row in rows}
    assert len(found) == len(rows) == 3 * (1 + len(MASKS))
    for row in rows:
        assert row["frames"] == 4 and row["tokens"] == (60 if row["name"] == "dropped" else 192)
        assert row["times_fewer"] == pytest.approx(1 / row["macs_share"])
        if row["name"] != "dropped":
            plain = found["synth:val", row["name"]]
            assert row["mpjpe_mm"] == plain["mpjpe_mm"]  # it looks at no mask
            assert row["mpjpe_rise_mm"] in (None, {"mean": 0, "lo": 0, "hi": 0})
    assert found["synth:val, masks exact", "dropped"]["mpjpe_mm"] == found["synth:val", "dropped"]["mpjpe_mm"]
    assert found["synth:val, masks eroded", "dropped"]["mpjpe_mm"] != found["synth:val", "dropped"]["mpjpe_mm"]
