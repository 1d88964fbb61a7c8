"""Storages that a search cannot use, studies that are not there, and damage that costs a trial and no more."""

from __future__ import annotations

import resource
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from compress.errors import BadInput
from experiments.search import storage
from experiments.search import workers as search
from experiments.search.trials import trials_of
from tests import search_study
from tests.search_study import BASELINES, small

place, run = search_study.place, search_study.run  # fixtures


@pytest.mark.parametrize(
    "storage, hint",
    [
        ("sqlite:////proc/nowhere/a.db", "unable to open"),
        ("a.db", "sqlite:///PATH"),
        ("postgresql://me:secret@127.0.0.1:1/x", "127.0.0.1"),
        ("sqlite:///tiny.safetensors", "not a database"),
        ("oracle://me@host/x", "--storage"),
    ],
)
def test_a_storage_that_cannot_be_reached(run, storage, hint):
    code, out, err = run("search", "tiny.yaml", "--trials", 1, "--storage", storage)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert hint in err and "secret" not in err and "Traceback" not in err


@pytest.mark.parametrize(
    "url, words",
    [
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///file:a?mode=memory&uri=true", "names no file"),
        ("sqlite:///a.db?mode=memory", "names no file"),
        ("sqlite://a.db", "names no file"),
        ("sqllite:///a.db", "did you mean 'sqlite'"),
        ("postgres://me@host/x", "did you mean 'postgresql'"),
        ("sqlite:/a.db", "sqlite:///PATH"),
        ("sqlite:///home", "not a database of studies"),
        ("sqlite:///tiny.yaml", "not a database of studies"),
        ("sqlite:///other.sqlite3", "not a database of studies"),
        ("sqlite:///theirs.sqlite3", "not a database of studies"),
        ("sqlite:///locked.sqlite3", "another process has locked it"),
    ],
)
def test_storages_in_memory_and_mistyped_ones_are_refused_before_a_file_is_made(run, place, monkeypatch, url, words):
    with closing(sqlite3.connect("other.sqlite3")) as other:
        other.execute("create table if not exists bookmarks (url text)")
    with closing(sqlite3.connect("theirs.sqlite3")) as other:
        other.execute("create table if not exists studies (patient text)")
        other.execute("create table if not exists trials (drug text)")
    search.opened(replace(small("locked"), storage="sqlite:///locked.sqlite3"))
    monkeypatch.setattr(storage, "LOCKED", 0.1)
    holding = sqlite3.connect("locked.sqlite3", isolation_level=None)
    holding.execute("begin immediate")
    before = {path: path.read_bytes() for path in place.glob("*") if path.is_file()}
    (place / "home").mkdir(exist_ok=True)
    for words_of_command in (("search", "tiny.yaml", "--trials", 1), ("report", "tiny.yaml", "--out", "page")):
        code, out, err = run(*words_of_command, "--storage", url)
        assert (code, out, err.count("\n")) == (2, "", 1) and words in err and "--storage" in err
    holding.close()
    assert {path: path.read_bytes() for path in place.glob("*") if path.is_file()} == before


def test_a_report_makes_no_storage(run, place, tmp_path):
    for more in ((), ("--storage", f"sqlite:///{tmp_path}/typo.db")):
        small("unsearched")
        code, _, err = run("report", "unsearched.yaml", "--out", tmp_path / "out", *more)
        assert code == 2 and "search first" in err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_study(run, tmp_path):
    small("empty")
    code, _, err = run("report", "empty.yaml", "--out", tmp_path / "out")
    assert code == 2 and "there is no study 'empty' yet" in err and not (tmp_path / "out").exists()
    search.opened(small("empty"))
    code, _, err = run("report", "empty.yaml", "--out", tmp_path / "out")
    assert code == 2 and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_record_that_was_half_written_is_told_and_measured_again(place, monkeypatch):
    monkeypatch.chdir(place)
    job = small("half")
    search.search(job)
    path = storage.default_storage("half").removeprefix("sqlite:///")
    with sqlite3.connect(path) as database:
        database.execute("update trial_user_attributes set value_json='{\"record\": 1}' where key='record'")
    search.search(search.SearchJob(**{**job.__dict__, "trials": 4}))
    trials = trials_of(storage.loaded(job.spec, job.storage), job.spec)
    assert [t.state for t in trials] == ["failed"] * 3 + ["complete"]
    assert all("damaged" in t.reason for t in trials[:3])
    with sqlite3.connect(path) as database:
        database.execute("update trial_user_attributes set value_json='{' where key='record'")
    with pytest.raises(BadInput, match="--storage"):
        search.search(job)


def test_a_full_disk_loses_nothing(place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    job = small("full")
    search.search(search.SearchJob(**{**job.__dict__, "trials": 2}))
    path = Path(storage.default_storage("full").removeprefix("sqlite:///"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
    try:
        with pytest.raises(BadInput, match="--storage"):
            search.search(search.SearchJob(**{**job.__dict__, "trials": 5}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "Traceback" not in capfd.readouterr().err  # of optuna's heartbeat, in a thread of its own
    monkeypatch.setattr(storage, "GRACE", 1)
    trials = search.search(search.SearchJob(**{**job.__dict__, "trials": 5}))
    assert [t.name for t in trials if t.state == "complete"][:2] == BASELINES[:2]
    assert sum(t.record is not None for t in trials) == 5
