"""The training loop: resumes to the bit, freezes a part for a while, and divides a batch among processes."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compress.errors import BadInput
from compress.training.loop import Training, train
from compress.training.task import OptimizerStep, cosine, linear
from tests import training_tasks
from tests.training_tasks import Chosen, Regression, regression


@pytest.mark.parametrize("killed_at", range(1, training_tasks.STEPS))
def test_a_killed_run_goes_on_to_the_bit(killed_at, tmp_path):
    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == killed_at:
            raise Killed

    whole, parts = ({"out": tmp_path / name, "checkpoint_minutes": 0.0, "ema": 0.9} for name in ("whole", "parts"))
    undisturbed = train(Regression(), regression(**whole))
    with pytest.raises(Killed):
        train(Regression(), regression(**parts), kill)
    resumed = train(Regression(), regression(**parts))
    for one, two in ((undisturbed.weights, resumed.weights), (undisturbed.module, resumed.module)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert resumed.progress.step == training_tasks.STEPS


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("killed_at", [0, 1, 2, 3])
def test_the_first_weights_with_the_least_loss_held_out_are_kept_through_a_kill(killed_at, ema, tmp_path):
    def kill(progress):
        if progress.step == killed_at:
            raise KeyboardInterrupt

    settings = regression(tmp_path / "parts", checkpoint_minutes=0.0, ema=ema)
    if killed_at:
        with pytest.raises(KeyboardInterrupt):
            train(Chosen(), settings, kill)
    whole = Chosen()
    train(whole, regression(tmp_path / "whole", ema=ema))
    run = train(Chosen(), settings)
    assert run.progress.chosen == 2
    kept, last = run.weights.state_dict(), run.latest.state_dict()
    assert all(torch.equal(value, whole.looked[2][name]) for name, value in kept.items())
    assert all(torch.equal(value, whole.looked[4][name]) for name, value in last.items())
    assert any(not torch.equal(value, last[name]) for name, value in kept.items())
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / "curve.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize("killed_at", [0, 3, 4])
def test_a_training_ends_where_the_loss_held_out_falls_no_further(killed_at, tmp_path):
    class Patient(Chosen):
        patience = 2
        losses = (3.0, 1.0, 2.0, 1.0, 0.5)

    def kill(progress):
        if progress.step == killed_at:
            raise KeyboardInterrupt

    settings = regression(tmp_path, checkpoint_minutes=0.0, steps=5)
    if killed_at:
        with pytest.raises(KeyboardInterrupt):
            train(Patient(), settings, kill)
    task = Patient()
    run = train(task, settings)
    assert (run.progress.step, run.progress.chosen) == (4, 2)
    whole = Patient()
    train(whole, settings.model_copy(update={"out": tmp_path / "whole"}))
    assert all(torch.equal(value, whole.looked[2][name]) for name, value in run.weights.state_dict().items())


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "random_states_0.pkl", "hashes.json"])
def test_a_damaged_checkpoint_is_told_and_never_gone_on_with(name, tmp_path):
    config = regression(tmp_path / "run", checkpoint_minutes=0.0)
    train(Regression(), config)
    (folder,) = (tmp_path / "run").glob("checkpoint-*")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BadInput, match=r"damaged.*remove .*checkpoint-00000004, and the training begins anew"):
        train(Regression(), config)


def test_a_checkpoint_of_before_there_were_hashes_is_gone_on_with(tmp_path):
    config = regression(tmp_path / "run", checkpoint_minutes=0.0)
    train(Regression(), config)
    (folder,) = (tmp_path / "run").glob("checkpoint-*")
    (folder / "hashes.json").unlink()
    assert train(Regression(), config).progress.step == training_tasks.STEPS


def test_a_part_is_frozen_for_a_phase_and_has_a_learning_rate_of_its_own(tmp_path):
    task, states = Regression(), []
    start = copy.deepcopy(task.module.state_dict())
    run = train(task, regression(tmp_path), lambda progress: states.append(copy.deepcopy(task.module.state_dict())))
    warm = int(training_tasks.STEPS * training_tasks.WARM)
    for i, state in enumerate(states):
        moved = {name.split(".")[0] for name, value in state.items() if not torch.equal(value, start[name])}
        assert moved == ({"second"} if i < warm else {"first", "second"})
    first, second = (group["lr"] for group in run.optimizer.param_groups)
    assert first == pytest.approx(second / 5)
    assert run.trained_params == sum(p.numel() for p in task.module.parameters())


@pytest.mark.parametrize("slower", [True, False])
def test_bfloat16_is_taken_only_where_it_is_faster(slower, tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "seconds_of_steps", lambda run, bfloat16: 2.0 if bfloat16 == slower else 1.0)
    assert train(Regression(), regression(tmp_path, precision="auto")).progress.bfloat16 is not slower


def test_both_precisions_can_be_timed(tmp_path):
    train(Regression(), regression(tmp_path, precision="auto", steps=1))


def test_a_finished_run_may_be_given_more_minutes_and_nothing_else(tmp_path):
    minutes = {"steps": None, "minutes": 1e-4}
    first = train(Regression(), regression(tmp_path, **minutes)).progress
    more = train(Regression(), regression(tmp_path, **{**minutes, "minutes": 1e-3})).progress
    assert more.step > first.step and more.seconds > first.seconds
    with pytest.raises(BadInput, match="another lr"):
        train(Regression(), regression(tmp_path, **minutes, lr=1.0))


def test_learning_rates_warm_up_and_fall_to_a_hundredth():
    for schedule in (lambda step: cosine(2.0, step, 10), lambda step: linear(2.0, step, 10, 0.4)):
        assert schedule(OptimizerStep(4, 0.0)) == pytest.approx(1.0)
        assert schedule(OptimizerStep(9, 0.0)) == pytest.approx(2.0)
        assert schedule(OptimizerStep(90, 1.0)) == pytest.approx(0.02)
    assert linear(2.0, OptimizerStep(50, 0.6), 10, 0.4) == 2.0
    assert cosine(2.0, OptimizerStep(50, 0.5), 10) == pytest.approx(1.01)


def test_shares_of_a_batch_are_disjoint_equal_and_complete():
    shares = [OptimizerStep(0, 0.0, process, 3).share(12) for process in range(3)]
    assert sorted(i for share in shares for i in share) == list(range(12))
    assert {len(share) for share in shares} == {4}
    with pytest.raises(BadInput, match="16 samples cannot be divided equally among 3 processes"):
        OptimizerStep(0, 0.0, 0, 3).share(16)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one process and two gloo processes make of the same trainings."""
    root = tmp_path_factory.mktemp("processes")
    two = root / "two"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "tests.training_tasks", str(two)]
    place = Path(__file__).parents[1]
    running = []
    for rank in "01":
        environment = {**os.environ, **launched, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"}
        running.append(subprocess.Popen(command, cwd=place, env=environment))
    one = training_tasks.both(root / "one")
    assert [process.wait(timeout=200) for process in running] == [0, 0]
    return one, [torch.load(two / f"{rank}.pt", weights_only=True) for rank in "01"], two


@pytest.mark.parametrize("name", ["regression", "hmr"])
def test_two_processes_train_on_other_samples_and_end_with_the_weights_of_one(name, found):
    one, (first, second) = found[0][name], (process[name] for process in found[1])
    half = training_tasks.BATCH // 2
    assert len(first["seen"]) == len(second["seen"]) == len(one["seen"]) // 2 >= 3 * half
    for i in range(0, len(first["seen"]), half):
        mine, theirs = (process["seen"][i : i + half] for process in (first, second))
        assert not set(mine) & set(theirs)
        assert sorted(mine + theirs) == sorted(one["seen"][2 * i : 2 * (i + half)])
    for key, value in one["weights"].items():
        assert torch.equal(first["weights"][key], second["weights"][key])
        if key != "token_heads.votes.bias":  # gradients cancel to rounding errors there, which Adam scales up
            torch.testing.assert_close(first["weights"][key], value, rtol=0, atol=1e-5)


def test_of_two_processes_one_writes_the_curve(found):
    rows = (found[2] / "regression" / "curve.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [training_tasks.STEPS]
