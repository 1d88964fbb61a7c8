from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch
from PIL import Image
from rich.progress import Progress

from compress.recipe import Recipe
from experiments.cli import output
from experiments.reports import preview
from hmr.checkpoints.files import save
from hmr.evaluation import evaluate
from hmr.models.model import build


@pytest.fixture
def fasthmr(fasthmr, monkeypatch):
    """The command, whose trivial predictors look at few poses."""
    monkeypatch.setattr(evaluate, "POSES", 20)
    return fasthmr


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    return save(build("reference-small", {"depth": 1}), tmp_path / "mine.safetensors")


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from experiments.cli import main as cli; sys.argv = ['fasthmr', '--help']\n"
        "try: cli.main()\nfinally: assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    assert "evaluate" in subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_evaluate_json_is_one_object(fasthmr, weights):
    code, out, _ = fasthmr("evaluate", weights, "--data", "synth:test", "--frames", 6, "--json")
    assert code == 0
    result = json.loads(out)
    assert sorted(result) == ["frames_per_s", "provenance", "rows"]
    assert [row["name"] for row in result["rows"]] == ["model", "mean_pose_true_root", "mean_pose_mean_root"]
    assert result["provenance"]["data"]["frames"] == 6
    assert all(row["mpjpe_mm"]["lo"] <= row["mpjpe_mm"]["mean"] <= row["mpjpe_mm"]["hi"] for row in result["rows"])


def test_evaluate_against_another_model(fasthmr, weights, tmp_path):
    torch.manual_seed(1)
    other = save(build("reference-small", {"depth": 1}), tmp_path / "other.safetensors")
    words = ("evaluate", weights, "--data", "synth:val", "--frames", 4, "--against", other)
    code, out, _ = fasthmr(*words, "--json")
    assert code == 0
    paired = json.loads(out)["paired"]
    assert paired["against"] == str(other)
    assert paired["mpjpe_mm"]["lo"] <= paired["mpjpe_mm"]["mean"] <= paired["mpjpe_mm"]["hi"]
    assert "MPJPE minus that of" in fasthmr(*words)[1]


def test_trivial_predictors_know_the_shipped_motion_alone(fasthmr, weights, tmp_path):
    write_motion(tmp_path / "mocap" / "humanoid3d_headstand.txt")
    words = ("evaluate", weights, "--data", "synth:val", "--frames", 4, "--json")
    plain, with_mocap = (json.loads(fasthmr(*words, *more)[1]) for more in ((), ("--mocap", tmp_path / "mocap")))
    assert plain["rows"] == with_mocap["rows"]


def test_depth_tells_of_every_block(fasthmr, weights):
    code, out, _ = fasthmr("depth", weights, "--data", "synth:val", "--frames", 4, "--json")
    assert code == 0
    result = json.loads(out)
    assert sorted(result) == ["mpjpe_mm", "provenance", "rows"]
    assert [row["block"] for row in result["rows"]] == [0]
    assert result["provenance"]["schema"] == "fasthmr.depth/1"
    assert "without 0" in fasthmr("depth", weights, "--data", "synth:val", "--frames", 2)[1]


def write_motion(path):
    """A DeepMimic clip of somebody who stands still."""
    path.parent.mkdir(exist_ok=True)
    still = [1.0, 0, 0, 0]
    limbs = [*still, 0, *still, *still, 0]  # hip, knee, ankle, shoulder, elbow
    row = [1 / 30, 0, 0.9, 0, *still, *still, *still, *limbs, *limbs]
    path.write_text(json.dumps({"Loop": "none", "Frames": [row] * 40}))


