"""`fasthmr report`: what may stand in one front, and a page that says what front.json says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.cost.macs import Macs, Part
from compress.errors import BadInput
from compress.policies.merge_tokens import MergeTokens
from compress.recipe import Recipe
from experiments.reports import front, front_page, plots
from experiments.search.trials import Interval, Record, Trial, Worst, front_of
from tests.links import Links

SOURCE: dict[str, Any] = {
    "commit": "c" * 40,
    "seed": 0,
    "device": "cpu",
    "threads": 1,
    "precision": "float32",
    "label_free": False,
    "body": {"name": "open", "sha256": "b" * 64},
    "model": {"name": "<i>tiny</i>", "architecture": "reference", "sha256": "m" * 64},
    "data": {"name": "synth", "split": "val", "frames": 4, "clips": 2, "fps": None, "mask_source": "renderer"},
    "calib": {"name": "synth", "split": "calib", "frames": 4},
}


def record(macs: int, mm: float, split: str = "val", keep: int = 0) -> Record:
    steps = (MergeTokens(keep=keep),) if keep else ()
    recipe = Recipe(schema_version=1, name="mine", steps=steps)
    interval = Interval(mean=mm, lo=mm - 1, hi=mm + 1)
    counted = Macs(true=macs, linear=macs, thop=macs)
    return Record(
        recipe=recipe,
        recipe_id=recipe.id,
        plans=(),
        layers=5,
        tokens=(192,),
        params=10,
        macs=counted,
        parts=(Part(name="backbone.blocks.0", params=5, macs=counted),),
        latency_ms=None,
        peak_memory_bytes=None,
        frames_per_s=1.0,
        mpjpe_mm=interval,
        pa_mpjpe_mm=interval,
        pve_mm=interval,
        accel_mm_per_frame2=None,
        mpjpe_rise_mm=Interval(mean=mm - 100, lo=mm - 101, hi=mm - 99),
        per_joint_mm={"pelvis": 0.0, "head": mm},
        per_clip=(),
        worst=(Worst(clip="a", frame=0, mpjpe_mm=mm, rise_mm=mm - 100),),
        protected_merged_share=None,
        provenance={**SOURCE, "data": {**SOURCE["data"], "split": split}},
    )


def trial(number: int, macs: int, mm: float, test: float | None = None, **rest: object) -> Trial:
    keep = number and 10 * number
    tested = None if test is None else record(macs, test, "test", keep)
    found = Trial(number, "complete", "", {}, record(macs, mm, keep=keep), test=tested)
    return replace(found, **rest)  # type: ignore[arg-type]


TRIALS = [
    trial(0, 1000, 100.0, 100.0, name="original"),
    trial(1, 500, 102.0, 104.0),
    trial(2, 500, 102.0, 103.0),  # equal on val: the earlier stands for both
    trial(3, 400, 110.0, 109.0),
    trial(4, 600, 105.0),  # dominated
    trial(5, 300, 200.0, state="infeasible", violation=50.0),
    Trial(6, "failed", "", {}, reason="it <broke>"),
    trial(7, 450, 111.0, 101.0, name="by hand"),
]


def load_results(**changes: object) -> front.Results:
    return replace(front.Results("mine", TRIALS, {}, ("macs", "mpjpe_mm")), **changes)  # type: ignore[arg-type]


def test_the_front_is_feasible_and_of_equals_the_earliest():
    assert [t.number for t in front_of(TRIALS, ("macs", "mpjpe_mm"))] == [3, 1, 0]


def test_front_json_says_every_trial():
    said = front.result(load_results())
    json.dumps(said, allow_nan=False)
    assert said["front"] == [3, 1, 0]
    assert [t["state"] for t in said["trials"]] == [t.state for t in TRIALS]
    assert said["trials"][1]["values"] == [500.0, 102.0] and said["trials"][1]["test_values"] == [500.0, 104.0]
    assert said["trials"][5]["violation"] == 50.0 and said["trials"][6]["reason"] == "it <broke>"
    assert said["reference_point"] == pytest.approx([1100.0, 1.1 * 111.0])
    assert len(said["hypervolume"]) == len(TRIALS) and said["hypervolume"][5] == said["hypervolume"][4]


def test_what_beats_the_front_on_test_is_said():
    assert front.beaten(load_results()) == ["by hand beats point 1 of the front on test"]
    rival = {"small": {"val": record(390, 100.0), "test": record(390, 100.0, "test")}}
    assert front.beaten(load_results(rivals=rival))[1] == "small beats points 3, 1, 0 of the front on test"


@pytest.mark.parametrize(
    "change, named",
    [
        ({"data": {**SOURCE["data"], "name": "synth-shift"}}, "name synth-shift and synth"),
        ({"data": {**SOURCE["data"], "frames": 5}}, "frames 5 and 4"),
        ({"data": {**SOURCE["data"], "mask_source": "rfdetr"}}, "mask_source rfdetr and renderer"),
        ({"body": {"name": "smpl", "sha256": "d" * 64}}, "body dddd"),
        ({"data": {**SOURCE["data"], "path": "walk.mp4"}}, r"path walk\.mp4 and None"),
        ({"data": {**SOURCE["data"], "convention": "h36m14-hips"}}, "convention h36m14-hips and None"),
        ({"label_free": True}, "labels of"),
    ],
)
def test_unlike_figures_do_not_stand_in_one_front(change, named):
    one = record(100, 90.0)
    other = one.model_copy(update={"provenance": {**one.provenance, **change}})
    with pytest.raises(BadInput, match=named):
        front.refuse_mixture(load_results(rivals={"other": {"val": other}}))
    front.refuse_mixture(load_results(rivals={"other": {"val": one}}))


def test_another_split_does_not_stand_in_a_studys_front():
    with pytest.raises(BadInput, match="was measured on train"):
        front.refuse_mixture(load_results(rivals={"other": {"train": record(100, 90.0, "train")}}))


@pytest.mark.parametrize(("split", "cells"), [("test", ("-", "100.0 [99.0, 101.0]")), ("val", ("100.0", "-"))])
def test_figures_of_a_folder_stand_under_the_split_they_are_of(split, cells, tmp_path):
    told = front.folder_results({"mine": (record(1000, 100.0, split), record(500, 104.0, split, keep=90))})
    assert front.rows(told)[-1][5:7] == cells
    said = front_page.write(told, tmp_path / "out")
    assert [t["test_values"] is None for t in said["trials"]] == [split != "test"] * 2
    assert f"measured on {split}" in (tmp_path / "out/report.html").read_text()
    columns = (tmp_path / "out/trials.csv").read_text().split("\n")[0].split(",")
    assert {name.partition("_")[0] for name in columns if name.endswith("_mpjpe_mm")} == {split}


def test_a_front_of_nothing_and_knobs_that_nothing_was_drawn_for_are_a_page_too(tmp_path, monkeypatch):
    worse = [replace(t, state="infeasible") for t in TRIALS if t.record and not t.name]
    assert front_page.write(load_results(trials=worse), tmp_path / "none")["front"] == []
    monkeypatch.setattr(front_page, "importance", lambda *_: {})
    drawn = load_results(trials=[replace(TRIALS[1], number=i, params={"merge_tokens.keep": 90}) for i in range(8)])
    assert front_page.importance_plot(replace(drawn, spec=object())) == ""  # type: ignore[arg-type]  # nothing is asked of it


def test_labels_are_the_originals_beside_another_model_too():
    free = {**SOURCE, "label_free": True}
    mine = record(100, 90.0).model_copy(update={"provenance": free})
    other = mine.model_copy(
        update={"provenance": {**free, "model": {**SOURCE["model"], "sha256": "n" * 64}, "labels_of": "m" * 64}}
    )
    front.refuse_mixture(
        load_results(trials=[replace(TRIALS[0], record=mine, test=None)], rivals={"other": {"val": other}})
    )


def test_an_objective_without_a_value_is_told():
    assert record(100, 90.0).values(("macs", "mpjpe_mm")) == (100.0, 90.0)
    with pytest.raises(BadInput, match="objectives: accel_mm_per_frame2 could not be measured"):
        record(100, 90.0).value("accel_mm_per_frame2")


def test_the_page_is_one_file_and_says_what_front_json_says(tmp_path):
    said = front_page.write(load_results(), tmp_path / "out")
    html = (tmp_path / "out/report.html").read_text()
    page = Links()
    page.feed(html)
    assert all(link.startswith(("data:image/", "#")) for link in page.found)
    assert not {"script", "link", "iframe"} & {*page.tags} and "url(http" not in html
    assert "&lt;i&gt;tiny" in html and "<i>tiny" not in html and "it &lt;broke&gt;" in html
    assert said == json.loads((tmp_path / "out/front.json").read_text())
    for number in said["front"]:
        recipe = (tmp_path / f"out/{number}.yaml").read_text()
        assert recipe in html.replace("&#39;", "'") and f"fasthmr compress {number}.yaml --model" in html
    assert "by hand beats point 1 of the front on test" in html
    with pytest.raises(BadInput, match="already exists"):
        front_page.write(load_results(), tmp_path / "out")


def test_figures_of_a_front_repeat_and_its_names_do_not_overlap():
    points = [plots.Point(str(i), 1 + 0.01 * i, 100 - 0.1 * i, 99, 101) for i in range(30)]
    groups = {"front": points, "dominated": [plots.Point("", 2, 300, 290, 310)]}
    figure = plots.trades(groups, "GMACs", "mm")
    figure.draw_without_rendering()
    texts = [text for text in figure.axes[0].texts if text.get_text().isdigit()]
    boxes = [text.get_window_extent() for text in texts]
    assert 2 <= len(texts) < 30
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    one, two = (plots.svg(plots.trades(groups, "GMACs", "mm")) for _ in range(2))
    assert one == two and "1 more above" in one


@pytest.mark.parametrize("names", [["nowhere"], ["nowhere.yaml"], ["a.yaml", "b.yaml"]])
def test_what_cannot_be_reported(fasthmr, tmp_path, names, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = fasthmr("report", *names, "--out", "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert names[0] in err and not Path("out").exists()
