"""SMPL-format bodies as plain arrays: posing, the kinematic chain, and where body files are kept.

A body is six arrays in SMPL's names and layout (`v_template`, `shapedirs`, `weights`, `J_regressor`, `kintree_table`,
`f`) plus `posedirs` where they are not zero. Metres, y up, zero pose a T-pose facing +z. MANO's hands are in the same
format (Romero et al. 2017, "Embodied Hands"): 16 joints, of which the wrist is the root, and a flat hand as zero pose.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import roma
import torch
from smplx.lbs import batch_rigid_transform, blend_shapes
from torch import Tensor, nn

from compress.atomic import atomic_write
from compress.errors import BadInput
from hmr.checkpoints.safe_pickle import read_arrays
from hmr.home import fasthmr_home

JOINT_NAMES: tuple[str, ...] = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
)  # fmt: skip
PARENTS: tuple[int, ...] = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
LEAF_VERTICES: tuple[int, ...] = (411, 2445, 5905, 3216, 6617)  # head top, left hand, right hand, left foot, right foot
LEAF_PARENTS: tuple[int, ...] = (15, 22, 23, 10, 11)

HAND_JOINT_NAMES: tuple[str, ...] = (
    "wrist", *(f"{finger}{i}" for finger in ("index", "middle", "pinky", "ring", "thumb") for i in (1, 2, 3))
)  # fmt: skip
HAND_PARENTS: tuple[int, ...] = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)


@dataclass(frozen=True)
class Layout:
    """What the files of one body model hold, and where its authors give them out."""

    name: str
    vertices: int
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    register_at: str
    leaf_vertices: tuple[int, ...] = ()
    leaf_parents: tuple[int, ...] = ()


SMPL = Layout("SMPL", 6890, JOINT_NAMES, PARENTS, "https://smpl.is.tue.mpg.de", LEAF_VERTICES, LEAF_PARENTS)
MANO = Layout("MANO", 778, HAND_JOINT_NAMES, HAND_PARENTS, "https://mano.is.tue.mpg.de")

_OPEN_BODY = Path(__file__).parents[1] / "assets" / "open_body.npz"
_BETAS = 10
_ARRAYS = ("v_template", "shapedirs", "weights", "J_regressor", "kintree_table", "f")


class BodyOutput(NamedTuple):
    """A posed batch, in metres: vertices (B, V, 3), joints (B, 24, 3), joints29 (B, 29, 3) = joints + five leaves.

    Of a hand, both are (B, 16, 3): it has no leaves."""

    vertices: Tensor
    joints: Tensor
    joints29: Tensor


class People(NamedTuple):
    """Whom a batch shows, for a truth that is not posed on one body alone: see `hmr.body.conventions`."""

    genders: tuple[str, ...]  # of each frame: neutral, female or male
    landmarks: Tensor | None = None  # (B, R, 3) m, in the place of poses where a data set annotates positions


class Positions(NamedTuple):
    """What errors are measured on, in metres: joints (B, J, 3) from the pelvis; vertices (B, V, 3), None where nobody
    knows them, and the pelvis (B, 3), both as posed."""

    joints: Tensor
    vertices: Tensor | None
    pelvis: Tensor


class BodyModel(nn.Module):
    """Linear blend skinning of one SMPL-format body; smplx.lbs on plain arrays, so any vertex count and no files.

    Shapes are written for SMPL's 24 joints; a hand has 16, and 135 pose directions.
    Buffers: v_template (V, 3), shapedirs (V, 3, 10), posedirs (207, V*3) or None where zero, J_regressor (24, V),
    lbs_weights (V, 24), parents (24,), faces (F, 3) int64. Attributes: `name`, `layout`,
    `sha256` (of the arrays, see `digest`).
    """

    v_template: Tensor
    shapedirs: Tensor
    posedirs: Tensor | None
    J_regressor: Tensor
    lbs_weights: Tensor
    parents: Tensor
    faces: Tensor
    rest_template: Tensor
    rest_shapedirs: Tensor
    leaf_parents: Tensor
    leaf_vertices: Tensor
    joint_slots: Tensor

    def __init__(self, arrays: Mapping[str, np.ndarray], *, name: str = "open") -> None:
        super().__init__()
        self.name = name
        self.sha256 = digest(arrays)
        self.layout = layout_of(arrays)
        levels = _tree_levels(self.layout.parents)
        order = [0, *(joint for children, _, _ in levels for joint in children)]
        self.depth = len(levels)
        indices: dict[str, Any] = {f"level{i}": level for i, level in enumerate(levels)}
        indices |= {"joint_slots": np.argsort(order), "leaf_vertices": self.layout.leaf_vertices}
        for key, places in indices.items():  # on the body's device: a list would be copied there on every call
            self.register_buffer(key, torch.tensor(places, dtype=torch.long), persistent=False)
        # no buffer: smplx asks for each number, and a GPU would wait
        self.tree = torch.tensor(self.layout.parents)
        regressor = arrays["J_regressor"].astype(np.float64)
        rest_shapedirs = np.einsum("jv,vck->jck", regressor, arrays["shapedirs"].astype(np.float64))
        floats = {
            "v_template": arrays["v_template"],
            "shapedirs": arrays["shapedirs"],
            "J_regressor": regressor,
            "lbs_weights": arrays["weights"],
            # the regressor is linear, so resting joints need no vertices
            "rest_template": regressor @ arrays["v_template"],
            "rest_shapedirs": rest_shapedirs,
        }
        for key, value in floats.items():
            self.register_buffer(key, torch.tensor(value, dtype=torch.float32))
        posedirs = _posedirs(arrays)
        self.register_buffer("posedirs", None if posedirs is None else torch.tensor(posedirs, dtype=torch.float32))
        self.register_buffer("parents", torch.tensor(self.layout.parents))
        leaf_parents = torch.tensor(self.layout.leaf_parents, dtype=torch.long)  # which none would not be by itself
        self.register_buffer("leaf_parents", leaf_parents, persistent=False)
        self.register_buffer("faces", torch.tensor(arrays["f"].astype(np.int64)))

    def forward(self, rotations: Tensor, betas: Tensor) -> BodyOutput:
        """Pose the body.

        rotations: local rotations, matrices (B, 24, 3, 3) or axis-angle in radians (B, 24, 3) or (B, 72).
        betas: (B, 10) or (1, 10), in standard deviations. Returns metres; the pelvis stays where the shape puts it.
        Leaves are vertices of the *resting* shape moved rigidly with their parent joint (HybrIK's convention).

        Raises: BadInput for any other shape.
        """
        matrices, betas = _pose(rotations, betas, len(self.parents))
        shaped = self.v_template + blend_shapes(betas, self.shapedirs)
        joints, transforms = batch_rigid_transform(matrices, self.rest_joints(betas), self.tree, matrices.dtype)
        leaves = _move(transforms[:, self.leaf_parents], shaped[:, self.leaf_vertices])
        if self.posedirs is not None:
            bend = (matrices[:, 1:] - torch.eye(3, device=matrices.device, dtype=matrices.dtype)).flatten(1)
            shaped = shaped + (bend @ self.posedirs).view_as(shaped)
        blended = (self.lbs_weights @ transforms.flatten(2)).unflatten(2, (4, 4))
        return BodyOutput(_move(blended, shaped), joints, torch.cat([joints, leaves], dim=1))

    def skeleton(self, rotations: Tensor, betas: Tensor) -> Tensor:
        """Joints (B, 24, 3) in metres, equal to `forward(...).joints`, from the kinematic chain alone: one matrix
        product per level of the tree (nine), whatever the batch. Same arguments and errors as `forward`."""
        matrices, betas = _pose(rotations, betas, len(self.parents))
        return self._chain(matrices, self.rest_joints(betas))[0]

    def chain(self, rotations: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        """Joints (B, 24, 3) in metres, and how each turns what hangs on it (B, 24, 3, 3). Arguments as `forward`."""
        matrices, betas = _pose(rotations, betas, len(self.parents))
        return self._chain(matrices, self.rest_joints(betas))

    def skeleton29(self, rotations: Tensor, betas: Tensor) -> Tensor:
        """Joints and leaves (B, 29, 3) in metres, equal to `forward(...).joints29`, without the other vertices."""
        matrices, betas = _pose(rotations, betas, len(self.parents))
        rest, count, parents = self.rest_joints29(betas), len(self.parents), self.leaf_parents
        joints, turned = self._chain(matrices, rest[:, :count])
        offset = (rest[:, count:] - rest[:, parents]).unsqueeze(-1)
        leaves = joints[:, parents] + (turned[:, parents] @ offset).squeeze(-1)
        return torch.cat([joints, leaves], dim=1)

    def positions(self, rotations: Tensor, betas: Tensor, people: People | None = None) -> Positions:
        """What errors are measured on: here the 24 joints, from the first one. Arguments and errors as `forward`.

        `people` are whom the truth is about, and None where this is a prediction; on this body all are alike.
        """
        posed = self(rotations, betas)
        return Positions(posed.joints - posed.joints[:, :1], posed.vertices, posed.joints[:, 0])

    def joints_from_pelvis(self, rotations: Tensor, betas: Tensor, people: People | None = None) -> Tensor:
        """The joints (B, J, 3) of `positions` alone, which costs less."""
        joints = self.skeleton(rotations, betas)
        return joints - joints[:, :1]

    @property
    def identity(self) -> dict[str, str]:
        """What tells this body from others, for reports."""
        return {"name": self.name, "sha256": self.sha256}

    def rest_joints(self, betas: Tensor) -> Tensor:
        """Joints (B, 24, 3) of the zero pose in metres, for betas (B, 10)."""
        return self.rest_template + blend_shapes(betas, self.rest_shapedirs)

    def rest_joints29(self, betas: Tensor) -> Tensor:
        """Joints and leaves (B, 29, 3) of the zero pose in metres, for betas (B, 10)."""
        leaves = self.v_template[self.leaf_vertices] + blend_shapes(betas, self.shapedirs[self.leaf_vertices])
        return torch.cat([self.rest_joints(betas), leaves], dim=1)

    def _chain(self, matrices: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Joints (B, 24, 3) m and their rotations in the world (B, 24, 3, 3), of local ones on resting joints."""
        rotation, position = matrices[:, :1], rest[:, :1]
        positions, rotations = [position], [rotation]
        for i in range(self.depth):
            children, parents, slots = self.get_buffer(f"level{i}")  # (3, joints of this level)
            offset = (rest[:, children] - rest[:, parents]).unsqueeze(-1)
            position = position[:, slots] + (rotation[:, slots] @ offset).squeeze(-1)
            rotation = rotation[:, slots] @ matrices[:, children]
            positions.append(position)
            rotations.append(rotation)
        return torch.cat(positions, dim=1)[:, self.joint_slots], torch.cat(rotations, dim=1)[:, self.joint_slots]


def _tree_levels(tree: Sequence[int]) -> list[tuple[list[int], list[int], list[int]]]:
    """Per depth below the root of a tree of parents: joints, their parents, and each parent's place in the level
    above."""
    levels, above = [], [0]
    while children := [joint for joint, parent in enumerate(tree) if parent in above]:
        parents = [tree[joint] for joint in children]
        levels.append((children, parents, [above.index(parent) for parent in parents]))
        above = children
    return levels


def _pose(rotations: Tensor, betas: Tensor, joints: int) -> tuple[Tensor, Tensor]:
    """Matrices (B, joints, 3, 3) and betas (B, 10) from whatever `BodyModel` accepts."""
    if rotations.ndim == 2 and rotations.shape[1] == 3 * joints:
        rotations = rotations.unflatten(1, (joints, 3))
    if rotations.shape[1:] == (joints, 3):
        rotations = roma.rotvec_to_rotmat(rotations)
    if rotations.shape[1:] != (joints, 3, 3):
        shape, flat = tuple(rotations.shape), 3 * joints
        raise BadInput(f"body: rotations have shape {shape}; give (B, {joints}, 3, 3), (B, {joints}, 3) or (B, {flat})")
    if betas.shape not in {(len(rotations), _BETAS), (1, _BETAS)}:
        raise BadInput(f"body: betas have shape {tuple(betas.shape)}; give ({len(rotations)}, 10) or (1, 10)")
    return rotations, betas.expand(len(rotations), _BETAS)


def _move(transforms: Tensor, points: Tensor) -> Tensor:
    """Points (B, N, 3) each by its own rigid or blended transform (B, N, 4, 4)."""
    return (transforms[..., :3, :3] @ points.unsqueeze(-1)).squeeze(-1) + transforms[..., :3, 3]


def _posedirs(arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """SMPL's (V, 3, 207) as smplx wants it, (207, V*3); None where there is nothing to add."""
    posedirs = arrays.get("posedirs")
    if posedirs is None or not posedirs.any():
        return None
    return posedirs.reshape(-1, posedirs.shape[-1]).T


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, shapes and values: the body's identity, whatever a file's number types and compression."""
    total = hashlib.sha256()
    for key in sorted(set(arrays) - {"sha256"}):
        value = arrays[key].astype("<i8" if arrays[key].dtype.kind in "iu" else "<f4")
        total.update(f"{key} {value.shape}\n".encode())
        total.update(value.tobytes())
    return total.hexdigest()


def load_body(name: str | Path = "open") -> BodyModel:
    """The body called `name`: "open" (shipped), a name given by `import_body` ("smpl", ...) or a path to such a file.

    Raises: BadInput as `body_arrays`.
    """
    arrays, called = body_arrays(name)
    return BodyModel(arrays, name=called)


def body_arrays(name: str | Path) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of the body called `name` as in `load_body`, and what it is called in reports.

    Raises: BadInput where no file is found (listing every place looked at), where it is not a body, or where its
    arrays are not those that were imported.
    """
    places = _places(name)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        looked = ", ".join(str(place) for place in places)
        layout = MANO if str(name).startswith("mano") else SMPL
        raise BadInput(
            f"body '{name}': no file found; looked at {looked}. Register at {layout.register_at}, download "
            f"{layout.name} and run: fasthmr body import PATH"
        )
    found = read_arrays(path)
    arrays = check_body(found, path)
    stored = str(found.get("sha256", ""))
    if path != _OPEN_BODY and stored != digest(arrays):
        raise BadInput(f"{path}: its arrays do not match its sha256; import the body again: fasthmr body import PATH")
    return arrays, str(name) if path in (_OPEN_BODY, _home_file(str(name))) else path.stem


def import_body(path: str | Path) -> Path:
    """Convert an official SMPL or MANO file (.pkl or .npz, chumpy and scipy arrays included) to plain arrays with a
    sha256.

    Nothing in the file is executed. The result, `$FASTHMR_HOME/bodies/<name>/body.npz`, is written whole or not at
    all; name is "smpl", "smpl-female" or "smpl-male", of a hand "mano" or "mano-left", told from the file's name.
    Returns its path.

    Raises: BadInput where the file is missing, is neither (names the array and what is wrong), or wants to run code.
    """
    path = Path(path).expanduser()
    arrays = check_body(read_arrays(path), path)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, sha256=np.array(digest(arrays)), **arrays)  # type: ignore[arg-type]  # numpy types ** as allow_pickle
    return atomic_write(_home_file(_name_of(path, layout_of(arrays))), buffer.getvalue())


def layout_of(arrays: Mapping[str, object]) -> Layout:
    """MANO where the tree of joints is a hand's, else SMPL."""
    return MANO if getattr(arrays.get("kintree_table"), "shape", None) == (2, len(MANO.parents)) else SMPL


def _name_of(path: Path, layout: Layout) -> str:
    words = set(path.stem.lower().replace("-", "_").split("_"))
    if layout is MANO:
        return "mano-left" if words & {"l", "left"} else "mano"
    if words & {"f", "female"}:
        return "smpl-female"
    return "smpl-male" if words & {"m", "male"} else "smpl"


def _home_file(name: str) -> Path:
    return fasthmr_home() / "bodies" / name / "body.npz"


def _places(name: str | Path) -> list[Path]:
    """Where a body of that name or path may lie, in order."""
    if isinstance(name, str) and name == "open":
        return [_OPEN_BODY]
    path = Path(name).expanduser()
    if isinstance(name, Path) or os.sep in name or path.suffix:
        return [path, path / "body.npz"]
    return [_home_file(name)]


def check_body(found: Mapping[str, object], path: Path) -> dict[str, np.ndarray]:
    """The arrays of SMPL or MANO in `found`, float32 with the first ten betas; `path` is for the message.

    Raises: BadInput naming file, array and what is wrong with it.
    """
    layout = layout_of(found)
    vertices, joints = layout.vertices, len(layout.parents)
    missing = [key for key in _ARRAYS if key not in found]
    if missing:
        raise BadInput(f"{path}: no {layout.name} body: {', '.join(missing)} missing (it holds: {_listed(found)})")
    shapes: dict[str, tuple[int, ...]] = {
        "v_template": (vertices, 3),
        "shapedirs": (vertices, 3, _BETAS),
        "weights": (vertices, joints),
        "J_regressor": (joints, vertices),
        "kintree_table": (2, joints),
    }
    if "posedirs" in found:
        shapes["posedirs"] = (vertices, 3, 9 * (joints - 1))
    floats = {key: _floats(found[key], key, shape, path, layout) for key, shape in shapes.items()}
    kintree = floats.pop("kintree_table").astype(np.int64)
    if kintree[1].tolist() != list(range(joints)) or kintree[0, 1:].tolist() != list(layout.parents[1:]):
        raise BadInput(f"{path}: kintree_table is not {layout.name}'s tree of {joints} joints")
    _check_ranges(floats, path)
    return floats | {"kintree_table": kintree, "f": _faces(found["f"], path, vertices)}


def _listed(found: Mapping[str, object]) -> str:
    return ", ".join(sorted(found)[:20]) or "nothing"


def _floats(value: object, key: str, shape: tuple[int, ...], path: Path, layout: Layout) -> np.ndarray:
    """`value` as a finite array of that shape; more than ten betas are cut."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise BadInput(f"{path}: {key} is not an array of numbers")
    if key == "shapedirs" and value.ndim == 3:
        value = value[..., :_BETAS]
    if value.shape != shape:
        raise BadInput(f"{path}: {key} has shape {value.shape}, {layout.name}'s is {shape}")
    if not (np.abs(value) < 1e30).all():  # false for NaN too
        raise BadInput(f"{path}: {key} holds values that are not finite or absurdly large")
    # kintree_table stays as it is: its root is 2**32 - 1, which float32 would round
    return value if key == "kintree_table" else np.ascontiguousarray(value, np.float32)


def _check_ranges(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    for key, total in (("weights", arrays["weights"].sum(1)), ("J_regressor", arrays["J_regressor"].sum(1))):
        if np.abs(total - 1).max() > 1e-2:
            raise BadInput(f"{path}: rows of {key} do not sum to one")
    if np.ptp(arrays["v_template"], axis=0).max() > 10:
        raise BadInput(f"{path}: v_template is larger than 10 m; its unit is the metre")


def _faces(value: object, path: Path, vertices: int) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu" or value.ndim != 2 or value.shape[1] != 3:
        raise BadInput(f"{path}: f is not an array of vertex numbers (F, 3)")
    faces = value.astype(np.int64)
    if not len(faces) or faces.min() < 0 or faces.max() >= vertices:
        raise BadInput(f"{path}: f names vertices outside 0..{vertices - 1}")
    return faces
