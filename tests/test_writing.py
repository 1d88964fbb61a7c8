"""Files and folders are whole or not there, whoever else writes and whatever ends the process or the disk."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compress.atomic import append_line, atomic_folder, atomic_write, refuse_unwritable
from compress.errors import BadInput, Taken, Unwritable

ROOT = Path(__file__).resolve().parents[1]
BEGIN = f"""
import os, resource, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from compress.atomic import *
from experiments.cli.main import ended
place, me = Path(sys.argv[1]), sys.argv[2]
"""
WRITERS = {
    "folder": """
def write():
    with atomic_folder(place / "out") as folder:
        for i in range(20):
            (folder / str(i)).write_text(me)
""",
    "file": """
def write():
    atomic_write(place / "out", [me.encode()] * 20, new=True)
""",
    "identity": """
def write():
    record_identity(place / "out" / "training.json", {"who": me}, "training")
""",
}
TOGETHER = """
(place / f".{me}").touch()
while not (place / ".go").exists():
    time.sleep(0.001)
"""


def start(code: str, place: Path, me: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", BEGIN + code + "\nended(write)", str(place), str(me)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, what it said on stderr)."""
    said = process.communicate(timeout=300)[1]  # two loads of a model on a busy machine
    return process.returncode, said


def one_sentence(said: str) -> bool:
    return said.startswith("fasthmr: ") and said.count("\n") == 1 and said.endswith("\n")


@pytest.mark.parametrize("kind", WRITERS)
def test_of_several_writers_one_has_the_place_and_the_others_say_so(kind, tmp_path):
    processes = [start(WRITERS[kind] + TOGETHER, tmp_path, i) for i in range(4)]
    while len([*tmp_path.iterdir()]) < 4:
        time.sleep(0.001)
    (tmp_path / ".go").touch()
    results = [ended(process) for process in processes]
    winners = [i for i, (code, _) in enumerate(results) if code == 0]
    assert len(winners) == 1 and all(code in (0, 2) for code, _ in results), results
    assert all(one_sentence(said) and "out" in said for code, said in results if code)
    files = list((tmp_path / "out").rglob("*")) or [tmp_path / "out"]
    assert len(files) == {"folder": 20, "file": 1, "identity": 1}[kind]
    me = str(winners[0])
    whole = {"folder": me, "file": 20 * me, "identity": json.dumps({"who": me}, indent=1)}
    assert {path.read_text() for path in files} == {whole[kind]}
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".go", ".0", ".1", ".2", ".3"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_leaves_nothing_half_written(number, tmp_path):
    code = """
def write():
    for i in range(100_000):
        with atomic_folder(place / f"out-{i}") as folder:
            for j in range(3):
                (folder / str(j)).write_bytes(bytes(1000))
        atomic_write(place / f"out-{i}" / "last", bytes(1000))
"""
    rng = random.Random(number)
    for _ in range(4):
        process = start(code, tmp_path, 0)
        while not (tmp_path / "out-0").exists():
            time.sleep(0.001)
        time.sleep(0.2 * rng.random())
        process.send_signal(number)
        code_of_exit, said = ended(process)
        assert (code_of_exit, said) == (128 + number, f"fasthmr: stopped by {number.name}\n")
        for path in tmp_path.iterdir():
            assert not path.name.startswith("."), f"{path} is left"
            assert {file.name for file in path.iterdir()} in ({"0", "1", "2"}, {"0", "1", "2", "last"})
            assert all(len(file.read_bytes()) == 1000 for file in path.iterdir())
            subprocess.run(["rm", "-r", path], check=True)


def test_a_signal_in_an_import_waits_for_its_end(tmp_path):
    """Extensions are written for no exception there: torch's aborts, scipy's raises another one."""
    (tmp_path / "slow.py").write_text(
        "from pathlib import Path\nimport time\nhere = Path(__file__).parent\n(here / 'begun').touch()\n"
        "try:\n    time.sleep(0.3)\nexcept BaseException:\n    (here / 'interrupted').touch()\n"
    )
    code = "def write():\n    sys.path.insert(0, str(place))\n    import slow\n    time.sleep(60)\n"
    process = start(code, tmp_path, 0)
    while not (tmp_path / "begun").exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "fasthmr: stopped by SIGINT\n")
    assert not (tmp_path / "interrupted").exists()


@pytest.mark.parametrize("moment", ["begins", "ends"])
def test_a_signal_while_a_context_manager_begins_or_ends_waits(moment, tmp_path):
    """Else nobody would remove what it made before its block, or half of what it removes after it."""
    code = f"""
import signal
from contextlib import contextmanager
def signalled(moment):
    if moment == {moment!r}:
        os.kill(os.getpid(), signal.SIGTERM)
@contextmanager
def held():
    (place / "lock").touch()
    signalled("begins")
    try:
        yield
    finally:
        signalled("ends")
        (place / "lock").unlink()
def write():
    with held():
        if {moment!r} == "begins":
            time.sleep(60)
    time.sleep(60)
"""
    assert ended(start(code, tmp_path, 0)) == (143, "fasthmr: stopped by SIGTERM\n")
    assert not [*tmp_path.iterdir()]


FULL = """
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
(place / "lines").write_text("first\\n")
def write():
    {}
"""


