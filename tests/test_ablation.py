"""Tables: rows are what a recipe of the same steps measures, on the masks that they name."""

from __future__ import annotations

import json

import pytest
import torch

from compress.context import Context, silent
from compress.errors import BadInput
from compress.pipeline import run_all_steps
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from experiments.cli.paper import paper_table
from experiments.paper.ablation import Comparison, Table, TableRow, ablate, with_recovery
from experiments.paper.finding import Finding
from experiments.paper.tables import tables
from hmr.models.model import HMRModel, build

OPEN = Finding("the claim", lambda rows: None, lambda rows: f"{len(rows)} rows")
SMALL = {"dim": 16, "depth": 4, "heads": 2, "mlp_dim": 16, "head_dim": 16, "head_depth": 1}
MERGED = TableRow("pairs", (MergeLayers(strategy="explicit", windows=((0, 1),)),))
SLOW = (MergeTokens(keep=150, per_layer=21),)
TOKENS = (MergeTokens(keep=90, per_layer=51),)


def small() -> HMRModel:
    model = build("reference", SMALL).eval()
    model.name, model.sha256 = "small", "0" * 64
    return model


def comparison(observer=silent) -> Comparison:
    return Comparison(small(), "synth:val", 4, 3, observer)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """Rows are known by the hash of a model, and those here have none."""
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    rows = (
        MERGED,
        TableRow("greedy", (MergeLayers(strategy="greedy", layers=1),), as_deep_as="pairs"),
        TableRow("exact", TOKENS),
        TableRow("box", TOKENS, "box"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTHMR_HOME", str(tmp_path_factory.mktemp("home")))
        return ablate(Table("t", "Title", "Why?", OPEN, rows), comparison())


def test_the_first_row_is_the_original_and_rises_by_nothing(result):
    assert result["rows"][0]["name"] == "original"
    assert result["rows"][0]["mpjpe_rise_mm"] == {"mean": 0.0, "lo": 0.0, "hi": 0.0}


def test_a_search_comes_down_to_the_depth_of_the_row_it_names(result):
    layers = {row["name"]: row["layers"] for row in result["rows"]}
    assert layers["pairs"] == layers["greedy"] == 3 and layers["original"] == 4


def test_rows_do_not_see_each_other(result):
    alone = ablate(Table("t", "", "", OPEN, (TableRow("exact", TOKENS),)), comparison())
    kept = [[row["tokens"], row["macs"], row["layers"]] for row in (result["rows"][3], alone["rows"][1])]
    assert kept[0] == kept[1] and result["rows"][3]["layers"] == 4


def test_masks_reach_the_model(result):
    exact, box = result["rows"][3], result["rows"][4]
    assert exact["macs"] == box["macs"]
    assert exact["protected_merged_share"] != box["protected_merged_share"]


def test_a_table_is_json_and_text(result):
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    table = paper_table(result)
    assert table.row_count == 5 and "5 rows; the claim is inconclusive here." in str(table.caption)


def test_steps_that_do_not_fit_are_refused_before_anything_is_measured():
    too_deep = Table("t", "", "", OPEN, (TableRow("no", (MergeLayers(strategy="explicit", windows=((0, 9),)),)),))
    told: list[str] = []
    with pytest.raises(BadInput, match="block"):
        ablate(too_deep, comparison(lambda *said: told.append(said[0])))
    assert not told


def test_an_unknown_table_is_named_with_its_nearest():
    with pytest.raises(BadInput, match="tokens"):
        tables("token")


SHIPPED = [table for name in ("all", "operators", "tokens", "budgets") for table in tables(name)]


@pytest.mark.parametrize("chosen", SHIPPED, ids=lambda chosen: chosen.name)
def test_shipped_tables_fit_the_reference_model(chosen):
    model = build("reference")
    (named,) = tables(chosen.name)
    assert named is chosen
    names = [row.name for row in chosen.rows]
    for row in chosen.rows:
        assert row.as_deep_as is None or row.as_deep_as in names[: names.index(row.name)]
        for step in row.steps if row.model is None else ():
            step.check(model)


def test_token_policies_are_compared_at_equal_macs():
    """Where background goes at the input, fewer layers see it: the budget is met by keeping a few tokens more."""
    macs = {row.name: counted(row.steps) for row in tables("tokens")[0].rows if row.masks == "exact"}
    for keep, dropped in ((130, 135), (90, 100), (60, 75)):
        assert macs[f"drop to {dropped}"] == pytest.approx(macs[f"Mask-ToMe {keep}"], rel=0.01)


def test_recovered_rows_stand_beside_their_own_and_train_once(tmp_path):
    """Masks are for measuring: rows that differ in them alone are one model, which is recovered once."""
    ways = (TableRow("exact", TOKENS), TableRow("box", TOKENS, "box"), TableRow("no steps"))
    rows = with_recovery(ways, 0.01)
    assert [row.name for row in rows] == ["exact", "box", "exact, recovered", "box, recovered", "no steps"]
    told: list[str] = []
    made = comparison(lambda *say: told.append(say[0]))
    found = ablate(Table("t", "", "", OPEN, ways), made, 0.01)
    made.forget()
    measured = found["rows"]
    assert [row["name"] for row in measured] == ["original", *(row.name for row in rows)]
    first, again = (row["plans"] for row in measured[3:5])
    assert first == again and [plan["policy"] for plan in first] == ["merge_tokens", "recover"]
    ids = [row["recipe_id"] for row in measured]
    assert ids[1] == ids[2] != ids[3] == ids[4]
    assert "recovering" in told and "recovering" not in told[told.index("measuring box, recovered") :]
    assert not list(tmp_path.rglob("checkpoint-*")) and not list(tmp_path.rglob("*.jsonl"))


def test_rows_whose_steps_come_to_the_same_model_are_recovered_once():
    told: list[str] = []
    nothing = MergeLayers(strategy="explicit", windows=())
    ways = (TableRow("tokens", TOKENS), TableRow("nothing, and tokens", (nothing, *TOKENS)))
    found = ablate(Table("t", "", "", OPEN, ways), comparison(lambda *say: told.append(say[0])), 0.01)
    rows = {row["name"]: row for row in found["rows"]}
    first, second = (rows[f"{way.name}, recovered"] for way in ways)
    assert first["mpjpe_mm"] == second["mpjpe_mm"] and first["plans"] == second["plans"][1:]
    stages = [stage for stage, last in zip(told, ["", *told], strict=False) if stage != last]
    assert stages.count("recovering") == 1


def test_rows_that_come_to_the_same_model_are_measured_once():
    told: list[str] = []
    again = TableRow("again", (MergeLayers(strategy="explicit", windows=((0, 1),)), MergeTokens(keep=192)))
    found = ablate(Table("t", "", "", OPEN, (MERGED, again)), comparison(lambda *said: told.append(said[0])))
    assert "measuring pairs" in told and "measuring again" not in told
    first, second = found["rows"][1:]
    assert first["mpjpe_mm"] == second["mpjpe_mm"] and first["recipe_id"] != second["recipe_id"]


def test_a_table_that_was_killed_goes_on():
    table = Table("t", "", "", OPEN, (MERGED, TableRow("exact", TOKENS)))
    begun = comparison()
    before = [begun.measure(way, *begun.made(way)) for way in (table.original, MERGED)]
    with begun.journal.open("a") as file:
        file.write('\n["torn", {"mpj')
    told: list[str] = []
    resumed = comparison(lambda *said: told.append(said[0]))
    rows = ablate(table, resumed)["rows"]
    assert rows[:2] == before and rows[2]["name"] == "exact"
    assert [name for name in dict.fromkeys(told) if name.startswith("measuring")] == [
        "measuring exact",
        "measuring original",
    ]
    resumed.forget()
    assert not resumed.journal.exists()


def test_a_row_that_the_search_left_no_room_for_says_so():
    """Ten tokens a layer take more layers than a search may leave; the other rows are there all the same."""
    ways = (TableRow("room", TOKENS), TableRow("none", (MergeLayers(strategy="greedy", threshold_mm=1e6), *SLOW)))
    found = ablate(Table("t", "", "", OPEN, ways), comparison())
    assert [row["name"] for row in found["rows"]] == ["original", "room"]
    assert "this model's last block is 0" in found["impossible"]["none"]


def counted(steps) -> int:
    """True MACs of the reference model after steps."""
    with torch.device("meta"):
        model = build("reference").eval()
    return run_all_steps(model, tuple(steps), Context(model)).cost().macs.true
