"""Two runs of one video beside each other: figures by hand, and the strip's pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.errors import BadInput
from experiments.paper import videos
from experiments.reports import running
from tests.films import film


def finished(folder: Path, blocks: float, merging: float, frames: int = 10, name: str = "a.mp4") -> Path:
    """A run of 10 frames, as its file says; an overlay of the two squares."""
    folder.mkdir(parents=True)
    stages = [{"name": "decode", "s": 1.0}, {"name": "encoder blocks", "s": blocks}, {"name": "head", "s": 0.5}]
    stages += [{"name": "matching and merging", "s": merging}] if merging else []
    held = {"frames": frames, "stages": stages, "frames_per_s": {"end_to_end": frames / (blocks + 2)}}
    (folder / "run.json").write_text(json.dumps({**held, "provenance": {"data": {"name": name}}}))
    film(folder / "overlay.mp4", frames)
    return folder


def test_times_are_of_a_frame_and_ratios_of_both(tmp_path):
    one, other = finished(tmp_path / "a", 8.0, 0.0), finished(tmp_path / "b", 3.0, 1.0)
    rows = {row["name"]: row for row in running.record(running.read(one), running.read(other))["rows"]}
    assert list(rows) == ["decode", "encoder blocks", "matching and merging", "head", "network", "end to end"]
    assert (rows["encoder blocks"]["original_ms"], rows["encoder blocks"]["compressed_ms"]) == (800, 300)
    assert rows["network"]["times"] == pytest.approx(8.5 / 4.5) and rows["end to end"]["times"] == pytest.approx(2)
    assert rows["matching and merging"]["times"] is None


def test_the_strip_has_the_same_frames_of_both(tmp_path):
    runs = [finished(tmp_path / name, 8.0, 0.0) for name in "ab"]
    running.main(runs[0], runs[1], tmp_path / "a.png", tmp_path / "a.json", columns=3)
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    top, low = np.split(picture, 2)
    assert picture.shape[1] == 3 * running.WIDE and np.abs(top - low).max() == 0 and picture.std() > 10
    assert json.loads((tmp_path / "a.json").read_text())["rows"][-1]["name"] == "end to end"


def test_runs_that_are_none_or_of_other_frames_are_refused(tmp_path):
    one, other = finished(tmp_path / "a", 8.0, 0.0), finished(tmp_path / "b", 8.0, 0.0, name="b.mp4")
    with pytest.raises(BadInput, match="no runs of the same frames"):
        running.record(running.read(one), running.read(other))
    with pytest.raises(BadInput, match="not the folder of a finished run"):
        running.read(tmp_path)
    (other / "overlay.mp4").unlink()
    with pytest.raises(BadInput, match="--overlay"):
        running.strip([other], 2)


def test_videos_of_real_people_are_a_row_each(tmp_path):
    """Tracks of both models, the share of frames that those of both were found in, and times of a frame."""
    out, video = tmp_path / "out", tmp_path / "Demo" / "videos" / "cam01.mp4"
    for name, blocks, found in (("original", 8.0, [10, 8, 2]), ("compressed", 3.0, [10, 9])):
        run = finished(out / name / "Demo cam01", blocks, 0.0) / "run.json"
        tracks = [{"frames": frames, "interpolated": 1} for frames in found]
        run.write_text(json.dumps({**json.loads(run.read_text()), "tracks": tracks}))
    [row] = videos.rows_of([video], out)
    assert (row["name"], row["original_tracks"], row["compressed_tracks"]) == ("Demo cam01", 3, 2)
    assert (row["original_seen_share"], row["compressed_seen_share"]) == pytest.approx((0.8, 0.85))
    assert row["network_times"] == pytest.approx(8.5 / 3.5) and row["end_to_end_original_ms"] == pytest.approx(1000)
