"""What a compressed model gains, and by what. No test looks at a time."""

from __future__ import annotations

from math import log
from typing import Any, cast

import pytest
import torch

import hmr
from compress.stack import Schedule
from experiments.paper.deployment.speed import Case, cases_of, gains, rises_of, row, table, whole
from hmr.evaluation.evaluate import evaluate
from tests.exported import small


def cases(batch: int = 1) -> list[Case]:
    times = {
        ("original", "torch", "float32", True): 8.0,
        ("original", "torch", "bfloat16", True): 4.0,
        ("original", "openvino", "float32", True): 6.0,
        ("original", "openvino", "int8", True): 3.0,
        ("small", "torch", "float32", False): 7.0,
        ("small", "torch", "float32", True): 4.0,
        ("small", "torch", "bfloat16", True): 2.5,
        ("small", "openvino", "float32", True): 3.0,
        ("small", "openvino", "int8", True): 1.0,
    }
    return [Case(*way[:3], batch, seconds, way[3]) for way, seconds in times.items()]


def rising(**mm: float) -> dict[tuple[str, str], dict[str, float]]:
    """The rises of the small model by precision."""
    return {("small", precision): {"mean": mean, "lo": mean - 3, "hi": mean + 3} for precision, mean in mm.items()}


def test_the_fastest_that_is_good_enough_counts():
    good = {"float32": 0.5, "bfloat16": 0.9, "int8": 0.7}
    (found,) = gains(cases(), "original", rising(**good))
    assert (found.model, found.runtime, found.precision) == ("small", "openvino", "int8") and found.rise_mm["hi"] == 3.7
    assert found.times == 8 and found.times_same_way == 3
    (found,) = gains(cases(), "original", rising(**{**good, "int8": 1.2}))
    assert (found.runtime, found.precision, found.times, found.times_same_way) == ("torch", "bfloat16", 3.2, 1.6)
    assert gains(cases(), "original", rising(**dict.fromkeys(good, 2.0))) == []
    without = [
        case for case in cases() if (case.model, case.runtime) != ("small", "openvino") or case.precision == "int8"
    ]
    assert gains(without, "original", rising(**good))[0].runtime == "torch"  # its float32 file was refused
    both = gains([*cases(), *cases(8)], "original", rising(**good))
    assert [one.batch for one in both] == [1, 8]


def test_shares_are_those_of_each_lever_on_top_of_the_others():
    (found,) = gains(cases(), "original", rising(int8=0.0))
    ratios = {"layers": 8 / 7, "tokens": 7 / 4, "runtime": 4 / 3, "precision": 3.0}
    assert found.shares == pytest.approx({name: log(ratio) / log(8) for name, ratio in ratios.items()})
    assert sum(found.shares.values()) == pytest.approx(1)
    told = row(found, {"mean": 2.0, "lo": 1.0, "hi": 3.0})
    assert told["runtime_share"] == found.shares["runtime"] and told["test_rise_mm"]["mean"] == 2.0
    rises = "+0.0 [-3.0, +3.0] | +2.0 [+1.0, +3.0]"
    assert f"| 1 | small | openvino | int8 | {rises} | 8.00 | 3.00 | 6% | 27% | 14% | 53% |" in table([told])


def test_cases_of_a_bench_know_their_models():
    row = {"name": "a/model.xml", "runtime": "openvino 2026", "precision": "int8", "batch": 8, "median_s": 2.0}
    assert cases_of({"cases": [row]}, {"a/model.xml": ("a", True)}) == [Case("a", "openvino", "int8", 8, 2.0)]


def test_a_model_with_all_its_tokens_needs_no_mask():
    model = small()
    every = whole(model, "all")
    assert every.schedule == Schedule() and every.protect is None and model.protect is not None
    assert every.name == "all" and every.cost().macs.true > model.cost().macs.true


def test_a_rise_is_over_the_original_and_of_two_files_the_worse():
    model, turned = small(), cast(Any, small())
    torch.nn.init.normal_(turned.head.decpose.weight, std=0.1)
    ways = [(("a", "int8"), turned), (("a", "int8"), model), (("b", "float32"), turned)]
    found = rises_of(ways, model, "synth:val", 3)
    alone = evaluate(turned, hmr.frames("synth:val", 3, model=model), None, model)["paired"]["mpjpe_mm"]["mean"]
    assert found["b", "float32"]["mean"] == pytest.approx(alone) and abs(alone) > 0.1
    assert found["a", "int8"]["mean"] == pytest.approx(max(alone, 0.0))
