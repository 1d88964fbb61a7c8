"""What a wheel holds, and that it is enough: installed in an empty environment, away from the repository, it runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hmr.resolver import SHIPPED

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("compress", "hmr", "diffusion", "experiments")
BESIDE = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that what earlier builds left behind gets into none."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BESIDE:
        shutil.copy(ROOT / name, folder / "source")
    asked = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder))
    done("-m", "pip", "wheel", "--quiet", *asked, str(folder / "source"))
    (built,) = folder.glob("*.whl")
    return built


def done(*words: str, python: str = sys.executable, **how) -> str:
    """What Python prints when it is run with these words."""
    found = subprocess.run([python, *words], capture_output=True, text=True, **how)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_wheel_holds_every_file_of_the_packages_and_no_other(wheel):
    files = {path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()}
    wanted = {str(path) for path in files if "__pycache__" not in path.parts}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        about = {name.partition(".dist-info/")[2] for name in archive.namelist()}
        (entries,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert held == wanted and wheel.stat().st_size < 130e6
    sizes = {name: (ROOT / "hmr" / "assets" / f"{name}.safetensors").stat().st_size for name in SHIPPED}
    assert sizes["reference"] <= 55e6 and sizes["reference-small"] <= 33e6
    assert {"licenses/LICENSE", "licenses/NOTICE"} <= about and "fasthmr = experiments.cli.main:main" in entries


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_wheel_runs_in_an_empty_environment(wheel, tmp_path):
    """With the requirements as they are pinned, from wherever this machine's pip gets them."""
    done("-m", "venv", str(tmp_path / "venv"))
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = str(scripts / "python")
    done("-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel), python=python)
    away = tmp_path / "away"
    away.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    how = {"cwd": away, "env": {**clean, "FASTHMR_HOME": str(tmp_path / "home")}}
    assert Path(done("-c", "import hmr; print(hmr.__file__)", python=python, **how)).is_relative_to(tmp_path / "venv")
    command = [str(scripts / "fasthmr"), "evaluate", "reference", "--data", "synth:test", "--frames", "64", "--json"]
    said = json.loads(subprocess.run(command, capture_output=True, check=True, **how).stdout)
    assert said["provenance"]["data"]["frames"] == 64 and said["provenance"]["model"]["name"] == "reference"
    model, *blind = (row["mpjpe_mm"]["mean"] for row in said["rows"])
    assert 0 < model < min(blind)
    assert not any(away.iterdir())
