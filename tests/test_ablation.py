"""Tables: rows are what a recipe of the same steps measures, on the masks that they name."""

from __future__ import annotations

import json

import pytest
import torch

from compress.errors import BadInput
from compress.merge_layers import MergeLayers
from compress.merge_tokens import MergeTokens
from experiments.ablation import Row, Table, ablate, shown, with_recovery
from experiments.cost import frame_cost, shaped
from experiments.datasets import parse
from experiments.models import Resolved
from experiments.paper import table
from hmr.model import build

SMALL = {"dim": 16, "depth": 4, "heads": 2, "mlp_dim": 16, "head_dim": 16, "head_depth": 1}
MERGED = Row("pairs", (MergeLayers(strategy="explicit", windows=((0, 1),)),))
TOKENS = (MergeTokens(keep=90, per_layer=51),)


def small() -> Resolved:
    return Resolved(name="small", model=build("reference", SMALL).eval(), sha256="0" * 64, compressed=False)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    rows = (
        MERGED,
        Row("greedy", (MergeLayers(strategy="greedy", layers=1),), as_deep_as="pairs"),
        Row("exact", TOKENS),
        Row("box", TOKENS, "box"),
    )
    return ablate(Table("t", "Title", "Why?", rows), small(), parse("synth:val"), 4, 3)


def test_the_first_row_is_the_original_and_rises_by_nothing(result):
    assert result["rows"][0]["name"] == "original"
    assert result["rows"][0]["mpjpe_rise_mm"] == {"mean": 0.0, "lo": 0.0, "hi": 0.0}


def test_a_search_comes_down_to_the_depth_of_the_row_it_names(result):
    layers = {row["name"]: row["layers"] for row in result["rows"]}
    assert layers["pairs"] == layers["greedy"] == 3 and layers["original"] == 4


def test_rows_do_not_see_each_other(result):
    alone = ablate(Table("t", "", "", (Row("exact", TOKENS),)), small(), parse("synth:val"), 4, 3)
    kept = [[row["tokens"], row["macs"], row["layers"]] for row in (result["rows"][3], alone["rows"][1])]
    assert kept[0] == kept[1] and result["rows"][3]["layers"] == 4


def test_masks_reach_the_model(result):
    exact, box = result["rows"][3], result["rows"][4]
    assert exact["macs"] == box["macs"]
    assert exact["protected_merged_share"] != box["protected_merged_share"]


def test_a_table_is_json_and_text(result):
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert shown(result).row_count == 5


def test_steps_that_do_not_fit_are_refused_before_anything_is_measured():
    too_deep = Table("t", "", "", (Row("no", (MergeLayers(strategy="explicit", windows=((0, 9),)),)),))
    told: list[str] = []
    with pytest.raises(BadInput, match="block"):
        ablate(too_deep, small(), parse("synth:val"), 4, 3, lambda *said: told.append(said[0]))
    assert not told


def test_an_unknown_table_is_named_with_its_nearest():
    with pytest.raises(BadInput, match="tokens"):
        table("token")


@pytest.mark.parametrize("name", ["thresholds", "operators", "tokens", "budgets"])
def test_shipped_tables_fit_the_reference_model(name):
    model = build("reference")
    chosen = table(name)
    assert chosen.name == name
    names = [row.name for row in chosen.rows]
    for row in chosen.rows:
        assert row.as_deep_as is None or row.as_deep_as in names[: names.index(row.name)]
        for step in row.steps:
            step.check(model)


def test_token_policies_are_compared_at_equal_macs():
    """Where background goes at the input, fewer layers see it: the budget is met by keeping a few tokens more."""
    macs = {row.name: counted(row.steps) for row in table("tokens").rows if row.masks == "exact"}
    for keep, dropped in ((130, 135), (90, 100), (60, 74)):
        assert macs[f"drop to {dropped}"] == pytest.approx(macs[f"Mask-ToMe {keep}"], rel=0.01)


def test_recovered_rows_stand_beside_their_own_and_train_once(monkeypatch, tmp_path):
    """Masks are for measuring: rows that differ in them alone are one model, which is recovered once."""
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path))
    ways = (Row("exact", TOKENS), Row("box", TOKENS, "box"), Row("no steps"))
    rows = with_recovery(ways, 0.01)
    assert [row.name for row in rows] == ["exact", "box", "exact, recovered", "box, recovered", "no steps"]
    told: list[str] = []
    found = ablate(Table("t", "", "", ways), small(), parse("synth:val"), 4, 3, lambda *say: told.append(say[0]), 0.01)
    measured = found["rows"]
    assert [row["name"] for row in measured] == ["original", *(row.name for row in rows)]
    first, again = (row["plans"] for row in measured[3:5])
    assert first == again and [plan["policy"] for plan in first] == ["merge_tokens", "recover"]
    ids = [row["recipe_id"] for row in measured]
    assert ids[1] == ids[2] != ids[3] == ids[4]
    assert "recovering" in told and "recovering" not in told[told.index("measuring box, recovered") :]
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_budgets_are_kept():
    """Rows are named after the share of multiply-accumulates they may take; layers cost the same, found or given."""
    original = counted(())
    for row in table("budgets").rows:
        if row.model is None:
            given = [as_given(step) for step in row.steps]
            assert counted(given) <= int(row.name.split()[0]) / 100 * original


def counted(steps) -> int:
    """True MACs of the reference model after steps."""
    with torch.device("meta"):
        model = build("reference").eval()
    shaped(model, steps)
    return frame_cost(model, torch.device("meta")).macs.true


def as_given(step):
    """A search for some depth, as windows that lead to it."""
    if not isinstance(step, MergeLayers) or step.layers is None:
        return step
    return MergeLayers(strategy="explicit", windows=((step.layers - 1, 15),))
