"""Laws of training an HMR model: killed runs go on as if nothing had happened, mirrors are exact, losses right."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import default_collate

from compress.errors import BadInput
from compress.training.loop import train as trained
from compress.training.task import OptimizerStep
from hmr.body.files import load_body
from hmr.checkpoints.files import load
from hmr.models.dinov2 import DINOv2
from hmr.models.model import build
from hmr.training.augment import augmented, blundered, dilated
from hmr.training.config import HMRTrainConfig, stages_of
from hmr.training.mirror import mirrored, with_mirrors
from hmr.training.stream import BatchStream, labels_of
from hmr.training.supervision import (
    projected,
)
from hmr.training.train import HMRTask, pictures_of, train
from tests import sizes
from tests.training_tasks import noise_frames, noise_sample, noise_world

GRID = (16, 12)
STAGES = {"head_until": 0.0, "half_until": 0.25, "drop_until": 0.5}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A pretrained backbone, in a file."""
    torch.manual_seed(5)
    state = DINOv2(sizes.TINY["dim"], 3, 2, sizes.TINY["mlp_dim"], 0.0, GRID).state_dict()
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    save_file(state, path)
    return path


def config(out, backbone, **changes: Any) -> HMRTrainConfig:
    settings: dict[str, Any] = {"sizes": sizes.TINY, "steps": 4, "batch": 4, "warmup": 2, "precision": "float32"}
    settings |= {"val_frames": 3, "workers": 0, "frozen": 1, "keep": 40, "checkpoint_minutes": 0.0, **STAGES}
    return HMRTrainConfig(out=out, backbone=backbone, **{**settings, **changes})


def run(config: HMRTrainConfig):
    with noise_frames():
        return train(config)


def final_state(out) -> dict[str, Tensor]:
    (checkpoint,) = out.glob("checkpoint-*")
    return load_file(checkpoint / "model.safetensors") | {
        f"saved.{key}": value for key, value in load(out / "model.safetensors").state_dict().items()
    }


