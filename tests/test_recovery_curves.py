"""Curves of recoveries: they begin at what is not recovered and end where the policy does."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import hmr
from compress.context import Context
from compress.pipeline import run_all_steps
from compress.policies.merge_tokens import MergeTokens
from compress.policies.recover import Recover
from compress.recipe import Recipe
from experiments.paper.equal_macs.recovery import SHARES, WIDTHS, Recovery
from hmr.models.model import build
from tests import sizes

STEPS = 6
DROPPED = Recipe(schema_version=1, name="dropped", steps=(MergeTokens(keep=100, per_layer=48),))


def test_a_curve_ends_where_the_policy_does_and_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path))
    monkeypatch.setattr("hmr.evaluation.measure.RECOVERY_FRAMES", 2)
    torch.manual_seed(0)
    model = build("reference", {**sizes.TINY, "depth": 2, "mlp_dim": 32, "head_dim": 16}).eval()
    calib, val = (hmr.frames(f"synth:{split}", 4, model=model).drawn() for split in ("calib", "val"))
    context = Context(model, calib)
    first = val.measure(model)

    def errors(*steps: Any) -> float:
        made = run_all_steps(model, [*DROPPED.steps, *steps], context.fresh())
        return val.measure(made).row(first)["mpjpe_mm"]["mean"]

    cost, looks = Recovery(context, val, first, STEPS, tmp_path / "looks.jsonl").curve(DROPPED)
    assert [look["step"] for look in looks] == [0, 1, 2, 4, 6] and 0 < cost["macs_share"] < 1
    minutes = [look["minutes"] for look in looks]
    assert minutes == sorted(minutes) and not [*tmp_path.glob("recover/*")]
    assert looks[0]["mpjpe_mm"]["mean"] == pytest.approx(errors())
    assert looks[-1]["mpjpe_mm"]["mean"] == pytest.approx(errors(Recover(steps=STEPS)))
    assert looks[-1]["mpjpe_mm"] != looks[0]["mpjpe_mm"]
    monkeypatch.setattr("experiments.paper.equal_macs.recovery.distil", None)  # nothing is trained again
    again = Recovery(context, val, first, STEPS, tmp_path / "looks.jsonl").curve(DROPPED)
    assert json.dumps(again) == json.dumps((cost, looks))


def test_shares_and_widths_get_smaller():
    ratios = [step.model_dump()["mlp_ratio"] for (step,) in WIDTHS]
    assert ratios == sorted(ratios) and ratios[0] == 0 and [*SHARES] == sorted(SHARES, reverse=True)
