"""What takes minutes: a worker killed ten times, and a PostgreSQL server for many machines."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState

from experiments.reports import front
from experiments.search import storage
from experiments.search import workers as search
from experiments.search.postgresql import server
from experiments.search.study import read_study
from hmr.checkpoints.files import save
from hmr.models.model import build
from tests.search_study import STUDY, TINY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    save(build("reference", TINY), Path("tiny.safetensors"))
    Path("tiny.yaml").write_text(STUDY.split("rivals")[0])
    return tmp_path


def started(home: Path, *words: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "FASTHMR_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.cli", "search", "tiny.yaml", *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def workers(parent: int) -> list[int]:
    """Processes that a search has started, without Python's own tracker."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def complete(study: optuna.Study) -> dict[int, list[float]]:
    return {t.number: t.values for t in study.get_trials() if t.state == TrialState.COMPLETE}


def test_a_search_that_is_stopped_says_one_sentence_and_goes_on(place):
    study, went = None, 0
    for number in (signal.SIGINT, signal.SIGTERM):
        environment = {**os.environ, "FASTHMR_HOME": str(place / "home"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "experiments.cli", "search", "tiny.yaml", "--trials", "60", "--workers", "2"]
        search_ = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
        while study is None or len(complete(study)) <= went:
            time.sleep(0.5)
            assert search_.poll() is None
            if Path(storage.default_storage("tiny").removeprefix("sqlite:///")).exists():
                study = search.opened(search.SearchJob(read_study("tiny.yaml"), storage.default_storage("tiny"), 60))
        went = len(complete(study))
        if number == signal.SIGINT:
            os.killpg(search_.pid, number)  # as a terminal does: to the workers, too
        else:
            search_.send_signal(number)
        _, said = search_.communicate(timeout=300)
        *progress, last = said.splitlines()
        assert (search_.returncode, last) == (128 + number, f"fasthmr: stopped by {number.name}")
        assert all(line.startswith("trials of tiny") for line in progress), said
        assert not Path(f"/proc/{search_.pid}").exists()
        assert len(complete(study)) >= went


def test_workers_killed_ten_times(place):
    spec, url, wanted = read_study("tiny.yaml"), storage.default_storage("tiny"), 60
    rng = random.Random(0)
    process = started(place / "home", "--trials", wanted, "--workers", 2)
    while not Path(url.removeprefix("sqlite:///")).exists():
        assert process.poll() is None
        time.sleep(0.2)
    study = search.opened(search.SearchJob(spec, url, wanted))
    seen: dict[int, list[float]] = {}
    for _ in range(10):
        while len(complete(study)) <= len(seen):
            assert process.poll() is None
            time.sleep(0.2)
        time.sleep(rng.uniform(0, 3))
        seen = complete(study)
        alive = workers(process.pid)
        if alive:
            os.kill(rng.choice(alive), signal.SIGKILL)
    assert process.wait() == 0
    found = complete(study)
    assert len(found) == wanted and {n: found[n] for n in seen} == seen
    states = [t.state for t in study.get_trials()]
    assert TrialState.RUNNING not in states and TrialState.FAIL in states
    assert all(t.test for t in front.study_results("tiny.yaml", None).front)


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The URL of a server of Debian's package `postgresql`."""
    with server() as url:
        yield url


def test_machines_share_a_study_on_postgresql(place, postgresql):
    wanted, machines = 12, 2
    running = [started(place / f"home-{i}", "--trials", wanted, "--storage", postgresql) for i in range(machines)]
    assert [process.wait() for process in running] == [0] * machines
    spec = read_study("tiny.yaml")
    study = storage.loaded(spec, postgresql)
    assert wanted <= len(complete(study)) < wanted + machines
    assert TrialState.RUNNING not in [t.state for t in study.get_trials()]
    told = front.study_results("tiny.yaml", postgresql)
    ids = [t.record.recipe_id for t in told.trials if t.record and t.same_as is None]
    assert len(ids) == len({*ids}) and all(t.test for t in told.front)
