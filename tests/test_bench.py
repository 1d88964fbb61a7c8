"""The benchmark at a tiny size: what it runs is one network, and what it writes adds up. No test looks at a time."""

from __future__ import annotations

import pytest
import torch

from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.stack import encode
from experiments.bench import PROTECTED, WINDOWS, bench, cases_of, persons, steps_of
from hmr.models.model import HMRModel, build

STEPS = {
    "eclm": MergeLayers(strategy="explicit", windows=((2, 4),)),
    "eclm+mask_tome": MergeTokens(keep=90, per_layer=40),
}
NAMES = ["upstream", "tuned", *STEPS]


@pytest.fixture
def model() -> HMRModel:
    torch.manual_seed(0)
    return build("hmr2", {"dim": 32, "depth": 6, "heads": 2, "mlp_dim": 48, "head_dim": 24, "head_depth": 1}).eval()


def test_upstream_is_the_same_network(model):
    cases = cases_of(model, {})
    with torch.no_grad():
        upstream, tuned = (encode(case.stack, torch.randn(2, 3, 256, 192, generator=seeded())).x
                           for case in (cases["upstream"], cases["tuned"]))  # fmt: skip
    torch.testing.assert_close(upstream, tuned, atol=1e-5, rtol=1e-5)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_cases_have_the_blocks_and_tokens_that_their_steps_leave(model):
    cases = cases_of(model, STEPS)
    assert {name: len(case.stack.blocks) for name, case in cases.items()} == dict(zip(NAMES, (6, 6, 4, 4), strict=True))
    with torch.no_grad():
        lefts = [encode(c.stack, torch.zeros(1, 3, 256, 192), None, c.schedule).x.shape[1] for c in cases.values()]
    assert lefts == [192, 192, 192, 90]
    assert cases["upstream"].macs == cases["tuned"].macs > cases["eclm"].macs > cases["eclm+mask_tome"].macs


def test_result_names_every_case_in_both_precisions(model):
    result = bench(model, STEPS, batch=2, rounds=2, device=torch.device("cpu"))
    cases = {(case["precision"], case["name"]): case for case in result["cases"]}
    assert list(cases) == [(precision, name) for precision in ("float32", "bfloat16") for name in NAMES]
    for precision in ("float32", "bfloat16"):
        assert cases[precision, "tuned"]["time_ratio"] == cases[precision, "tuned"]["mac_ratio"] == 1
        assert cases[precision, "upstream"]["mac_ratio"] == 1
        baseline = cases[precision, "tuned"]["median_s"]
        for name in NAMES:
            case = cases[precision, name]
            assert case["time_ratio"] == pytest.approx(baseline / case["median_s"])
            shares = [s["share"] for s in result["stages"] if (s["precision"], s["case"]) == (precision, name)]
            assert len(shares) == 4 and sum(shares) == pytest.approx(1)
            stages = [s for s in result["stages"] if (s["precision"], s["case"]) == (precision, name)]
            assert sum(s["encoder_share"] or 0 for s in stages) == pytest.approx(1)
            assert [s["name"] for s in stages if s["encoder_share"] is None] == ["head"]


@pytest.mark.parametrize("architecture", WINDOWS)
def test_an_eighth_of_the_layers_goes_or_what_is_nearest(architecture):
    with torch.device("meta"):
        full = build(architecture)
    cases = cases_of(full, steps_of(architecture))
    left, whole = (len(cases[name].stack.blocks) for name in ("eclm", "tuned"))
    assert abs(8 * left - 7 * whole) <= 4


def test_each_frame_protects_the_same_number_of_tokens():
    person = persons(5, 192)
    assert person.sum(1).tolist() == [round(PROTECTED * 192)] * 5
    assert not torch.equal(person[0], person[1])
