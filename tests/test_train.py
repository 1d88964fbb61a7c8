"""Laws of training: a killed run goes on as if nothing had happened, and it learns."""

import json
from typing import Any

import numpy as np
import pytest
import roma
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file

from compress.errors import BadInput
from compress.training.loop import train as trained
from compress.training.task import Step, linear
from hmr.body.files import load_body
from hmr.checkpoints.files import load
from hmr.models.head import HMROutput
from hmr.models.model import build
from hmr.training import train as training
from hmr.training.augment import augmented
from hmr.training.config import HMRTrainConfig
from hmr.training.supervision import TokenOutput, cells_of, centres, fade, losses, on_grid, total
from hmr.training.train import HMRTask, train
from hmr.world.cache import CachedFrames, order
from tests import sizes

GRID = (16, 12)
TINY = {**sizes.TINY, "head_mlp_dim": 40}


def write_frames(folder, count, size, seed=0):
    """A folder as `cached_frames` writes it, of noise pictures and poses."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    rotations = roma.rotvec_to_rotmat(torch.randn(count, 24, 3, generator=generator) * 0.3)
    betas = torch.randn(count, 10, generator=generator)
    joints = load_body("open").skeleton(rotations, betas)
    arrays = {
        "images": rng.integers(0, 256, (count, *size, 3), dtype=np.uint8),
        "rotations": rotations.numpy(),
        "betas": betas.numpy(),
        "joints": (joints - joints[:, :1]).numpy(),
        "keypoints": rng.uniform(-0.5, 0.5, (count, 24, 2)).astype(np.float32),
        "camera": np.tile(np.array([0.9, 0, 0], np.float32), (count, 1)),
        "part": rng.integers(0, 25, (count, 16, 12), dtype=np.uint8),
        "canonical": rng.normal(size=(count, 16, 12, 3)).astype(np.float16),
    }
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("frames")
    return {
        "half_cache": write_frames(root / "half", 12, (128, 96)),
        "full_cache": write_frames(root / "full", 6, (256, 192), 1),
        "half_val_cache": write_frames(root / "half_val", 5, (128, 96), 2),
        "full_val_cache": write_frames(root / "full_val", 5, (256, 192), 3),
    }


def config(out, folders, **changes):
    settings = {
        "sizes": TINY,
        "steps": 4,
        "quarter_share": 0.25,
        "full_share": 0.5,
        "quarter_batch": 6,
        "half_batch": 5,
        "batch": 4,
        "warmup": 2,
        "precision": "float32",
        "checkpoint_minutes": 0.0,
    }
    return HMRTrainConfig(out=out, **{**settings, **folders, **changes})


def final_state(out):
    (checkpoint,) = out.glob("checkpoint-*")
    return load_file(checkpoint / "model.safetensors") | {
        f"saved.{key}": value for key, value in load(out / "model.safetensors").state_dict().items()
    }


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory):
    """The final state of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(config(out, folders))
    return final_state(out)


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_killed_run_goes_on_to_the_bit(killed_at, whole, folders, tmp_path, monkeypatch):
    """Also across the changes of resolution, which are at steps 1 and 2."""
    interrupted = config(tmp_path / "killed", folders)
    batch = HMRTask.batch

    def killing(task, step):
        if step.index == killed_at:
            raise KeyboardInterrupt
        return batch(task, step)

    with monkeypatch.context() as patch:
        patch.setattr(HMRTask, "batch", killing)
        with pytest.raises(KeyboardInterrupt):
            train(interrupted)
    (interrupted.out / "checkpoint-99999999.part").mkdir()  # what a kill in the middle of a write leaves
    torch.manual_seed(killed_at)  # another process would have other random numbers
    train(interrupted)
    (interrupted.out / "checkpoint-99999999.part").rmdir()
    killed = final_state(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    assert [key for key in whole if not torch.equal(whole[key], killed[key])] == []


def test_training_leaves_a_model_a_curve_and_no_training_heads(folders, tmp_path):
    path = train(config(tmp_path / "out", folders, val_minutes=0.0))
    with safe_open(path, "pt") as file:
        keys, header = set(file.keys()), file.metadata()
        assert {file.get_tensor(key).dtype for key in keys} <= {torch.float16, torch.int64}
    assert keys == set(build("reference", TINY).state_dict())
    assert json.loads(header["sizes"])["dim"] == TINY["dim"]
    assert json.loads(header["config"])["seed"] == 0
    assert str(tmp_path) not in str(header)
    rows = [json.loads(line) for line in (tmp_path / "out" / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["stage"] for row in rows] == ["quarter", "half", "full", "full"]
    assert all(row["val_mpjpe_mm"] > row["val_pa_mpjpe_mm"] > 0 for row in rows)


def test_random_numbers_of_the_caller_are_left_alone(folders, tmp_path):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    train(config(tmp_path / "out", folders, steps=1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_run_learns_a_few_frames_by_heart(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "augmented", lambda images: images)
    only_half = {"half_cache": folders["half_cache"], "full_cache": None, "quarter_share": 0.0}
    sizes, often = {**TINY, "drop_path": 0.0}, {"log_minutes": 0.0, "checkpoint_minutes": 9.0}
    settings = config(
        tmp_path / "out", {**folders, **only_half}, steps=150, sizes=sizes, half_batch=12, lr=5e-3, **often
    )
    curve = []
    trained(HMRTask(settings), settings, lambda progress: curve.append(progress.scalars))
    for name in ("loss", "joint_error_mm"):
        assert curve[-1][name] < 0.7 * curve[0][name]


def test_new_model_starts_from_the_mean_of_the_data(folders, tmp_path):
    loss: Any = HMRTask(config(tmp_path / "out", folders)).module
    head = loss.model.smpl_head
    camera = np.load(folders["half_cache"] / "camera.npy").mean(0)
    np.testing.assert_allclose(head.init_cam[0], camera, atol=1e-6)
    betas = np.load(folders["half_cache"] / "betas.npy").mean(0)
    np.testing.assert_allclose(head.init_betas[0], betas, atol=1e-6)


def test_a_training_can_begin_with_weights(folders, tmp_path):
    first = train(config(tmp_path / "first", folders))

    def beginning(**changes):
        return HMRTask(config(tmp_path / "next", folders, start=first, sizes={**TINY, **changes})).module.model

    began = beginning().state_dict()
    assert all(torch.equal(began[key], value) for key, value in load(first).state_dict().items())
    with pytest.raises(BadInput, match="3 blocks cannot grow to 2"):
        beginning(depth=2)
    with pytest.raises(BadInput, match="of another model"):
        beginning(mlp_dim=2 * TINY["mlp_dim"])
    assert len(beginning(depth=2 * TINY["depth"]).backbone.blocks) == 2 * TINY["depth"]


def test_who_goes_on_learns_the_pose_alone_at_a_rate_that_falls_from_the_first_step(folders, tmp_path):
    settings = config(tmp_path / "run", folders, steps=1, warmup=0, decay=1.0, token_weight=0.0, weight_decay=0.0)
    rates = [linear(1.0, Step(step, step / 4), settings.warmup, settings.decay) for step in range(5)]
    np.testing.assert_allclose(rates, np.linspace(1, 0.01, 5))
    task = HMRTask(settings)
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    trained(task, settings)
    after = task.module.state_dict()
    heads = [name for name in before if name.startswith("token_heads.")]
    assert heads and all(torch.equal(before[name], after[name]) for name in heads)
    assert not torch.equal(before["model.smpl_head.decpose.weight"], after["model.smpl_head.decpose.weight"])


def test_every_epoch_shows_every_frame_once_in_an_order_of_its_own():
    epochs = [np.concatenate([order(12, 4, 3 * epoch + i, 0) for i in range(3)]) for epoch in range(2)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert np.array_equal(order(12, 4, 5, 0), order(12, 4, 5, 0))
    assert len(order(3, 4, 0, 0)) == 3  # fewer frames than a batch


def test_augmentation_changes_each_picture_its_own_way_within_range():
    torch.manual_seed(0)
    images = torch.full((8, 64, 48, 3), 120.0)
    changed = augmented(images)
    assert changed.shape == images.shape
    assert changed.min() >= 0 and changed.max() <= 255
    assert len({round(float(mean), 3) for mean in changed.mean((1, 2, 3))}) == 8


def test_augmentation_never_mirrors():
    torch.manual_seed(0)
    ramp = torch.linspace(60, 180, 48).expand(64, 64, 48)[..., None].expand(-1, -1, -1, 3)
    changed = augmented(ramp).median(1).values.mean(-1)  # (B, W); the median over rows sees past a hole
    assert (changed[:, -8:].median(1).values > changed[:, :8].median(1).values).all()


def perfect(folders):
    """The output that has no loss on the full-size frames, and their targets."""
    frames = CachedFrames(folders["full_cache"], (256, 192))
    _, target = frames.read(np.arange(4), torch.device("cpu"))
    rotations = target["rotations"]
    output = HMROutput(rotations[:, :1], rotations[:, 1:], target["betas"], target["camera"], rotations)
    logits = 1e3 * torch.nn.functional.one_hot(target["part"], 25).float()
    cells = 1e3 * torch.nn.functional.one_hot(cells_of(target["keypoints"], GRID), 192).mT.float()  # (B, N, 24)
    places, votes = (target[name][:, None].expand(-1, 192, -1, -1) for name in ("keypoints", "joints"))
    return output, TokenOutput(logits, target["canonical"], cells, places, votes), target


def test_truth_has_no_loss(folders):
    output, tokens, target = perfect(folders)
    parts, error = losses(output, tokens, target, load_body("open"), GRID)
    assert {name: round(float(value), 5) for name, value in parts.items()} == dict.fromkeys(parts, 0.0)
    assert float(error) < 1e-2  # mm
    assert float(total(parts, 1.0)) < 1e-4


def test_every_part_of_the_loss_counts_at_the_start_and_in_the_end(folders):
    _, tokens, target = perfect(folders)
    parts = losses(perfect(folders)[0], tokens, target, load_body("open"), GRID)[0]
    for name in parts:
        worse = {**parts, name: parts[name] + 1}
        assert all(total(worse, fade(at)) > total(parts, fade(at)) for at in (0.0, 1.0))


def test_cells_and_their_centres_agree():
    places = centres((16, 12), torch.device("cpu")).view(1, 16, 12, 2)
    assert torch.equal(on_grid(places, (16, 12)), places.flatten(1, 2))
    off = on_grid(places, (8, 6)) - centres((8, 6), torch.device("cpu"))
    assert (off.abs() <= torch.tensor([0.5 / 12, 0.5 / 16]) + 1e-6).all()  # inside the wider cell


@pytest.mark.parametrize("grid", [(16, 12), (8, 6), (4, 3)])
def test_each_centre_lies_in_its_own_cell_and_what_is_outside_in_the_nearest(grid):
    assert torch.equal(cells_of(centres(grid, torch.device("cpu")), grid), torch.arange(grid[0] * grid[1]))
    corners = torch.tensor([[-0.7, -0.6], [0.5, -0.5], [-9.0, 9.0], [0.6, 0.7]])
    last_row = (grid[0] - 1) * grid[1]
    assert cells_of(corners, grid).tolist() == [0, grid[1] - 1, last_row, last_row + grid[1] - 1]


def test_another_runs_folder_is_refused(folders, tmp_path):
    out = tmp_path / "out"
    train(config(out, folders, steps=1))
    with pytest.raises(BadInput, match="another seed"):
        train(config(out, folders, steps=1, seed=1))
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="not empty"):
        train(config(stranger, folders))
    assert [path.name for path in stranger.iterdir()] == ["thesis.txt"]


def test_folders_that_hold_no_frames_are_named(folders, tmp_path):
    with pytest.raises(BadInput, match="nowhere"):
        train(config(tmp_path / "a", {**folders, "half_cache": tmp_path / "nowhere"}))
    with pytest.raises(BadInput, match=r"full: its pictures are \(256, 192, 3\), wanted \(128, 96, 3\)"):
        train(config(tmp_path / "b", {**folders, "half_cache": folders["full_cache"]}))


def test_halved_frames_are_means_of_four_pixels(folders):
    whole = CachedFrames(folders["half_cache"], (128, 96)).read(np.array([3]), torch.device("cpu"))[0]
    halved, target = CachedFrames(folders["half_cache"], (64, 48), halved=True).read(np.array([3]), torch.device("cpu"))
    torch.testing.assert_close(halved[0, 5, 7], whole[0, 10:12, 14:16].mean((0, 1)))
    assert halved.shape == (1, 64, 48, 3) and target["part"].shape == (1, 12)


@pytest.mark.parametrize(
    "changes", [{"minutes": 1.0}, {"steps": None}, {"half_cache": None, "full_cache": None}, {"quarter_share": 0.6}]
)
def test_budget_and_frames_must_be_given_once(changes, folders, tmp_path):
    with pytest.raises(ValidationError):
        config(tmp_path, folders, **changes)