@pytest.mark.parametrize(
    "act",
    [
        'atomic_write(place / "new", [bytes(900), bytes(900)])',
        'atomic_write(place / "old", bytes(2000))',
        'append_line(place / "lines", "x" * 2000)',
        'record_identity(place / "run" / "training.json", {"a": "x" * 2000}, "training")',
        'with atomic_folder(place / "new") as folder: (folder / "a").write_bytes(b"a"); '
        '(folder / "b").write_bytes(bytes(2000))',
        'with atomic_folder(place / "full", replace=True) as folder: (folder / "b").write_bytes(bytes(2000))',
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(act, tmp_path):
    (tmp_path / "old").write_text("old")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old").write_text("old")
    code, said = ended(start(FULL.format(act), tmp_path, 0))
    assert code == 2 and one_sentence(said) and "cannot be written (File too large)" in said, said
    there = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert there == {"old": "old", "full/old": "old", "lines": "first\n"}


def test_a_result_that_does_not_arrive_is_not_exit_0():
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "experiments.cli", "--version"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 2 and one_sentence(done.stderr) and "No space left" in done.stderr


def test_places_that_cannot_be_written_are_refused_beforehand(fasthmr, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is not a writable folder"):
        refuse_unwritable(tmp_path / "file" / "below")
    monkeypatch.setattr(os, "access", lambda place, mode: mode != os.W_OK)  # as in a read-only place
    for name in ("new", "empty"):  # an empty folder is replaced, so the one around it counts
        code, out, said = fasthmr("compress", "mask-tome", "--model", "no", "--data", "no", "--out", tmp_path / name)
        assert (code, out) == (2, "") and one_sentence(said) and "is not a writable folder" in said
    with pytest.raises(Unwritable, match="cannot be written"):
        atomic_write(Path("/proc/nowhere/file"), b"")


def test_a_torn_last_line_stays_alone(tmp_path):
    path = tmp_path / "deep" / "lines"
    append_line(path, "one")
    path.write_bytes(path.read_bytes() + b"tor")
    append_line(path, "two")
    assert path.read_text().splitlines() == ["one", "tor", "two"]


def test_an_older_folder_stays_until_the_new_one_is_whole(tmp_path):
    for text in ("first", "second"):
        with atomic_folder(tmp_path / "out", replace=True) as folder:
            (folder / "a").write_text(text)
            assert not (tmp_path / "out").exists() or (tmp_path / "out" / "a").read_text() == "first"
        assert (tmp_path / "out" / "a").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_writer_left_is_cleared_away(tmp_path):
    (tmp_path / ".out.unfinished").mkdir()
    (tmp_path / ".out.unfinished" / "half").touch()
    (tmp_path / ".out.lock").touch()
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "out"]


def test_one_process_trains_in_a_folder(tmp_path):
    from compress.training.loop import train
    from compress.training.task import TrainConfig
    from tests.training_tasks import Regression

    config = TrainConfig(out=tmp_path / "run", steps=1)
    train(Regression(), config)
    holding = """
def write():
    with alone(place / "run" / "training"):
        (place / "held").touch()
        time.sleep(60)
"""
    other = start(holding, tmp_path, 0)
    while not (tmp_path / "held").exists():
        time.sleep(0.001)
    with pytest.raises(Taken, match="another process writes it now"):
        train(Regression(), config)
    other.send_signal(signal.SIGTERM)
    assert ended(other)[0] == 143
    train(Regression(), config)


def test_a_checkpoint_on_a_full_disk(tmp_path, monkeypatch):
    """torch and safetensors have words of their own for it."""
    from compress.training.loop import train
    from compress.training.task import TrainConfig
    from tests.training_tasks import Regression

    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (100, 3000, 5000):  # in which file it fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            with pytest.raises(Unwritable, match="cannot be written"):
                train(Regression(), TrainConfig(out=tmp_path / str(size), steps=1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        assert {path.name for path in (tmp_path / str(size)).iterdir()} <= {"training.json", "curve.jsonl"}
        train(Regression(), TrainConfig(out=tmp_path / str(size), steps=1))
        assert [path.name for path in (tmp_path / str(size)).glob("checkpoint*")] == ["checkpoint-00000001"]


def test_limits_are_the_systems(tmp_path):
    """The full disk of these tests is a limit of the process; the real one says ENOSPC."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    with pytest.raises(Unwritable, match="No space left on device"), atomic_folder(tmp_path / "out"):
        Path("/dev/full").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


CONVERT = [sys.executable, "-m", "experiments.cli", "convert", "hmr/assets/reference.safetensors", "--out"]


@pytest.mark.slow
def test_two_converts_into_one_folder(fasthmr, tmp_path):
    """Fault 08b: one ended with exit 0 and left a folder without its weights."""
    for attempt in range(3):
        out = tmp_path / str(attempt)
        both = [subprocess.Popen([*CONVERT, out], cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        results = [ended(process) for process in both]
        assert sorted(code for code, _ in results) == [0, 2]
        assert one_sentence(next(said for code, said in results if code))
        assert fasthmr("cost", out, "--json")[0] == 0
        assert [path.name for path in tmp_path.iterdir()] == [str(attempt)]
        subprocess.run(["rm", "-r", out], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_stopped_at_any_moment(number, tmp_path):
    began = time.monotonic()
    subprocess.run([*CONVERT, tmp_path / "out"], cwd=ROOT, check=True)
    whole = time.monotonic() - began
    subprocess.run(["rm", "-r", tmp_path / "out"], check=True)
    for i in range(1, 9):
        process = subprocess.Popen([*CONVERT, tmp_path / "out"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        time.sleep(0.3 + (whole - 0.3) * i / 8)
        process.send_signal(number)
        code, said = ended(process)
        assert code in (0, 128 + number), said
        assert code == 0 or said == f"fasthmr: stopped by {number.name}\n"
        there = {path.name for path in tmp_path.rglob("*") if path.is_file()}
        assert there in (set(), {"LICENCE.txt", "manifest.json", "model.safetensors"})
        assert code or there, "exit 0 without the result"
        subprocess.run(["rm", "-rf", tmp_path / "out"], check=True)
