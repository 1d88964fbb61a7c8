"""`fasthmr report STUDY --decoders`: each point gets a decoder once, whoever works, and the page shows both fronts."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.errors import BadInput
from compress.policies.merge_tokens import MergeTokens
from diffusion.policy import MotionDecoder
from experiments.cli import main as cli
from experiments.cli.search import decoded_points
from experiments.reports import decoders
from experiments.reports.front import Results
from experiments.search import decoded as work
from experiments.search.decoded import decoded, do, points_of
from experiments.search.study import parsed
from hmr.checkpoints.files import save
from hmr.models.model import build
from tests.killed_retraining import encoder
from tests.planning import planned
from tests.search_study import STUDY, TINY
from tests.test_front import TRIALS, record, trial

FEW = ("--frames", "162", "--train-frames", "162")
HOW = MotionDecoder.model_validate_json('{"kind": "regressor", "train": {"steps": 3}}')
SPEC = parsed(STUDY, "tiny.yaml")


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "lo": mean - 1, "hi": mean + 1}


def figures(point: Any, observer: Any = None) -> dict[str, Any]:
    """What measuring a point gives, made up."""
    cost, mm = 1e9 * (1 + point.number), 100.0 + point.number
    each = {**{name: interval(mm) for name in work.FIGURES[:4]}, "frames_per_s": 20.0, "macs": {"true": cost}}
    data = {"name": "synth-video", "split": "test", "frames": 8, "clips": 2}
    after = {**each, "mpjpe_mm": interval(mm - 9), "mpjpe_rise_mm": interval(-9.0), "macs": {"true": 1.1 * cost}}
    how = point.decoder.model_dump(mode="json")
    return {"recipe_id": point.recipe_id, "alone": each, "decoded": after, "decoder": how, "provenance": {"data": data}}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path))
    monkeypatch.setattr(work, "figures", figures)
    monkeypatch.setattr(work, "PATIENCE", 0.05)
    return tmp_path


def test_what_is_finished_is_not_done_again(home, monkeypatch):
    points = points_of(SPEC, TRIALS[:4], HOW, "synth-video", 8)
    found = decoded(points)
    assert [one["number"] for one in found] == [0, 1, 2, 3] and found[1]["alone"]["macs"]["true"] == 2e9
    monkeypatch.setattr(work, "figures", lambda *asked: pytest.fail("it was there"))
    assert decoded(points) == found
    assert not list(home.rglob("*.lock"))


def test_another_training_is_another_point(home):
    ways = HOW, HOW.model_copy(update={"kind": "diffusion"})
    one, other = (points_of(SPEC, TRIALS[:1], how, "synth-video", 8)[0] for how in ways)
    again = points_of(SPEC, TRIALS[:1], HOW, "synth-video", 9)[0]
    assert len({one.file, other.file, again.file}) == 3
    with pytest.raises(BadInput, match="are trained"):
        points_of(SPEC, TRIALS, MotionDecoder(weights="d.safetensors"), "synth-video", None)


def test_two_workers_share_a_point_and_one_of_them_does_it(home, monkeypatch):
    (point,), times = points_of(SPEC, TRIALS[:1], HOW, "synth-video", 8), []
    started = threading.Event()

    def slow(one: Any, observer: Any = None) -> dict[str, Any]:
        started.set()
        times.append(one.number)
        other.join(0.3)
        return figures(one)

    monkeypatch.setattr(work, "figures", slow)

    def later() -> None:
        started.wait()
        do(point.model_dump_json())

    other = threading.Thread(target=later)
    other.start()
    do(point.model_dump_json())
    other.join()
    assert times == [0] and point.file.exists()


def test_a_point_goes_to_another_process_as_it_is():
    plan = planned(MergeTokens(keep=90, protect="none"), encoder())
    tried = trial(1, 500, 102.0)
    held = record(500, 102.0).model_copy(update={"plans": (plan,)})
    (point,) = points_of(SPEC, [replace(tried, record=held)], HOW, "synth-video", None)
    again = work.DecodedPoint.model_validate_json(point.model_dump_json())
    assert again == point and again.file == point.file and again.plans[0].schedule == plan.schedule  # type: ignore[attr-defined]


def test_the_page_draws_both_fronts_and_says_what_was_measured(home):
    found = decoders.section(decoded(points_of(SPEC, TRIALS[:3], HOW, "synth-video", 8)))
    assert [row[0] for row in found["decoded"]] == ["0", "1", "2"] and "-9.0 [-10.0, -8.0]" in found["decoded"][0]
    assert all(len(row) == len(found["decoded_columns"]) for row in found["decoded"])
    for drawn in (found["decoded_macs"], found["decoded_speed"]):
        assert "encoder alone" in drawn and "with decoder" in drawn
    assert "8 frames of 2 videos" in found["decoded_on"] and "trained for 3 steps" in found["decoded_on"]
    assert decoders.section(()) == {"decoded": []}


def test_folders_have_no_decoders_trained_and_mistakes_are_told():
    folders = Results("compressed models", TRIALS, {}, ("macs", "mpjpe_mm"))
    with pytest.raises(BadInput, match=r"name its \.yaml file"):
        decoded_points(folders, "regressor", None, 3, None)
    study = Results("tiny", TRIALS, {}, ("macs", "mpjpe_mm"), SPEC)
    with pytest.raises(BadInput, match="computed at once"):
        decoded_points(study, "linear", None, 3, None)
    assert decoded_points(study, "regressor", None, None, None)[0].decoder.train.minutes == 15  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_study_gets_decoders(tmp_path, monkeypatch):
    """From a search to the page, decoders trained in earnest, if for a step."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FASTHMR_MOCAP", raising=False)
    torch.manual_seed(0)
    save(build("reference", TINY), Path("tiny.safetensors"))
    text = STUDY.replace("rivals: [other.safetensors]\n", "").replace("recover: {points: 1, steps: 1}\n", "")
    Path("tiny.yaml").write_text(text)
    for words in (
        ["search", "tiny.yaml", "--trials", "3"],
        ["report", "tiny.yaml", "--decoders", "--steps", "1", *FEW, "--out", "page"],
    ):
        monkeypatch.setattr(sys, "argv", ["fasthmr", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
    front = json.loads(Path("page/front.json").read_text())
    assert [one["number"] for one in front["decoded"]] == front["front"]
    assert "With decoders, on videos" in Path("page/report.html").read_text()
