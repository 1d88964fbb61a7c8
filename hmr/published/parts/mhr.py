"""What SAM 3D Body says of a person, and the Momentum Human Rig (MHR) that it is said of.

The rig is Meta's and no part of this project: `rig` imports it from the user's environment.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import roma
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import BadInput
from hmr.models.head import sixd_from_rotations

BODY, SHAPE, SCALE, HAND, FACE = 260, 45, 28, 54, 72  # numbers of each part, of a hand for each of both
PARAMETERS = 133  # of a body's pose: angles in radians, then translations
POSE = 6 + BODY + SHAPE + SCALE + 2 * HAND + FACE
KEYPOINTS = 70
RIGHT_HAND = slice(21, 42)  # of the keypoints
# Where the numbers of a pose go: joints that turn about three axes (6 numbers each), about one (sine and cosine), and
# those that move.
THREE = (
    (0, 2, 4), (6, 8, 10), (12, 13, 14), (15, 16, 17), (18, 19, 20), (21, 22, 23), (24, 25, 26), (27, 28, 29),
    (34, 35, 36), (37, 38, 39), (44, 45, 46), (53, 54, 55), (64, 65, 66), (85, 69, 73), (86, 70, 79), (87, 71, 82),
    (88, 72, 76), (91, 92, 93), (112, 96, 100), (113, 97, 106), (114, 98, 109), (115, 99, 103), (130, 131, 132),
)  # fmt: skip
MOVES = tuple(range(124, 130))
ONE = tuple(sorted(set(range(PARAMETERS)) - {place for axes in THREE for place in axes} - set(MOVES)))
FINGERS = slice(62, 116)  # of the parameters: those of the hands, which are said apart
HAND_AXES = (3, 1, 1) * 4 + (2, 3, 1, 1)  # of a hand's joints, in order
Rig = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def rig() -> Rig:
    """Shape (B, 45), parameters (B, 204) and face (B, 72) -> vertices (B, V, 3) cm, and of each of 127 joints its place
    in cm, quaternion and scale (B, 127, 8). Raises BadInput that says what to install."""
    try:
        made: Rig = importlib.import_module("mhr.mhr").MHR.from_files(device=torch.device("cpu"), lod=1)
    except Exception as error:  # of whatever is installed there
        raise BadInput(
            f"SAM 3D Body's bodies are those of MHR, which is imported from your environment ({error}): pip install "
            "pymomentum-cpu mhr (https://github.com/facebookresearch/MHR), or give `rig` in a class of your own"
        ) from error
    return made


def euler(sixd: Tensor) -> Tensor:
    """Two columns of rotations (..., 6) -> angles (..., 3) about x, y and z, about z last; with y at a right angle z is
    0."""
    x = F.normalize(sixd[..., :3], dim=-1)
    z = F.normalize(torch.linalg.cross(x, sixd[..., 3:]), dim=-1)
    y = torch.linalg.cross(z, x)
    across = torch.hypot(x[..., 0], x[..., 1])
    steep = across < 1e-6
    about_x = torch.where(steep, torch.atan2(-z[..., 1], y[..., 1]), torch.atan2(y[..., 2], z[..., 2]))
    about_z = torch.atan2(x[..., 1], x[..., 0]).masked_fill(steep, 0)
    return torch.stack((about_x, torch.atan2(-x[..., 2], across), about_z), -1)


def angle(pair: Tensor) -> Tensor:
    """Sine and cosine (..., 2) -> angle (...)."""
    return torch.atan2(pair[..., 0], pair[..., 1])


def body_parameters(numbers: Tensor) -> Tensor:
    """(B, 260) -> parameters (B, 133) of a body whose hands and jaw are at rest."""
    three, one, moves = numbers.split((6 * len(THREE), 2 * len(ONE), len(MOVES)), 1)
    places = [place for axes in THREE for place in axes] + [*ONE, *MOVES]
    values = torch.cat((euler(three.unflatten(1, (-1, 6))).flatten(1), angle(one.unflatten(1, (-1, 2))), moves), 1)
    found = values[:, torch.tensor(places).argsort()]
    still = torch.zeros(PARAMETERS, dtype=torch.bool, device=found.device)
    still[FINGERS] = still[-3:] = True
    return found.masked_fill(still, 0)


def hand_parameters(numbers: Tensor) -> Tensor:
    """(B, 54) -> angles (B, 27) of a hand's joints, in order."""
    parts = numbers.split([2 * axes for axes in HAND_AXES], 1)
    return torch.cat(
        [
            euler(part) if axes == 3 else angle(part.unflatten(1, (axes, 2)))
            for part, axes in zip(parts, HAND_AXES, strict=True)
        ],
        1,
    )