@pytest.fixture(scope="module")
def whole(backbone, tmp_path_factory):
    """The final state of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(config(out, backbone))
    return final_state(out)


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_killed_run_goes_on_to_the_bit(killed_at, whole, backbone, tmp_path, monkeypatch):
    """Also across the changes of stage, which are at steps 1 and 2."""
    interrupted = config(tmp_path / "killed", backbone)
    batch = HMRTask.batch

    def killing(task, step):
        if step.index == killed_at:
            raise KeyboardInterrupt
        return batch(task, step)

    with monkeypatch.context() as patch:
        patch.setattr(HMRTask, "batch", killing)
        with pytest.raises(KeyboardInterrupt):
            run(interrupted)
    torch.manual_seed(killed_at)  # another process would have other random numbers
    run(interrupted)
    killed = final_state(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    assert [key for key in whole if not torch.equal(whole[key], killed[key])] == []


def test_training_leaves_a_model_a_curve_and_no_training_heads(backbone, tmp_path):
    path = run(config(tmp_path / "out", backbone, val_minutes=0.0))
    with safe_open(path, "pt") as file:
        keys, header = set(file.keys()), file.metadata()
        assert {file.get_tensor(key).dtype for key in keys} == {torch.float16}
    assert keys == set(build("dinov2", sizes.TINY).state_dict())
    assert json.loads(header["config"])["seed"] == 0 and str(tmp_path) not in str(header)
    rows = [json.loads(line) for line in (tmp_path / "out" / "curve.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["half", "drop", "full", "full"]
    assert all(row["val_mpjpe_mm"] > row["val_pa_mpjpe_mm"] > 0 for row in rows)
    (tmp_path / "plain").touch()
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {file.stat().st_mode for file in files} == {(tmp_path / "plain").stat().st_mode}
    assert all(0 < row["val_root_deg"] <= 180 and row["mean_pose_true_root_mm"] > 0 for row in rows)


def test_frozen_blocks_stay_as_they_were_and_the_head_learns_first(backbone, tmp_path):
    given = load_file(backbone)
    with noise_frames():
        task = HMRTask(config(tmp_path / "out", backbone, head_until=0.1, steps=10, frozen=2))
    first, states = {k: v.clone() for k, v in task.module.state_dict().items()}, []
    assert all(torch.equal(first[f"model.backbone.{k}"], given[k]) for k in given)
    trained(
        task, task.config, lambda progress: states.append({k: v.clone() for k, v in task.module.state_dict().items()})
    )
    moved = [{k for k in first if not torch.equal(state[k], first[k])} for state in (states[0], states[-1])]
    blocks = [{int(k.split(".")[3]) for k in keys if k.startswith("model.backbone.blocks.")} for keys in moved]
    assert blocks == [set(), {2}]
    assert all(any(k.startswith(f"model.smpl_head.{part}") for k in moved[0]) for part in ("decpose", "transformer"))


def test_each_block_learns_slower_than_the_one_above(backbone, tmp_path):
    with noise_frames():
        task = HMRTask(config(tmp_path, backbone, frozen=0))
    shares = [task.share(f"model.backbone.blocks.{i}.norm1.weight") for i in range(3)]
    assert shares == pytest.approx([0.5 * 0.75**2, 0.5 * 0.75, 0.5])
    assert task.share("model.backbone.cls_token") == pytest.approx(0.5 * 0.75**3)
    assert task.share("model.smpl_head.decpose.weight") == task.share("token_heads.dense.weight") == 1
    groups = task.parameter_groups()
    assert sum(len(group["params"]) for group in groups) == len(list(task.module.parameters()))
    assert all(p.ndim > 1 for group in groups if group["weight_decay"] for p in group["params"])


def test_the_backbone_waits_for_the_head_and_all_rates_fall_at_the_end(backbone, tmp_path):
    with noise_frames():
        task = HMRTask(config(tmp_path, backbone, head_until=0.02, half_until=0.5, drop_until=0.5, decay=0.4))
    head, lower = ({"initial_lr": 1.0, "backbone": backbone} for backbone in (False, True))
    rates = [
        [task.learning_rate(g, OptimizerStep(1000, f), 10) for f in (0.01, 0.025, 0.5, 0.8, 1.0)] for g in (head, lower)
    ]
    assert rates[0] == pytest.approx([1, 1, 1, 0.505, 0.01]) and rates[1] == pytest.approx([0, 0.5, 1, 0.505, 0.01])


def test_a_training_goes_on_from_a_whole_model_on_other_pictures(backbone, tmp_path):
    """One step at a rate of next to nothing leaves the weights that it started from."""
    first = run(config(tmp_path / "first", backbone))
    further: dict[str, Any] = {"start": str(first), "steps": 1}
    second = run(config(tmp_path / "second", None, lr=1e-12, **further))
    before, after = load_file(first), load_file(second)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    ours = pictures_of(config(tmp_path / "x", backbone))
    theirs = pictures_of(config(tmp_path / "x", None, **further))
    assert ours != theirs
    assert "start" in json.loads((tmp_path / "second" / "training.json").read_text())
    with noise_frames(), pytest.raises(BadInput, match="of other sizes"):
        HMRTask(config(tmp_path / "third", None, sizes=sizes.TINY | {"depth": 2}, start=str(first)))
    with pytest.raises(ValueError, match="not from both"):
        config(tmp_path / "fourth", backbone, start=str(first))


def test_a_model_on_another_backbone_is_refused(backbone, tmp_path):
    with noise_frames(), pytest.raises(BadInput, match="hmr2 does not stand on DINOv2"):
        HMRTask(config(tmp_path, backbone, architecture="hmr2"))


# ---- frames


def frames(count: int = 3) -> dict[str, Tensor]:
    return default_collate([labels_of(noise_sample(0, (224, 168), i)) for i in range(count)])


def test_a_mirror_of_a_mirror_is_the_frame_itself():
    given = frames()
    again = mirrored(mirrored(given))
    assert given.keys() == again.keys() and all(torch.equal(given[key], again[key]) for key in given)
    both = with_mirrors(given)
    assert all(torch.equal(both[key][:3], given[key]) for key in given)


def test_mirrored_labels_are_those_of_the_mirrored_body():
    """The open body is its own mirror image to a tenth of a millimetre, so that the posed bodies have to be too."""
    given, body = frames(), load_body("open")
    other = mirrored(given)
    joints, swapped = (body.skeleton29(f["rotations"], f["betas"]) for f in (given, other))
    names = torch.tensor([0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22,
                          24, 26, 25, 28, 27])  # fmt: skip
    torch.testing.assert_close(swapped, joints[:, names] * torch.tensor([-1.0, 1, 1]), atol=5e-3, rtol=0)
    for f in (given, other):
        seen = projected(body.skeleton(f["rotations"], f["betas"]), f["camera"], f["focal"], 4 / 3)
        torch.testing.assert_close(seen, f["keypoints"], atol=5e-3, rtol=0)
    left_wrist, right_wrist = 20, 21
    assert (other["part"] == left_wrist + 1).equal((given["part"] == right_wrist + 1).flip(2))
    assert other["image"][0, 5, 0].tolist() == given["image"][0, 5, -1].tolist()


def test_no_picture_is_drawn_twice_and_a_stream_begins_anywhere():
    world = noise_world("synth", "train", 1 << 40, 0, None, (28, 21))
    drawn = [world[i].betas[0] for i in range(12)]
    stream = BatchStream(world, 4, workers=0)
    seen = [stream.batch(OptimizerStep(i))["betas"][:, 0] for i in (0, 0, 1, 2)]
    assert torch.equal(seen[0], seen[1])
    torch.testing.assert_close(torch.cat(seen[1:]), torch.tensor(drawn))
    shares = [BatchStream(world, 4, workers=0).batch(OptimizerStep(1, 0.0, i, 2))["betas"][:, 0] for i in (0, 1)]
    torch.testing.assert_close(torch.stack(shares, 1).flatten(), torch.tensor(drawn[4:8]))


@pytest.mark.slow
def test_other_processes_draw_the_same_frames_in_the_same_order():
    world = noise_world("synth", "train", 1 << 40, 0, None, (28, 21))
    here, there = (BatchStream(world, 4, workers) for workers in (0, 2))
    for i in range(3, 9):
        assert torch.equal(here.batch(OptimizerStep(i))["image"], there.batch(OptimizerStep(i))["image"])


def test_augmentation_stays_in_range_and_is_different_for_each_picture():
    torch.manual_seed(0)
    images = torch.full((40, 32, 24, 3), 100.0)
    out = augmented(images)
    assert out.shape == images.shape and out.min() >= 0 and out.max() <= 255
    assert len({round(value, 3) for value in out.mean((1, 2, 3)).tolist()}) == 40


def test_masks_err_by_a_few_pixels_and_no_more():
    torch.manual_seed(0)
    masks = torch.zeros(60, 100, 75, dtype=torch.bool)
    masks[:, 30:70, 25:50] = True
    out = blundered(masks)
    rows = out.any(2).float().argmax(1)  # the first row of each
    assert out.shape == masks.shape and out.any((1, 2)).all()
    assert rows.min() >= 30 - 8 and rows.max() <= 30 + 8 and len(rows.unique()) > 5
    assert len(out.sum((1, 2)).unique()) > 2  # grown, eroded, as they were


@pytest.mark.parametrize("by", [1, 4, 30])
def test_a_mask_is_dilated_as_a_maximum_over_squares_does(by: int):
    masks = torch.rand(3, 20, 15, generator=torch.Generator().manual_seed(0)) > 0.97
    expected = torch.nn.functional.max_pool2d(masks.float()[:, None], 2 * by + 1, 1, by)[:, 0] > 0
    assert masks.any() and torch.equal(dilated(masks, by), expected)


def test_stages_end_with_all_tokens_at_full_size(tmp_path, backbone):
    *_, last = stages_of(config(tmp_path, backbone))
    assert (last.until, last.halved, last.keep) == (1.0, False, None)
    with pytest.raises(ValueError, match="have to rise"):
        config(tmp_path, backbone, half_until=0.9)
