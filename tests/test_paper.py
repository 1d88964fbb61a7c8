"""The paper's tables: claims are decided by paired intervals, and one page holds every table or what it misses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from compress.card import formatted
from compress.errors import BadInput
from experiments.paper import fill
from experiments.paper.finding import VERDICTS, Finding, below, difference, every, rise, sentence
from experiments.paper.tables import tables
from hmr.checkpoints.files import save
from hmr.data.datasets import choosing
from hmr.evaluation.intervals import Interval, paired_interval
from hmr.models.model import build
from tests.links import Links

SIZES = {"dim": 16, "depth": 14, "heads": 2, "mlp_dim": 16, "head_dim": 16, "head_depth": 1}
CLIPS = {"walk": 3, "sit": 5, "jump": 2}  # recordings, by their frames
SHIPPED = {table.name: table for name in ("all", "operators", "tokens", "budgets") for table in tables(name)}


def row(name: str, mm: float, clips: dict[str, float] | None = None, **other: object) -> dict:
    """A measured row: `mm` off in each recording, or as much more as `clips` says."""
    errors = {clip: mm + (clips or {}).get(clip, 0.0) for clip in CLIPS}
    per_clip = [{"clip": clip, "frames": CLIPS[clip], "mpjpe_mm": errors[clip]} for clip in CLIPS]
    mean = {"mean": mm, "lo": mm, "hi": mm}
    usual = {"layers": 14, "times_faster": 1.0, "macs_share": 0.5, "macs": {"thop": 0}}
    return {"name": name, "per_clip": per_clip, "mpjpe_mm": mean, **usual, **other}


def rows(*some: dict) -> dict[str, dict]:
    return {one["name"]: one for one in some}


# ---- what a claim is decided by


def test_a_rise_over_recordings_is_the_paired_interval_of_their_frames():
    rng = np.random.default_rng(0)
    clips = [clip for clip, frames in CLIPS.items() for _ in range(frames)]
    mine, theirs = rng.normal(80, 9, (2, len(clips)))
    found = rows(*(row(name, 0, means(errors, clips)) for name, errors in (("a", mine), ("b", theirs))))
    gap = rise(found, "a", "b")
    wanted = paired_interval(mine, theirs, clips)
    assert gap is not None
    assert (gap.mean, gap.lo, gap.hi) == pytest.approx((wanted.mean, wanted.lo, wanted.hi))


def means(errors: np.ndarray, clips: list[str]) -> dict[str, float]:
    return {clip: float(errors[np.array(clips) == clip].mean()) for clip in CLIPS}


def test_one_recording_decides_nothing():
    alone = {name: {"per_clip": [{"clip": "walk", "frames": 9, "mpjpe_mm": mm}]} for name, mm in (("a", 9), ("b", 5))}
    gap = rise(alone, "a", "b")
    assert gap is not None and gap.mean == 4 and below(gap, 100) is None
    assert difference(gap) == "+4.0 mm, of one recording"


def test_what_was_not_measured_decides_nothing():
    assert rise(rows(row("a", 1)), "a", "b") is None and below(None) is None


@pytest.mark.parametrize(
    "ends, verdict",
    [((-3, -1), True), ((1, 3), False), ((-1, 1), None), ((-1, 0), None), ((None, None), None)],
)
def test_a_difference_is_below_zero_where_its_whole_interval_is(ends, verdict):
    assert below(Interval(0.0, *ends)) is verdict


def test_one_that_fails_decides_and_one_unknown_leaves_open():
    assert every(True, True) is True and every() is True
    assert every(True, None) is None
    assert every(True, None, False) is False


def test_a_sentence_says_the_figures_and_the_verdict():
    for verdict, words in VERDICTS.items():
        found = Finding("the claim", lambda rows: rows["a"]["verdict"], lambda rows: "it shows 1 mm")
        assert sentence(found, {"a": {"verdict": verdict}}) == f"It shows 1 mm; the claim {words}."


# ---- the claims of the shipped tables

SPREAD = {"walk": -4.0, "sit": 0.0, "jump": 5.0}  # around a mean: no sign is sure
CASES: dict[str, tuple[dict[str, float], dict[str, float]]] = {  # table -> MPJPE of rows where it holds, and where not
    "tab2": ({"original": 80, "window, slm, 0.1 mm": 80.3}, {"original": 80, "window, slm, 0.1 mm": 83}),
    "tab6": (
        {"original": 80, "ECLM": 80, "ECLM, Mask-ToMe": 90},
        {"original": 80, "ECLM": 85, "ECLM, Mask-ToMe": 90},
    ),
    "tab10": (
        {"10 a layer": 85, "40 a layer": 84, "96 a layer": 93},
        {"10 a layer": 83, "40 a layer": 84, "96 a layer": 93},
    ),
    "tab11": ({"ECLM, ToMe": 98, "ECLM, Mask-ToMe": 84}, {"ECLM, ToMe": 84, "ECLM, Mask-ToMe": 98}),
    "tokens": (
        {"ToMe 130": 90, "Mask-ToMe 130": 80, "ToMe 90": 99, "Mask-ToMe 90": 85},
        {"ToMe 130": 90, "Mask-ToMe 130": 91, "ToMe 90": 99, "Mask-ToMe 90": 85},
    ),
    "operators": (
        {"greedy, slm, as deep as window, drop, 1.0 mm": 80, "greedy, drop, as deep as window, drop, 1.0 mm": 82},
        {"greedy, slm, as deep as window, drop, 1.0 mm": 82, "greedy, drop, as deep as window, drop, 1.0 mm": 80},
    ),
    "budgets": (
        {"90 tokens": 90, "linear at 5 mm, 90 tokens": 70, "reference-small, as trained": 75},
        {"90 tokens": 90, "linear at 5 mm, 90 tokens": 80, "reference-small, as trained": 75},
    ),
}
OTHER: dict[str, dict[str, float]] = {  # beside the error
    "original": {"layers": 16, "times_faster": 1.02},
    "ECLM": {"times_faster": 1.2},
    "ECLM, Mask-ToMe": {"times_faster": 1.8},
}


def measured(errors: dict[str, float], spread: dict[str, float] | None = None) -> dict[str, dict]:
    """Rows of a table; with a spread, their errors differ from recording to recording, each in its own way."""
    turned = [spread, None] * len(errors)
    return rows(*(row(name, mm, turned[i], **OTHER.get(name, {})) for i, (name, mm) in enumerate(errors.items())))


def test_every_table_has_a_case():
    assert {*CASES, "fig2", "tab12"} == {*SHIPPED}


@pytest.mark.parametrize("name", CASES)
def test_a_claim_holds_fails_or_stays_open(name):
    finding = SHIPPED[name].finding
    good, bad = CASES[name]
    assert finding.holds(measured(good)) is True
    assert finding.holds(measured(bad)) is False
    near = {row: 80.0 + i % 2 / 10 for i, row in enumerate(good)}
    assert finding.holds(measured(near, SPREAD)) is None
    for errors in (good, bad, near):
        text = sentence(finding, measured(errors))
        assert "mm" in text and text.endswith(".") and text.count("here") == 1


def test_a_gain_within_the_clocks_own_error_is_none():
    errors = CASES["tab6"][0]
    for of_original, of_layers, verdict in (
        (1.02, 1.2, True),
        (1.02, 1.02, None),
        (0.95, 1.04, None),
        (1.0, 0.9, False),
    ):
        found = measured(errors)
        found["original"]["times_faster"], found["ECLM"]["times_faster"] = of_original, of_layers
        assert SHIPPED["tab6"].finding.holds(found) is verdict


def test_no_layer_less_is_no_finding():
    good = measured(CASES["tab2"][0])
    good["window, slm, 0.1 mm"]["layers"] = 16
    assert SHIPPED["tab2"].finding.holds(good) is False


def test_likeness_falls_with_distance_or_does_not():
    def apart(values: dict[int, float]) -> dict[str, dict]:
        per_clip = {n: [{"clip": c, "frames": 1, "cka": v} for c in CLIPS] for n, v in values.items()}
        return {f"{n} apart": {"cka": {"mean": v}, "per_clip": per_clip[n]} for n, v in values.items()}

    finding = SHIPPED["fig2"].finding
    assert finding.holds(apart({1: 0.99, 2: 0.9, 16: 0.5})) is True
    assert finding.holds(apart({1: 0.5, 2: 0.9, 16: 0.99})) is False
    assert "0.990 between neighbours and 0.500 between layers 16 apart" in finding.shows(apart({16: 0.5, 1: 0.99}))


def test_counts_hold_to_the_printed_digit():
    def counts(more: float) -> dict[str, dict]:
        figures = {way.name: way.paper["any"] for way in SHIPPED["tab12"].rows if way.model}
        made = [row(name, 0, params_thop=f["params_thop"], macs={"thop": f["macs_thop"] + more})
                for name, f in figures.items()]  # fmt: skip
        return rows(row("ECLM, Mask-ToMe", 0), *made)

    assert SHIPPED["tab12"].finding.holds(counts(0.04e9)) is True
    assert SHIPPED["tab12"].finding.holds(counts(0.06e9)) is False


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = build("reference", SIZES)
    with torch.no_grad():
        model.smpl_head.decpose.get_parameter("weight").mul_(30)  # it listens to its picture
    return save(model, tmp_path_factory.mktemp("model") / "tiny.safetensors")


def asked(*words: object) -> list[object]:
    return ["paper", *words, "--data", "synth:test", "--frames", 4, "--calib-frames", 3]


# ---- figures in pages


def test_pages_have_the_figures_of_the_records():
    for path in fill.PAGES:
        assert fill.filled(path.read_text()) == path.read_text(), f"python -m experiments.paper.fill ({path.name})"


def test_a_table_is_filled_and_keeps_its_words(tmp_path, monkeypatch):
    monkeypatch.setattr(fill, "RECORDS", tmp_path)
    noise, hybrid = (row(name, mm, mpjpe_rise_mm=row("", mm - 60)["mpjpe_mm"]) for name, mm in (("b", 61), ("c", 50)))
    first = row("a", 60, mpjpe_rise_mm=None)
    stored_rows = [{**one, "frames_per_s": 30.4} for one in (first, first, noise, hybrid)]
    (tmp_path / "objectives.json").write_text(json.dumps({"rows": stored_rows}))
    page = "Text.\n\n<!-- mpjpe_mm mpjpe_rise_mm frames_per_s of objectives:0 objectives:2-3 -->\n"
    page += "| row | MPJPE mm | more | frames/s |\n|---|--:|--:|--:|\n"
    page += "| first | 1 | 2 | 3 |\n| b | ? | | |\n| c | | | |\n\n"
    lines = fill.filled(page).splitlines()
    assert lines[:5] == page.splitlines()[:5] and len(lines) == 9
    for line, name, one in zip(lines[5:8], ("first", "b", "c"), (first, noise, hybrid), strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == name and cells[1].startswith(f"{one['mpjpe_mm']['mean']:.1f} [")
        assert cells[2] == "-" if one is first else cells[2].startswith(f"{one['mpjpe_rise_mm']['mean']:+.1f} [")
        assert cells[3] == "30.4"
    with pytest.raises(ValueError, match=r"shorter|longer"):
        fill.filled(page.replace("objectives:2-3", "objectives:2"))


def test_a_column_may_be_of_the_same_row_of_another_record(tmp_path, monkeypatch):
    monkeypatch.setattr(fill, "RECORDS", tmp_path)
    for name, share in (("here", 0.5), ("on-real", 0.25)):
        rows = [{"macs_share": 1.0, "layers": 12, "tokens": [193, 91]}, {"macs_share": share, "layers": None}]
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": rows}))
    page = "<!-- layers macs_share on-real.macs_share on-real.layers of here:1 -->\n"
    page += "| a | b | c | d | e |\n|---|--:|--:|--:|--:|\n"
    assert fill.filled(page + "| row | | | | |\n").endswith("| row | - | 50% | 25% | - |\n")
    assert fill.cell("tokens", "here", 0) == "91"


# ---- one page


def test_every_table_is_on_one_page_or_says_what_is_missing(fasthmr, weights, tmp_path):
    out = tmp_path / "out"
    code, said, err = fasthmr(*asked("all", "--model", weights, "--out", out, "--json"))
    assert code == 0, err
    found = json.loads(said)
    names = ["fig2", "tab2", "tab6", "tab10", "tab11", "tab12"]
    assert [table["table"] for table in found["tables"]] == names
    by_name = {table["table"]: table for table in found["tables"]}
    assert not any("missing" in table for table in found["tables"])
    assert by_name["tab12"]["holds"] is True  # HMR2.0's counts are the paper's, whatever the weights here
    assert found["provenance"]["data"]["frames"] == 4 and found["provenance"]["calib"]["frames"] == 3
    assert json.loads((out / "paper.json").read_text()) == found

    html = (out / "paper.html").read_text()
    text = Links()
    text.feed(html)
    inside = [link for link in text.found if not link.startswith("data:image/png;base64,")]
    assert inside and all(link[0] == "#" and link[1:] in text.ids for link in inside)
    assert not {"script", "link", "iframe", "img"} & {*text.tags} and "svg" in text.tags
    for table in found["tables"]:
        assert html.count(table["sentence"].replace("'", "&#39;")) == 1
        for one in table.get("rows", []):
            error = one.get("mpjpe_mm")
            assert error is None or formatted(error) in html
        for name in table.get("impossible", {}):
            assert f"Impossible: {name}, because" in html
    left = [path.read_text() for path in (tmp_path / "home" / "searches").iterdir()]
    assert left and all(line.startswith('{"windows"') for text in left for line in text.splitlines())  # and no rows


def test_what_is_missing_stands_in_the_place_of_each_table(fasthmr, weights, tmp_path):
    """Of six blocks, ten tokens a layer cannot be merged down to 90; without any table there is no page."""
    shallow = save(build("reference", {**SIZES, "depth": 6}), tmp_path / "shallow.safetensors")
    code, said, err = fasthmr(*asked("all", "--model", shallow, "--out", tmp_path / "out", "--json"))
    assert code == 0, err
    found = {table["table"]: table for table in json.loads(said)["tables"]}
    assert [name for name, table in found.items() if "missing" in table] == ["tab10"]
    assert "last block is 5" in found["tab10"]["missing"] and found["tab10"]["holds"] is None
    code, said, err = fasthmr(*asked("all", "--model", weights, "--calib", f"3dpw@{tmp_path}"))
    assert (code, said) == (2, "") and "holds 3DPW's sequenceFiles and imageFiles" in err


def test_what_a_search_made_impossible_leaves_a_claim_open():
    """ECLM may leave fewer layers than Mask-ToMe needs."""
    for name in ("tab6", "tab10", "tab11"):
        left = measured({row: mm for row, mm in CASES[name][0].items() if row in ("original", "ECLM")})
        assert SHIPPED[name].finding.holds(left) is None and "unmeasured" in sentence(SHIPPED[name].finding, left)


@pytest.mark.parametrize(
    "words, hint",
    [
        (["tab22", "--model", "reference", "--data", "synth"], "did you mean 'tab2'"),
        (["tab2", "--model", "refrence", "--data", "synth"], "did you mean 'reference'"),
        (["tab2", "--model", "reference", "--data", "synth:calib"], "choices are made on this split"),
        (["tab2", "--model", "reference", "--data", "synth", "--calib", "synth:test"], "results are reported on this"),
        (["tab2", "--model", "reference", "--data", "synth", "--masks", "rfdetr"], "has exact masks of its own"),
        (["tab2", "--model", "reference", "--data", "emdb@nowhere"], "nowhere: there is no such folder"),
        (["all", "--model", "reference", "--data", "3dpw@nowhere", "--out", "out"], "nowhere: there is no such folder"),
    ],
)
def test_mistakes_are_one_sentence(fasthmr, monkeypatch, tmp_path, words, hint):
    monkeypatch.chdir(tmp_path)
    code, out, err = fasthmr("paper", *words)
    assert (code, out, err.count("\n")) == (2, "", 1) and hint in err
    assert list(tmp_path.iterdir()) == []


def test_choices_are_made_on_calib_unless_another_split_is_named():
    assert (choosing("synth"), choosing("synth:val")) == ("synth:calib", "synth:val")
    assert choosing("emdb@a/b") == "emdb:calib@a/b"
    with pytest.raises(BadInput, match="results are reported on this split"):
        choosing("synth:test")