@dataclass(frozen=True)
class MHRPerson:
    """A posed person: pose (B, 519) as its head gives it, vertices (B, V, 3) m, keypoints (B, 70, 3) m, y down."""

    pose: Tensor
    vertices: Tensor
    keypoints: Tensor


class MHRHead(nn.Module):
    """The pose token (B, D) -> a person; `hand`: everything but the right hand is at rest, and hangs on its wrist."""

    scale_mean: Tensor
    scale_comps: Tensor
    hand_pose_mean: Tensor
    hand_pose_comps: Tensor
    keypoint_mapping: Tensor
    right_wrist_coords: Tensor
    root_coords: Tensor
    local_to_world_wrist: Tensor
    hand_joint_idxs_left: Tensor
    hand_joint_idxs_right: Tensor
    nonhand_param_idxs: Tensor

    def __init__(self, dim: int, posed: Rig, hand: bool, points: int) -> None:
        super().__init__()
        self.proj = TwoLayers(dim, dim, POSE, nn.ReLU())
        self.hand, self.rigs = hand, (posed,)
        shapes = {
            "scale_mean": (68,), "scale_comps": (SCALE, 68), "hand_pose_mean": (HAND,), "hand_pose_comps": (HAND, HAND),
            "keypoint_mapping": (308, points), "right_wrist_coords": (3,), "root_coords": (3,),
            "local_to_world_wrist": (3, 3),
        }  # fmt: skip
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))
        for name, count in (("hand_joint_idxs_left", 27), ("hand_joint_idxs_right", 27), ("nonhand_param_idxs", 145)):
            self.register_buffer(name, torch.zeros(count, dtype=torch.long))

    def forward(self, token: Tensor, start: Tensor) -> MHRPerson:
        """`start` (1, 519) is what the token adds to."""
        pose = self.proj(token) + start
        root, body, shape, scale, hands, face = pose.split((6, BODY, SHAPE, SCALE, 2 * HAND, FACE), 1)
        turn = euler(root).flip(-1)  # z first, which the authors' hand decoder then reads as if x were
        parameters = self.parameters_of(turn, body_parameters(body)[:, :130], hands, scale)
        posed = self.rigs[0].to(token.device) if isinstance(self.rigs[0], nn.Module) else self.rigs[0]
        vertices, state = posed(shape, parameters, 0 * face)
        points = torch.cat((vertices, state[..., :3]), 1) / 100  # m
        keypoints = (self.keypoint_mapping[:KEYPOINTS] @ points.transpose(0, 1).flatten(1)).unflatten(1, (-1, 3))
        keypoints = keypoints.transpose(0, 1)
        if self.hand:
            keypoints = torch.zeros_like(keypoints).index_copy(
                1, torch.arange(RIGHT_HAND.start, RIGHT_HAND.stop, device=keypoints.device), keypoints[:, RIGHT_HAND]
            )
        down = keypoints.new_tensor((1, -1, -1))
        return MHRPerson(pose, vertices / 100 * down, keypoints * down)

    def parameters_of(self, turn: Tensor, body: Tensor, hands: Tensor, scale: Tensor) -> Tensor:
        """The rig's parameters (B, 204): place in dm, turn, body, and the scales of bones."""
        place = torch.zeros_like(turn)
        if self.hand:
            turn, place = self.about_the_wrist(turn)
        pose = torch.cat((place * 10, turn, body), 1)
        for numbers, places in zip(
            hands.chunk(2, 1), (self.hand_joint_idxs_left, self.hand_joint_idxs_right), strict=True
        ):
            pose = pose.index_copy(1, places, hand_parameters(self.hand_pose_mean + numbers @ self.hand_pose_comps))
        whole = torch.cat((pose, self.scale_mean + scale @ self.scale_comps), 1)
        return whole.index_fill(1, self.nonhand_param_idxs, 0) if self.hand else whole

    def about_the_wrist(self, turn: Tensor) -> tuple[Tensor, Tensor]:
        """The body's turn and place (B, 3) whose right wrist lies in the middle and is turned so."""
        rotation = roma.euler_to_rotmat("xyz", turn) @ self.local_to_world_wrist
        turn = euler(sixd_from_rotations(rotation))
        wrist = (roma.euler_to_rotmat("xyz", turn) @ (self.right_wrist_coords - self.root_coords)[:, None])[..., 0]
        return turn, -(wrist + self.root_coords)


class TwoLayers(nn.Module):
    """Two linear layers, under the keys of SAM 3D Body's."""

    def __init__(self, inputs: int, hidden: int, outputs: int, between: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(inputs, hidden), between), nn.Linear(hidden, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
