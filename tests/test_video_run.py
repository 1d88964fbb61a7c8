"""A run from a video to files: who is found, what a stopped one keeps, and that batches and threads change nothing."""

from __future__ import annotations

import json
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress.context import Context
from compress.errors import BadInput
from compress.pipeline import run_all_steps
from compress.policies.merge_tokens import MergeTokens
from hmr.body.model import BodyModel
from hmr.people.finders import BlazePoseFinder
from hmr.people.known import KnownPeople
from hmr.video import run as running
from hmr.video.frames import Film, Span
from hmr.video.jobs.results import run_into
from hmr.video.run import Run
from hmr.video.stages import NAMES
from tests.films import FPS, Squares, film, painted, tiny


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> Path:
    return film(tmp_path_factory.mktemp("films") / "walk.mp4")


@pytest.fixture(scope="module")
def model():
    return tiny()


def run(walk: Path, model: Any, **asked: Any) -> Run:
    return Run(model, asked.pop("film", None) or Film(walk), asked.pop("finder", None) or Squares(), **asked)


def tracks(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of each file of a track."""
    found = {}
    for path in sorted(folder.glob("track-*.npz")):
        with np.load(path, allow_pickle=False) as file:
            found[path.name] = {name: file[name] for name in file.files}
    return found


def alike(one: Path, other: Path, within: float = 1e-4) -> None:
    """Both folders hold the same motion."""
    first, second = tracks(one), tracks(other)
    assert first.keys() == second.keys() and first
    for name, arrays in first.items():
        for key, value in arrays.items():
            if value.dtype.kind == "f":
                assert value == pytest.approx(second[name][key], abs=within), (name, key)
            else:
                assert np.array_equal(value, second[name][key]), (name, key)


def test_two_people_are_two_tracks_and_a_gap_is_marked(walk, model, tmp_path):
    result = run_into(run(walk, model, focal=200.0), tmp_path / "out", ["csv", "bvh", "glb"])
    red, green = tracks(tmp_path / "out").values()
    assert red["frame"].tolist() == green["frame"].tolist() == list(range(24))
    assert not red["interpolated"].any() and np.flatnonzero(green["interpolated"]).tolist() == list(range(10, 15))
    assert red["box_px"][:, 0] == pytest.approx(22 + 2.0 * np.arange(24), abs=3)
    assert green["box_px"][:, 0] == pytest.approx(92 - 2.0 * np.arange(24), abs=3)
    assert [row["interpolated"] for row in result["tracks"]] == [0, 5]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    kinds = {f"track-{i}.{kind}" for i in (1, 2) for kind in ("npz", "bvh", "glb")}
    assert names == kinds | {"run.json", "journal.json", "joints.csv"}
    assert json.loads((tmp_path / "out" / "run.json").read_text()) == result
    stages = {row["name"]: row for row in result["stages"]}
    assert set(stages) <= set(NAMES) and {"decode", "detect", "crop", "encoder blocks", "head", "body"} <= set(stages)
    assert sum(row["share"] for row in result["stages"]) == pytest.approx(1)
    assert all(0 < row["cold_s"] <= row["s"] + 1e-9 for row in result["stages"])
    assert result["camera"] == {"focal_px": 200.0, "source": "--focal", "depth_metric": True}
    assert result["provenance"]["data"] == {
        "name": "walk.mp4", "frames": 24, "fps": FPS, "people": "squares", "mask_source": "squares",
    }  # fmt: skip


def test_batches_change_nothing(walk, model, tmp_path):
    """Of one crop, of seven, of more than there are."""
    for batch in (1, 7, 64):
        run_into(run(walk, model, batch=batch), tmp_path / str(batch))
    alike(tmp_path / "1", tmp_path / "7")
    alike(tmp_path / "1", tmp_path / "64")


class Ends(Film):
    """A film whose frames end in an exception."""

    def __init__(self, path: Path, number: int, error: BaseException) -> None:
        super().__init__(path)
        self.last, self.error = number, error

    def shots(self, after: int = -1):
        for shot in super().shots(after):
            if shot.number == self.last:
                raise self.error
            yield shot


@pytest.mark.parametrize("number", [1, 9, 12, 23])
def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(walk, model, tmp_path, monkeypatch, number):
    monkeypatch.setattr(running, "PART", 5)
    run_into(run(walk, model), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_into(run(walk, model, film=Ends(walk, number, KeyboardInterrupt())), tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()
    finder = Squares()
    result = run_into(run(walk, model, finder=finder), tmp_path / "out")
    assert finder.state == 24 and result["frames"] == 24  # it has looked at each frame once, before or after
    alike(tmp_path / "whole", tmp_path / "out")
    assert not (tmp_path / "out" / "parts").exists()


def test_a_signal_keeps_the_tracks_of_those_who_are_gone(tmp_path, model):
    """Red leaves after a second, green is still there when the run is stopped."""
    path = film(tmp_path / "long.mp4", 80, lambda i: [((230, 20, 20), 40, 40)] * (i < 20) + [((20, 230, 20), 90, 60)])
    with pytest.raises(KeyboardInterrupt):
        run_into(run(path, model, film=Ends(path, 70, KeyboardInterrupt())), tmp_path / "out")
    [(name, red)] = tracks(tmp_path / "out").items()
    assert name == "track-1.npz" and red["frame"].tolist() == list(range(20))


def test_a_finished_run_is_left_alone_and_another_one_is_refused(walk, model, tmp_path):
    run_into(run(walk, model), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert run_into(run(walk, model), tmp_path / "out")["skipped"]
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    with pytest.raises(BadInput, match="another camera"):
        run_into(run(walk, model, focal=99.0), tmp_path / "out")
    with pytest.raises(BadInput, match="another model"):
        run_into(run(walk, tiny("hmr2")), tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(BadInput, match="holds no run"):
        run_into(run(walk, model), tmp_path / "mine")


def known(path: Path, left: int) -> KnownPeople:
    """Somebody whose box begins at `left` in each frame of the film, in a file."""
    path.write_text("frame,id,x1,y1,x2,y2\n" + "".join(f"{i},a,{left},20,60,70\n" for i in range(24)))
    return KnownPeople(path)


@pytest.mark.parametrize("last", [12, None], ids=["stopped", "finished"])
def test_a_run_is_another_one_with_other_boxes_looks_rates_or_body(walk, model, tmp_path, monkeypatch, last):
    """All of them change what is in its files: neither mixed with what was seen before nor taken for it."""
    out, boxes = tmp_path / "out", tmp_path / "boxes.csv"
    stopped = Ends(walk, last, KeyboardInterrupt()) if last else None
    with pytest.raises(KeyboardInterrupt) if last else nullcontext():
        run_into(run(walk, model, film=stopped, finder=known(boxes, 30)), out)
    with pytest.raises(BadInput, match="another people"):
        run_into(run(walk, model, finder=known(boxes, 31)), out)
    with monkeypatch.context() as patch:
        patch.setattr(BodyModel, "identity", {"name": "open", "sha256": "of another one"})
        with pytest.raises(BadInput, match="another body"):
            run_into(run(walk, model, finder=known(boxes, 30)), out)
    assert run_into(run(walk, model, finder=known(boxes, 30)), out).get("skipped", False) == (last is None)
    networks: Any = (None, None)
    assert BlazePoseFinder(5, networks).identity != BlazePoseFinder(10, networks).identity


def test_pictures_at_another_rate_are_another_run_and_a_video_has_its_own(walk, model, tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(6):
        Image.fromarray(painted(i)).save(tmp_path / "pictures" / f"{i}.png")
    run_into(run(tmp_path, model, film=Film(tmp_path / "pictures", fps=10)), tmp_path / "out")
    with pytest.raises(BadInput, match="another fps"):
        run_into(run(tmp_path, model, film=Film(tmp_path / "pictures", fps=20)), tmp_path / "out")
    run_into(run(walk, model, film=Film(walk, fps=10)), tmp_path / "video")
    assert run_into(run(walk, model, film=Film(walk, fps=20)), tmp_path / "video")["skipped"]


def test_a_damaged_journal_says_what_to_do(walk, model, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_into(run(walk, model, film=Ends(walk, 12, KeyboardInterrupt())), tmp_path / "out")
    [part] = (tmp_path / "out" / "parts").iterdir()
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(BadInput, match=r"remove .*out to begin again"):
        run_into(run(walk, model), tmp_path / "out")


def test_nobody_is_a_result(tmp_path, model):
    path = film(tmp_path / "empty.mp4", 6, lambda i: [])
    assert run_into(run(path, model), tmp_path / "out", ["csv", "overlay"])["tracks"] == []


def test_masks_reach_a_model_that_asks_for_them(walk, tmp_path):
    """Tokens are merged around the person: the finder's masks are cut as the crops are, and a file has none."""
    original = tiny()
    merged = run_all_steps(original, [MergeTokens(keep=90, per_layer=60)], Context(original)).eval()
    result = run_into(run(walk, merged), tmp_path / "out")
    stages = {row["name"] for row in result["stages"]}
    assert {"mask", "matching and merging"} <= stages and len(result["tracks"]) == 2

    class Maskless(Squares):
        def find(self, shot):
            return [type(one)(one.box, one.score) for one in super().find(shot)]

    with pytest.raises(BadInput, match="has no masks"):
        run_into(run(walk, merged, finder=Maskless()), tmp_path / "none")


def test_an_overlay_shows_each_frame_with_bodies_at_its_time(tmp_path, model):
    times = [0.0, 0.04, 0.2, 0.24, 0.5, 0.9, 1.0]
    path = film(tmp_path / "phone.mkv", times=times)
    result = run_into(run(path, model), tmp_path / "out", ["overlay", "profile"])
    before, after = (list(Film(one).shots()) for one in (path, tmp_path / "out" / "overlay.mp4"))
    assert [shot.time for shot in after] == pytest.approx(times, abs=2e-3)
    assert all(np.abs(one.image.astype(int) - other.image).mean() > 1 for one, other in zip(before, after, strict=True))
    trace = json.loads((tmp_path / "out" / "profile.json").read_text())["traceEvents"]
    assert {event["name"] for event in trace} == {row["name"] for row in result["stages"]}
    assert {"decode", "people", "draw"} <= {event["tid"] for event in trace}


def test_decoding_does_not_wait_for_the_network_and_is_never_far_ahead(walk, model):
    """The network is stopped at its first batch: frames are decoded meanwhile, a handful of them."""
    read, at_first, held = [], threading.Event(), threading.Event()

    class Counting(Film):
        def shots(self, after: int = -1):
            for shot in super().shots(after):
                read.append(shot.number)
                if len(read) > 4:
                    held.set()
                yield shot

    one = run(walk, model, film=Counting(walk, Span()), batch=1)

    def observe(*_: Any) -> None:
        if not at_first.is_set():
            at_first.set()
            assert held.wait(30)
            assert 4 < len(read) <= 2 * running.DEPTH + 4

    one.observer = observe
    assert len(one.see().frames) == 24 and at_first.is_set()


def test_what_a_thread_raises_ends_the_run(walk, model, tmp_path):
    with pytest.raises(BadInput, match="worn out"):
        run_into(run(walk, model, film=Ends(walk, 5, BadInput("worn out"))), tmp_path / "out")
    assert threading.active_count() < 8
