"""BlazePose's networks come by pip at first use or by hand; a folder of wheels stands for the index."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from compress.errors import BadInput
from hmr.data import blazepose_files
from hmr.data.blazepose import interpreter
from hmr.data.blazepose_files import DETECTION, INSIDE, LANDMARKS, import_masks, network_file

TAG = "cp312-cp312-manylinux_2_28_x86_64"
WHEEL, INFO = f"mediapipe-0.10.21-{TAG}.whl", "mediapipe-0.10.21.dist-info"
CONTENT = {name: b"....TFL3" + name.encode() for name in INSIDE}


def wheel(path: Path, content: dict[str, bytes] = CONTENT) -> Path:
    """mediapipe's, as far as it is read; whoever runs what is in it ends."""
    with zipfile.ZipFile(path, "w") as file:
        for name, held in content.items():
            file.writestr(INSIDE[name], held)
        file.writestr("mediapipe/__init__.py", "raise SystemExit('run')")
        file.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: mediapipe\nVersion: 0.10.21\n")
        file.writestr(f"{INFO}/WHEEL", f"Wheel-Version: 1.0\nTag: {TAG}\n")
    return path


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Where networks go; pip has `tmp_path/index` to look in, and a stranger's pip.py lies in the current folder."""
    (tmp_path / "index").mkdir()
    (tmp_path / "pip.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(
        blazepose_files, "SHA256", {name: hashlib.sha256(held).hexdigest() for name, held in CONTENT.items()}
    )
    return tmp_path / "home" / "masks"


def test_pip_brings_what_is_missing_once(home, tmp_path, caplog):
    found = wheel(tmp_path / "index" / WHEEL)
    home.mkdir(parents=True)
    (home / DETECTION).write_bytes(b"a user's own")
    assert network_file(LANDMARKS).read_bytes() == CONTENT[LANDMARKS]
    assert network_file(DETECTION).read_bytes() == b"a user's own"
    assert {file.name for file in home.iterdir()} == {*INSIDE} and "fetched once" in caplog.text
    found.unlink()
    assert network_file(LANDMARKS) == home / LANDMARKS  # without pip


@pytest.mark.parametrize("case, words", [("another", "has another hash"), ("nothing", "No matching distribution")])
def test_what_pip_cannot_bring_is_a_sentence_with_the_commands(case, words, home, tmp_path):
    if case == "another":
        wheel(tmp_path / "index" / WHEEL, {**CONTENT, LANDMARKS: b"....TFL3 another"})
    with pytest.raises(BadInput, match=words) as refused:
        interpreter(LANDMARKS)
    assert case == "another" or "`fasthmr masks import` on the wheel" in str(refused.value)
    assert not list(home.iterdir()) and "\n" not in str(refused.value)


def test_a_python_without_pip_says_so(home, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(BadInput, match=r"No module named pip\): run `pip download .*mediapipe==0\.10\.21`"):
        network_file(DETECTION)


def test_networks_come_out_of_a_wheel_by_hand(fasthmr, tmp_path):
    path, home = wheel(tmp_path / "mediapipe.whl"), tmp_path / "home" / "masks"
    code, out, _ = fasthmr("masks", "import", path)
    assert code == 0 and out.split() == [str(home / name) for name in INSIDE]
    assert all((home / name).read_bytes() == held for name, held in CONTENT.items())
    wheel(path, {LANDMARKS: b"....TFL3 another"})
    other = tmp_path / "other.tflite"
    other.write_bytes(b"nothing of the kind")
    for bad, words in ((path, "later ones lack it"), (other, "TFL3"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(BadInput, match=words):
            import_masks(bad)
    assert (home / LANDMARKS).read_bytes() == CONTENT[LANDMARKS]
    for name in (DETECTION, "mine.tflite"):
        (tmp_path / name).write_bytes(b"....TFL3 of a user")
        assert import_masks(tmp_path / name) == [home / (DETECTION if name == DETECTION else LANDMARKS)]