def test_motion_sheet_shows_two_clips_of_each_format(fasthmr, tmp_path, monkeypatch):
    mocap = tmp_path / "mocap"
    for name in ("humanoid3d_ask", "humanoid3d_bow", "humanoid3d_walk"):
        write_motion(mocap / f"{name}.txt")
    for name in ("Sit_poses", "Stand_poses", "Turn_poses"):
        np.savez(mocap / f"{name}.npz", poses=np.zeros((9, 156)), trans=np.zeros((9, 3)), mocap_framerate=30.0)
    shown: list[str] = []

    def sheet(clips):
        shown.extend(clip.name for clip in clips)
        return b"sheet"

    monkeypatch.setattr(preview, "motion_sheet", sheet)
    assert fasthmr("data", "motion", "--out", tmp_path / "a.png", "--mocap", mocap)[0] == 0
    assert shown == ["Sit", "Stand", "humanoid3d_walk", "humanoid3d_ask"]
    assert (tmp_path / "a.png").read_bytes() == b"sheet"


def test_motion_sheet_shows_six_shipped_clips(fasthmr, tmp_path):
    out = tmp_path / "sheet.png"
    assert fasthmr("data", "motion", "--out", out)[0] == 0
    picture = np.asarray(Image.open(out))
    rows = picture.reshape(6, -1, *picture.shape[1:])
    assert all(row.std() > 10 for row in rows)
    assert not any(np.array_equal(rows[0], row) for row in rows[1:])
    assert fasthmr("data", "motion", "--out", out)[0] == 2  # never over another


def test_evaluate_table_names_what_it_measured(fasthmr, weights):
    code, out, _ = fasthmr("evaluate", weights, "--data", "synth-video:val", "--frames", 4)
    assert code == 0
    for word in ("synth-video:val", "4 frames of 1 recordings", "mean_pose_true_root", "MPJPE", "seed 0"):
        assert word in out


def test_preview_writes_one_picture_and_never_over_another(fasthmr, tmp_path):
    out = tmp_path / "sheet.png"
    assert fasthmr("data", "preview", "--data", "synth:val", "--out", out, "--frames", 3)[0] == 0
    assert np.asarray(Image.open(out)).std() > 10
    before = out.read_bytes()
    assert fasthmr("data", "preview", "--data", "synth:val", "--out", out)[0] == 2
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


TRAIN_HMR = ["train", "hmr", "--out", "run", "--minutes", "1", "--backbone", "missing.safetensors"]


@pytest.mark.parametrize(
    "words, hint",
    [
        (["evaluate", "refrence", "--data", "synth"], "did you mean 'reference'"),
        (["evaluate", "reference", "--data", "synt"], "did you mean 'synth'"),
        (["evaluate", "reference", "--data", "synth:tst", "--json"], "did you mean 'test'"),
        (["evaluate", "./nowhere.safetensors", "--data", "synth"], "no such file"),
        (["data", "preview", "--data", "synth", "--out", "sheet.jpg"], "must end in .png"),
        (["data", "preview", "--data", "synth:train", "--out", "x.png", "--mocap", "nowhere"], "nowhere"),
        (["data", "motion", "--out", "sheet.jpg"], "must end in .png"),
        (["data", "motion", "--out", "x.png", "--mocap", "nowhere"], "nowhere"),
        (["depth", "refrence", "--data", "synth"], "did you mean 'reference'"),
        (["evaluate", "./a.safetensors", "--data", "synth", "--against", "refrence"], "did you mean 'reference'"),
        (["body", "import", "nowhere.pkl"], "nowhere.pkl"),
        ([*TRAIN_HMR, "--architecture", "dinov"], "did you mean"),
        ([*TRAIN_HMR, "--architecture", "hamer"], "that is trained here"),
        (TRAIN_HMR, "no such file of pretrained weights"),
    ],
)
def test_bad_input_is_one_sentence(fasthmr, monkeypatch, tmp_path, words, hint):
    monkeypatch.chdir(tmp_path)
    code, out, err = fasthmr(*words)
    assert (code, out) == (2, "")
    assert hint in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_log_says_now_and_then_where_a_command_stands(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 31.0, 31.0, 40.0, 70.0, 70.0])
    monkeypatch.setattr(output.time, "monotonic", lambda: next(clock))
    update = output.progress_callback(Progress(disable=True))
    for done in range(4):
        update("measuring", "x", done, 4)
    assert capsys.readouterr() == ("", "measuring x 1 of 4\nmeasuring x 3 of 4\n")


