"""Training of VAE and decoder: it learns, goes on after kill -9 to the same bits, and shares nobody else's folder."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roma
import torch

from compress.errors import BadInput
from compress.training.loop import train
from compress.training.task import OptimizerStep, TrainConfig
from diffusion.model.decoder import ClipDecoder, Kind, Target, load_decoder
from diffusion.model.vae import MotionVAE, load_vae
from diffusion.motion.camera_clips import FASTEST, Motion
from diffusion.motion.features import VideoFeatures
from diffusion.training.decoder import DecoderTask, sizes_for, statistics, train_decoder, unhidden
from diffusion.training.vae import VAETask, gate, held_out_clips, train_vae
from hmr.body.files import load_body
from tests.motion import TINY, clips, video

BODY = load_body()
STEPS = 12


def vae_task(batch: int = 4) -> VAETask:
    return VAETask(TINY, Motion(clips()[:3], 12, 6, BODY), held_out_clips(12, "val", BODY), batch)


def decoder_task(kind: Kind = "diffusion", target: Target | None = None) -> DecoderTask:
    torch.manual_seed(0)
    vae = MotionVAE(TINY)
    decoder = ClipDecoder(sizes_for(vae, [video()]), kind, target, encoder="e", vae=vae)
    task = DecoderTask(decoder, vae, [video(20, 0), video(30, 1), video(5, 2)], [video(12, 3)], 4)
    task.choose_every = 1
    return task


TASKS: dict[str, Callable[[], Any]] = {"vae": vae_task, "decoder": decoder_task}


def config(out: Path, **other) -> TrainConfig:
    return TrainConfig(**{"out": out, "steps": STEPS, "lr": 2e-3, "checkpoint_minutes": 0.0, **other})


def states_equal(one, two) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.mark.parametrize("kind", TASKS)
def test_resumed_training_ends_in_the_same_bits(kind, tmp_path):
    class Killed(Exception):
        pass

    def kill_at(step):
        def observe(progress):
            if progress.step == step:
                raise Killed

        return observe

    whole = train(TASKS[kind](), config(tmp_path / "whole", val_minutes=0.0))
    for step in (3, 7):
        with pytest.raises(Killed):
            train(TASKS[kind](), config(tmp_path / "parts"), kill_at(step))
    again = train(TASKS[kind](), config(tmp_path / "parts"))
    assert states_equal(whole.weights, again.weights)
    curve = [json.loads(line) for line in (tmp_path / "whole" / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in curve] == list(range(1, STEPS + 1)) and curve[-1]["mpjpe_mm"] > 0


def test_the_loss_held_out_is_the_same_each_time_and_changes_nothing_of_the_training():
    task = decoder_task()
    state, training = torch.random.get_rng_state(), task.module.training
    assert task.held_out(task.module) == task.held_out(task.module)
    assert torch.equal(state, torch.random.get_rng_state()) and task.module.training is training


def test_another_trainings_folder_is_refused(tmp_path):
    train(vae_task(), config(tmp_path / "run", steps=2))
    with pytest.raises(BadInput, match="another steps"):
        train(vae_task(), config(tmp_path / "run", steps=3))
    with pytest.raises(BadInput, match="there has another"):
        train(decoder_task(), config(tmp_path / "run", steps=2))


def test_a_decoder_does_not_go_on_with_another_prior(tmp_path):
    train(decoder_task(), config(tmp_path / "run", steps=2))
    task = decoder_task()
    next(task.vae.parameters()).data.add_(1.0)
    with pytest.raises(BadInput, match="has another vae"):
        train(task, config(tmp_path / "run", steps=2))


@pytest.mark.parametrize(
    ("kind", "target"), [("diffusion", "latent"), ("regressor", "latent"), ("regressor", "numbers")]
)
def test_training_brings_the_loss_down(kind, target, tmp_path):
    task = decoder_task(kind, target)
    task.choose_every = None  # a look at every step takes longer than the steps
    batch = task.batch(OptimizerStep(0))

    def loss(module):
        torch.manual_seed(0)
        return module.eval()(*batch)["loss"].item()

    before = loss(task.module)
    trained = train(task, config(tmp_path / "run", steps=100, lr=5e-3, checkpoint_minutes=9.0))
    assert loss(trained.weights) < 0.8 * before


def test_the_vae_is_frozen_while_a_decoder_trains(tmp_path):
    task = decoder_task()
    before = [p.clone() for p in task.decoder.vae.parameters()]
    trained: Any = train(task, config(tmp_path / "run", steps=3)).weights
    after = list(trained.decoder.vae.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_processes_draw_their_own_share():
    task = vae_task(batch=8)
    (one,), (two,) = task.batch(OptimizerStep(3, 0.0, 0, 2)), task.batch(OptimizerStep(3, 0.0, 1, 2))
    assert len(one) == len(two) == 4 and not torch.equal(one, two)
    assert torch.equal(one, task.batch(OptimizerStep(3, 0.0, 0, 2))[0])


def test_from_mocap_to_a_decoder_that_loads(tmp_path):
    path = train_vae(TINY, config(tmp_path / "vae", steps=2), BODY, pieces=3)
    vae = load_vae(path)
    assert vae.latent_deviation.gt(0).all() and (gate(vae, "val", BODY).lo or 0) > 0
    videos = [video(20, 0), video(30, 1)]
    trained = train_decoder(vae, videos, [video(12, 3)], "f" * 64, config(tmp_path / "dec", steps=2))
    made = load_decoder(trained.path)
    assert trained.measured["steps"] == 2 and trained.measured["videos"] == 2
    frames = torch.cat([v.features for v in videos])
    assert made.encoder == "f" * 64
    assert torch.allclose(made.scale.mean, frames.mean(0), atol=1e-2, rtol=1e-2)
    with pytest.raises(BadInput, match="no videos"):
        train_decoder(vae, [], [], "f", config(tmp_path / "none", steps=2))


def test_a_loss_that_is_no_number_stops_the_training(tmp_path):
    with pytest.raises(BadInput, match="lower lr"):
        train(vae_task(), config(tmp_path / "run", steps=60, lr=1e12, log_minutes=0.0))
    with pytest.raises(BadInput, match=r"lower lr|not finite"):  # before its first line is due
        train(vae_task(), config(tmp_path / "short", steps=20, lr=1e12, log_minutes=0.00))


def test_statistics_are_those_of_all_frames_together():
    videos = [video(20, 0), video(30, 1), video(5, 2)]
    every = torch.cat([each.features for each in videos]).numpy().astype(np.float64)
    mean, deviation = statistics(videos)
    assert np.allclose(mean, every.mean(0), atol=1e-5) and np.allclose(deviation, every.std(0), atol=1e-5)


@pytest.mark.parametrize("fps", [25.0, 30.0, 50.0, 60.0])
def test_labels_and_features_of_any_rate_make_clips_at_thirty(fps):
    """Of a body that turns by one radian a second and whose feature is the time: 1/30 s a frame, times the warp."""
    task, count = decoder_task("regressor"), int(3 * fps)
    seconds = torch.arange(count) / fps
    turn = torch.stack((0 * seconds, 0 * seconds, seconds), 1)
    rotations = roma.rotvec_to_rotmat(turn)[:, None].expand(-1, 24, -1, -1).contiguous()
    made = VideoFeatures(
        seconds[:, None].repeat(1, TINY.features),
        torch.zeros(count, 10),
        rotations,
        rotations,
        torch.zeros(count, 10),
        fps,
    )
    speeds = []
    for seed in range(20):
        read, seen, turned, _ = task.clip(made, np.random.default_rng(seed))
        angle = roma.rotmat_to_rotvec(turned[0, :, 0])[:, 2]
        assert torch.allclose(angle, read[0, :, 0], atol=1e-3) and seen.shape == (1, 12)
        speeds.append(read[0, :, 0].diff().abs())
    speed = 30 * torch.cat(speeds)
    assert speed.min() > 1 / FASTEST - 0.01 and speed.max() < FASTEST + 0.01 and 0.9 < speed.median() < 1.1


def test_of_half_of_the_clips_a_gap_of_some_time_is_hidden():
    rng = np.random.default_rng(0)
    gaps = [(~unhidden(rng, 81)).nonzero()[0] for _ in range(400)]
    hidden = [gap for gap in gaps if len(gap)]
    assert 0.4 < len(hidden) / len(gaps) < 0.6
    assert all(9 <= len(gap) <= 45 and gap[-1] - gap[0] == len(gap) - 1 for gap in hidden)
    assert all(unhidden(rng, 2).any() for _ in range(20))


# ---- several processes


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_one_model_and_one_of_them_speaks(tmp_path):
    launch = (
        "accelerate.commands.launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    )
    asked = f"experiments.cli train vae --steps 3 --pieces 8 --json --out {tmp_path / 'run'}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    words = [sys.executable, "-m", *launch.split(), "-m", *asked.split()]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    said = json.loads(done.stdout)  # one object
    assert said["weights"]["path"] == str(tmp_path / "run" / "vae.safetensors")
    assert load_vae(tmp_path / "run" / "vae.safetensors").sizes.tokens == 27
    assert len((tmp_path / "run" / "curve.jsonl").read_text().splitlines()) == 1


# ---- kill -9


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", TASKS)
def test_killed_at_ten_random_points(kind, tmp_path):
    """A process that is killed anywhere, in a write too, goes on to the weights of one that was never stopped."""

    def run(name: str, seconds: float) -> int:
        command = [sys.executable, "-m", "tests.killed", kind, str(tmp_path / name), str(seconds)]
        return subprocess.run(
            command, cwd=Path(__file__).parents[1], env={**os.environ, "OMP_NUM_THREADS": "1"}
        ).returncode

    assert run("whole", 0) == 0
    took = float((tmp_path / "whole" / "seconds").read_text())
    clock = random.Random(0)
    ended = [run("parts", clock.uniform(0.01, took / 7)) for _ in range(10)]
    assert ended.count(-signal.SIGKILL) >= 5 and {*ended} <= {-signal.SIGKILL, 0}  # 0: a machine that got faster
    assert run("parts", 0) == 0
    one, two = (torch.load(tmp_path / name / "final.pt", weights_only=True) for name in ("whole", "parts"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
