"""Losses of training an HMR model: none where all is right, one for every part, none of what is not there."""

from __future__ import annotations

import math

import pytest
import roma
import torch
from torch import Tensor

from compress.tokens import DROPPED, Tokens
from hmr.body.files import load_body
from hmr.models.head import HMROutput
from hmr.training.supervision import (
    BINS,
    SOME,
    TokenHeads,
    TokenOutput,
    cells_of,
    centres,
    fade,
    losses,
    on_grid,
    some_vertices,
    total,
    yaw_bins,
)
from tests.test_train import GRID, frames


def perfect(target: dict[str, Tensor]) -> tuple[HMROutput, TokenOutput]:
    """What a model would say that knows everything."""
    joints = load_body("open").skeleton(target["rotations"], target["betas"])
    joints = (joints - joints[:, :1])[:, None].expand(-1, 192, -1, -1)
    cells = 1e3 * torch.nn.functional.one_hot(cells_of(target["keypoints"], GRID), 192).mT.float()  # (B, N, 24)
    parts = 1e3 * torch.nn.functional.one_hot(on_grid(target["part"], GRID).long(), 25).float()
    yaw = yaw_bins(target["rotations"][:, 0]).log().clamp_min(-1e3)
    r = target["rotations"]
    output = HMROutput(r[:, :1], r[:, 1:], target["betas"], target["camera"], torch.zeros(len(r), 4))
    places = target["keypoints"][:, None].expand(-1, 192, -1, -1)
    alive = torch.ones(len(r), 192, dtype=torch.bool)
    return output, TokenOutput(alive, parts, on_grid(target["canonical"], GRID), cells, places, joints, yaw, yaw)


def test_perfect_outputs_have_no_loss():
    target = frames()
    parts, error = losses(*perfect(target), target, load_body("open"), GRID)
    entropy = {"yaw_of_class", "yaw_of_query"}  # of a share between two bins: not zero
    assert {name for name, value in parts.items() if value > 2e-3} <= entropy and error < 0.1


@pytest.mark.parametrize("name", ["rotations", "root", "joints", "vertices", "betas", "camera", "reprojection"])
def test_every_part_of_the_pose_has_a_loss(name):
    target, body = frames(), load_body("open")
    output, tokens = perfect(target)
    turn = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.5, 0.0]))
    wrong = {"betas": output.betas + 1} if name == "betas" else {}
    wrong |= {"camera": output.camera + 0.1} if name in ("camera", "reprojection") else {}
    wrong = wrong or {"global_orient": turn @ output.global_orient}
    changed = HMROutput(**{**vars(output), **wrong})
    assert losses(changed, tokens, target, body, GRID)[0][name] > 2e-3
    weights = total(losses(changed, tokens, target, body, GRID)[0], 0.0)
    assert weights > total(losses(output, tokens, target, body, GRID)[0], 0.0)


def test_cells_of_dropped_tokens_have_no_part_in_the_losses():
    torch.manual_seed(0)
    target, heads = frames(), TokenHeads(8, 4)
    whole = Tokens.of(torch.randn(3, 193, 8), GRID, prefix=1)
    kept = whole.kept(torch.arange(100).expand(3, -1))
    read = heads(kept, torch.randn(3, 4))
    assert read.alive.sum(1).tolist() == [99] * 3 and (kept.source == DROPPED).sum() == 3 * 93
    assert torch.equal(read.parts[:, :99], heads(whole, torch.randn(3, 4)).parts[:, :99])
    assert (read.cells.softmax(1)[:, 99:] == 0).all()
    output = perfect(target)[0]
    before = losses(output, read, target, load_body("open"), GRID)[0]
    target["part"][:, 9:] = 7  # rows whose tokens are gone
    after = losses(output, read, target, load_body("open"), GRID)[0]
    assert before["parts"] == after["parts"] and all(value.isfinite() for value in after.values())


def test_yaw_is_the_angle_that_the_chest_faces():
    """A rest pose faces +z, and y is up: upright before a camera whose y is down it is turned over first."""
    upright = torch.diag(torch.tensor([1.0, -1, -1]))
    for angle, bins in (
        (0.0, {0}),
        (math.pi / 2, {BINS // 4}),
        (math.pi, {BINS // 2}),
        (2 * math.pi / BINS * 2.5, {2, 3}),
    ):
        yaw = roma.rotvec_to_rotmat(torch.tensor([0.0, -angle, 0.0]))  # camera axes: y down
        found = yaw_bins((yaw @ upright)[None])[0]
        assert set(torch.nonzero(found > 0.01).flatten().tolist()) == bins and found.sum() == pytest.approx(1)
        ahead = (yaw @ upright)[:, 2]
        assert ahead[0] == pytest.approx(math.sin(angle), abs=1e-6) and -ahead[2] == pytest.approx(
            math.cos(angle), abs=1e-6
        )


def test_some_vertices_are_those_of_the_posed_body():
    given, body = frames(), load_body("open")
    wanted = body(given["rotations"], given["betas"]).vertices[:, ::SOME]
    torch.testing.assert_close(some_vertices(body, given["rotations"], given["betas"]), wanted, atol=1e-5, rtol=0)


def test_centres_and_cells_agree():
    for grid in (GRID, (8, 6)):
        place = centres(grid, torch.device("cpu"))
        assert cells_of(place[None], grid)[0].tolist() == list(range(grid[0] * grid[1]))
    assert cells_of(torch.tensor([[[-0.9, 0.9]]]), GRID).item() == 15 * 12  # outside: the nearest cell


@pytest.mark.parametrize("grid", [(16, 12), (8, 6), (4, 3)])
def test_targets_of_a_smaller_grid_lie_in_its_cells(grid):
    fine = centres(GRID, torch.device("cpu")).view(1, 16, 12, 2)
    assert cells_of(on_grid(fine, grid), grid)[0].tolist() == list(range(grid[0] * grid[1]))


def test_token_losses_fade():
    assert [fade(0.0), fade(0.5), fade(1.0), fade(2.0)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