@pytest.mark.parametrize("content", [b"", b"not weights", (200).to_bytes(8, "little") + b"{}"])
def test_a_broken_model_file_is_bad_input(fasthmr, tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    code, out, err = fasthmr("evaluate", path, "--data", "synth")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "broken.safetensors" in err


@pytest.mark.parametrize("words", [["evaluate"], ["evaluate", "reference", "--data", "synth", "--frames", "0"], ["no"]])
def test_wrong_usage_is_bad_input(fasthmr, words):
    assert fasthmr(*words)[0] == 2


def test_training_never_starts_in_a_folder_of_something_else(fasthmr, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    code, _, err = fasthmr("train", "hmr", "--out", tmp_path, "--minutes", 1, "--backbone", tmp_path / "letter.txt")
    assert code == 2
    assert str(tmp_path) in err
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_bug_is_exit_code_1_with_its_traceback():
    code = (
        "import sys; from experiments.cli import app, main as cli\n"
        "app.version_of = lambda name: 1 / 0\n"
        "sys.argv = ['fasthmr', '--version']; cli.main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr


@pytest.mark.parametrize(
    "error",
    [
        "MemoryError()",
        "OSError(12, 'Cannot allocate memory')",
        "BlockingIOError(11, 'Resource temporarily unavailable')",
        'RuntimeError("[enforce fail] DefaultCPUAllocator: can\'t allocate memory: you tried to allocate 9 bytes")',
        'RuntimeError("can\'t start new thread")',
    ],
)
def test_no_memory_is_a_sentence(error):
    code = f"from experiments.cli.main import ended\ndef run(): raise {error}\nended(run)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith("fasthmr: no memory is left")


def test_version(fasthmr):
    code, out, _ = fasthmr("--version")
    assert code == 0 and out == f"fasthmr {version('fasthmr')}\n"


def test_recipes_are_listed_and_shown(fasthmr, tmp_path):
    """What `list` names, `show` prints, and what it prints is that very recipe."""
    code, out, _ = fasthmr("recipe", "list", "--json")
    recipes = json.loads(out)["recipes"]
    assert code == 0 and [r["name"] for r in recipes] == sorted(r["name"] for r in recipes) and recipes
    for recipe in recipes:
        code, text, _ = fasthmr("recipe", "show", recipe["name"])
        shown = Recipe.parse(text, "shown.yaml")
        assert (code, shown.id, [step.policy for step in shown.steps]) == (0, recipe["id"], recipe["steps"])
    assert all(recipe["name"] in fasthmr("recipe", "list")[1] for recipe in recipes)


@pytest.mark.parametrize(("device", "words"), [("cuda:99", "'cuda:99'"), ("tpu", "'tpu'"), ("meta", "no values")])
def test_devices_that_are_not_there_are_refused(fasthmr, weights, monkeypatch, device, words):
    monkeypatch.setenv("FASTHMR_DEVICE", "cpu")  # restored after the test
    code, out, err = fasthmr("--device", device, "evaluate", weights, "--data", "synth:test", "--frames", 2)
    assert code == 2 and not out and words in err and err.count("\n") == 1
    assert fasthmr("--device", "cpu", "evaluate", weights, "--data", "synth:test", "--frames", 2)[0] == 0


def test_threads_are_torchs():
    """--threads reaches torch, which reads its number of threads once, when it is imported."""
    code = (
        "import sys; from experiments.cli import main as cli; sys.argv = 'fasthmr --threads 1 recipe list'.split()\n"
        "try: cli.main()\nfinally: import torch; sys.stderr.write(str(torch.get_num_threads()))"
    )
    two = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=two)
    assert done.stderr.split()[-1] == "1"
