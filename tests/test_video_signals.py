"""A run that ends from outside, in a process of its own: by SIGINT at ten points of it, and by a disk that is full."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hmr.video.jobs import job
from tests.films import Squares, film, tiny

ROOT = Path(__file__).resolve().parents[1]
CHILD = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
import torch; torch.set_num_threads(1)
from experiments.cli.main import main
from hmr.video import run as running
from hmr.video.jobs import job, overlay
from tests.films import Squares, tiny
running.PART = 4
drawn = overlay.with_bodies

class Told(Squares):
    def find(self, shot):
        print("seen", flush=True)
        return super().find(shot)

def told(*given):
    print("drawn", flush=True)
    return drawn(*given)

overlay.with_bodies = told
job.network_of, job.finder = lambda asked: tiny(), lambda name, every: Told()
sys.argv[0] = "fasthmr"
main()
"""
ASKED = ("--model", "tiny", "--focal", "200", "--batch", "2", "--overlay", "--csv", "--json")


def child(video: Path, out: Path, *more: str, code: str = CHILD, **how: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, "run", str(video), "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)


@pytest.fixture
def run(fasthmr, monkeypatch):
    """The same run in this process, without a signal; returns its result."""
    torch.set_num_threads(1)
    model = tiny()
    monkeypatch.setattr(job, "network_of", lambda asked: model)
    monkeypatch.setattr(job, "finder", lambda name, every: Squares())

    def go(video: Path, out: Path) -> Any:
        code, said, err = fasthmr("run", video, "--out", out, *ASKED)
        assert code == 0, err
        return json.loads(said)

    return go


POINTS = [("seen", frame) for frame in (1, 2, 6, 9, 13, 17, 21, 24)] + [("drawn", 1), ("drawn", 20)]


@pytest.mark.parametrize(
    "what, count", [pytest.param(*at, marks=[] if at == ("seen", 13) else pytest.mark.slow) for at in POINTS]
)
def test_sigint_at_any_point_loses_nothing_that_was_kept(what, count, run, tmp_path):
    """It ends with 130 and a sentence, and the run goes on to what an unbroken one gives."""
    video = film(tmp_path / "walk.mp4")
    process, seen = child(video, tmp_path / "out", *ASKED), 0
    for line in process.stdout or ():
        seen += line == f"{what}\n"
        if seen == count:
            break
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and said.splitlines()[-1] == "fasthmr: stopped by SIGINT", said
    assert not (tmp_path / "out" / "run.json").exists()
    whole, again = run(video, tmp_path / "whole"), run(video, tmp_path / "out")
    assert [t["frames"] for t in again["tracks"]] == [t["frames"] for t in whole["tracks"]] == [24, 24]
    one, other = (np.load(tmp_path / name / "track-1.npz")["joints_m"] for name in ("whole", "out"))
    assert one == pytest.approx(other, abs=1e-4)
    kept, wanted = ({file.name for file in (tmp_path / name).iterdir()} for name in ("out", "whole"))
    assert kept == wanted


def test_a_full_disk_is_a_sentence_and_exit_2(tmp_path):
    video = film(tmp_path / "walk.mp4")
    limit = 30_000  # bytes of a file: smaller than a track's

    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = child(video, tmp_path / "out", *ASKED, preexec_fn=full)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and "cannot be written" in said.splitlines()[-1] and "Traceback" not in said
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tmp_path):
    """Between frame 300 and 1,800 of a video of two people: by less than a twentieth, as users run it."""
    path = film(tmp_path / "long.mp4", 1800, lambda i: [((230, 20, 20), 30 + i % 60, 40), ((20, 230, 20), 60, 60)])
    held = CHILD.replace('"seen", flush', 'Path("/proc/self/statm").read_text().split()[1], flush')
    process = child(path, tmp_path / "out", "--model", "tiny", code=held)
    said, err = process.communicate()
    pages = [int(line) for line in said.splitlines() if line.isdecimal()]
    assert process.returncode == 0, err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["frames"] == len(pages) == 1800
    assert max(pages[300:]) < 1.05 * pages[299]
