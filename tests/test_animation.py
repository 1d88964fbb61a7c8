"""Files of motion, read by programs that are not ours: pygltflib, the reader of BVH, numpy and csv."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import roma
import torch
from pygltflib import GLTF2

from compress.errors import BadInput
from hmr.animation.arrays import UNITS, joint_table, npz
from hmr.animation.bvh import bvh
from hmr.animation.glb import glb, quaternions, skinning_error_m
from hmr.animation.track import Track
from hmr.animation.world import in_world, read_cameras
from hmr.body.files import body_arrays, load_body
from hmr.body.model import JOINT_NAMES, BodyModel
from hmr.motion.bvh import global_pose, parse_bvh

FRAMES = 7
UP = np.array([1, -1, -1])  # from a camera's axes to those with y up


def moving(times: np.ndarray | None = None) -> Track:
    """Somebody who turns all joints further and further, past half a turn, and walks away from the camera."""
    draw = torch.Generator().manual_seed(4)
    way = torch.randn(1, 24, 3, generator=draw) * torch.linspace(0.3, 2.2, FRAMES)[:, None, None]
    rotations, betas = roma.rotvec_to_rotmat(way), torch.randn(1, 10, generator=draw)
    at = torch.stack([torch.linspace(-1, 1, FRAMES), torch.zeros(FRAMES), torch.linspace(3, 5, FRAMES)], 1)
    joints = load_body().skeleton(rotations, betas) + at[:, None]
    few = np.zeros(FRAMES, np.float32)
    return Track(
        id=3,
        frame=np.arange(4, 4 + FRAMES),
        time_s=np.arange(4, 4 + FRAMES) / 25 if times is None else times,
        rotations=rotations.numpy(),
        betas=betas[0].numpy(),
        camera=np.ones((FRAMES, 3), np.float32),
        translation_m=at.numpy(),
        joints_m=joints.numpy(),
        joints_coco_m=np.zeros((FRAMES, 17, 3), np.float32),
        box_px=np.zeros((FRAMES, 4), np.float32),
        confidence=few + 1,
        interpolated=few > 0,
        focal_px=1500.0,
    )


# ---- GLB


def accessor(file: GLTF2, number: int) -> np.ndarray:
    """Values (N, C) of an accessor, as the specification says they lie."""
    found = file.accessors[number]
    view, kind = file.bufferViews[found.bufferView], {5121: np.uint8, 5123: np.uint16, 5126: np.float32}
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}[found.type]
    flat = np.frombuffer(file.binary_blob(), kind[found.componentType], found.count * width, view.byteOffset)
    return flat.reshape(found.count, width)


def skinned(file: GLTF2, frame: int) -> np.ndarray:
    """Vertices (V, 3) at a key frame: node matrices down the tree, then linear blend skinning, by the specification."""
    local = []
    for node in file.nodes:
        turn = np.array(node.rotation or [0, 0, 0, 1.0])
        local.append([turn, np.array(node.translation or [0, 0, 0.0])])
    [animation] = file.animations
    for channel in animation.channels:
        value = accessor(file, animation.samplers[channel.sampler].output)[frame]
        local[channel.target.node][0 if channel.target.path == "rotation" else 1] = value
    world: dict[int, np.ndarray] = {}

    def place(number: int, above: np.ndarray) -> None:
        matrix = np.eye(4)
        x, y, z, w = local[number][0] / np.linalg.norm(local[number][0])
        matrix[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        matrix[:3, 3] = local[number][1]
        world[number] = above @ matrix
        for child in file.nodes[number].children or []:
            place(child, world[number])

    for root in file.scenes[file.scene].nodes:
        place(root, np.eye(4))
    [skin], [mesh] = file.skins, file.meshes
    inverse = accessor(file, skin.inverseBindMatrices).reshape(-1, 4, 4).swapaxes(1, 2)
    bones = np.stack([world[node] @ inverse[i] for i, node in enumerate(skin.joints)])
    held = mesh.primitives[0].attributes
    points, weights = accessor(file, held.POSITION), accessor(file, held.WEIGHTS_0)
    blended = np.einsum("vk,vkab->vab", weights, bones[accessor(file, held.JOINTS_0)])
    return np.einsum("vab,vb->va", blended[:, :3, :3], points) + blended[:, :3, 3]


def test_a_glb_skinned_again_is_the_body_to_a_millimetre(tmp_path):
    track, body = moving(), load_body()
    (tmp_path / "a.glb").write_bytes(glb(track, body))
    file = GLTF2().load(str(tmp_path / "a.glb"))
    expected = track.vertices_m(body) * UP
    for frame in range(FRAMES):
        assert np.linalg.norm(skinned(file, frame) - expected[frame], axis=1).max() < 1e-3
    [animation], [skin], [mesh] = file.animations, file.skins, file.meshes
    paths = [channel.target.path for channel in animation.channels]
    assert paths.count("rotation") == 24 and paths.count("translation") == 1 and len(skin.joints) == 24
    assert accessor(file, animation.samplers[0].input)[:, 0] == pytest.approx(track.time_s)
    assert accessor(file, mesh.primitives[0].indices).max() == len(expected[0]) - 1
    assert [file.nodes[i].name for i in skin.joints] == list(JOINT_NAMES)
    assert "y up" in file.asset.extras["axes"] and file.asset.extras["units"] == "metres"
    assert skinning_error_m(track, body) < 1e-5


def test_what_pose_blend_shapes_move_is_told():
    """Of a body with some: exactly what they add to its surface."""
    arrays, _ = body_arrays("open")
    bend = np.random.default_rng(0).normal(0, 1e-3, (6890, 3, 207)).astype(np.float32)
    track, body = moving(), BodyModel({**arrays, "posedirs": bend})
    added = np.linalg.norm(track.vertices_m(body) - track.vertices_m(load_body()), axis=-1).max()
    assert skinning_error_m(track, body) == pytest.approx(added, rel=1e-3) and added > 5e-3


def test_no_bone_spins_round_between_two_frames():
    """What lies half way between two keys is half way between their rotations."""
    track = moving()
    turns = quaternions(track.rotations)
    assert ((turns[1:] * turns[:-1]).sum(-1) >= 0).all()
    middle = turns[1:] + turns[:-1]
    between = roma.unitquat_to_rotmat(torch.from_numpy(middle / np.linalg.norm(middle, axis=-1, keepdims=True)))
    one, other = (torch.from_numpy(each) for each in (track.rotations[:-1], track.rotations[1:]))
    apart = roma.rotmat_geodesic_distance(one, other)
    assert torch.allclose(roma.rotmat_geodesic_distance(one, between), apart / 2, atol=2e-3)


# ---- BVH


def read_back(content: bytes, folder: Path) -> tuple[np.ndarray, float]:
    """Joints (T, 24, 3) m and frames/s."""
    path = folder / "a.bvh"
    path.write_bytes(content)
    skeleton, values, fps = parse_bvh(path)
    _, places = global_pose(skeleton, values)
    assert sorted(skeleton.names) == sorted(JOINT_NAMES)
    return np.stack([places[name] for name in JOINT_NAMES], 1) / 100, fps


def test_a_bvh_read_back_has_the_joints_to_a_millimetre(tmp_path):
    track = moving()
    joints, fps = read_back(bvh(track, load_body()), tmp_path)
    assert np.linalg.norm(joints - track.joints_m * UP, axis=-1).max() < 1e-3 and fps == pytest.approx(25)


def test_frames_of_varying_rate_are_a_bvh_of_a_steady_one(tmp_path):
    """Somebody who walks straight on: at even times they are at even places."""
    times = np.array([0, 0.1, 0.15, 0.4, 0.5, 0.9, 1.2])
    track = moving(times)
    path = np.interp(times, [0, 1.2], [3, 5]).astype(np.float32)
    still = replace(track, rotations=track.rotations[[0] * FRAMES], joints_m=track.joints_m[[0] * FRAMES].copy())
    still.joints_m[..., 2] += (path - path[0])[:, None]
    joints, fps = read_back(bvh(still, load_body()), tmp_path)
    assert fps == pytest.approx(5) and np.diff(joints[:, 0, 2]) == pytest.approx(-2 / 6, abs=1e-3)


# ---- arrays


def test_an_npz_has_what_it_says_and_says_what_it_has():
    track, body = moving(), load_body()
    with np.load(io.BytesIO(npz(track, False, body, vertices=True)), allow_pickle=False) as file:
        held = {name: file[name] for name in file.files}
    shapes = {
        "frame": (7,), "time_s": (7,), "global_orient": (7, 1, 3, 3), "body_pose": (7, 23, 3, 3), "axis_angle": (7, 72),
        "betas": (10,), "camera": (7, 3), "translation_m": (7, 3), "focal_px": (), "joints_m": (7, 24, 3),
        "joints_coco_m": (7, 17, 3), "box_px": (7, 4), "confidence": (7,), "interpolated": (7,),
        "vertices_m": (7, 6890, 3),
    }  # fmt: skip
    assert {name: held[name].shape for name in shapes} == shapes
    told = {line.partition(": ")[0]: line.partition(": ")[2] for line in held["units"]}
    assert told == {name: UNITS[name] for name in shapes}
    assert "x right, y down, z forward" in str(held["axes"]) and "not metric" in str(held["depth"])
    posed = body(torch.from_numpy(held["axis_angle"]), torch.from_numpy(held["betas"][None]))
    assert held["vertices_m"] == pytest.approx(posed.vertices.numpy() + held["translation_m"][:, None], abs=1e-4)
    with np.load(io.BytesIO(npz(track, True, body))) as file:
        assert str(file["depth"]) == "metric" and "vertices_m" not in file.files


def test_the_table_of_joints_is_read_as_any_table():
    track = moving()
    lines = joint_table([track, replace(track, id=5)], True).decode().splitlines()
    assert lines[0].startswith("# joints in metres") and "depth is metric" in lines[0]
    rows = list(csv.DictReader(lines[1:]))
    assert [row["track"] for row in rows] == ["3"] * FRAMES + ["5"] * FRAMES
    values = [[[float(row[f"{joint}_{axis}_m"]) for axis in "xyz"] for joint in JOINT_NAMES] for row in rows[:FRAMES]]
    assert np.array(values) == pytest.approx(track.joints_m, abs=1e-5)
    assert [float(row["time_s"]) for row in rows[:FRAMES]] == pytest.approx(track.time_s)


# ---- the world


def turning(frames: np.ndarray) -> dict[str, np.ndarray]:
    """A camera that turns and walks, at these frames."""
    way = torch.tensor([[0.2, 0.9, -0.1]]) * torch.from_numpy(frames.copy())[:, None] / 10
    rotation = roma.rotvec_to_rotmat(way).numpy()
    return {"frame": frames, "rotation": rotation, "translation": np.stack([frames / 5, 0 * frames, frames / 9], 1)}


def test_motion_in_the_world_is_what_the_camera_sees_of_it(tmp_path):
    """The body posed by the world's arrays and seen by the camera is the body in the camera's axes."""
    track, body = moving(), load_body()
    np.savez(tmp_path / "c.npz", **turning(np.arange(20)[::-1]))  # type: ignore[arg-type]
    world = in_world(track, read_cameras(tmp_path / "c.npz"))
    turns = torch.from_numpy(np.concatenate([world["world_orient"], track.rotations[:, 1:]], 1))
    posed = body(turns, torch.from_numpy(track.betas[None]))
    at = torch.from_numpy(world["world_translation_m"])[:, None]
    assert (posed.joints + at).numpy() == pytest.approx(world["world_joints_m"], abs=1e-4)
    camera = turning(track.frame)
    seen = np.einsum("tab,tvb->tva", camera["rotation"], (posed.vertices + at).numpy()) + camera["translation"][:, None]
    assert seen == pytest.approx(track.vertices_m(body), abs=1e-4)
    with np.load(io.BytesIO(npz(track, True, body, world=world))) as file:
        assert any(line.startswith("world_joints_m: m") for line in file["units"])


@pytest.mark.parametrize(
    "change, hint",
    [
        ({"rotation": np.ones((7, 3, 3))}, "a rotation is none"),
        ({"rotation": -np.tile(np.eye(3), (7, 1, 1))}, "a rotation is none"),
        ({"rotation": np.eye(3)}, "rotation is not so"),
        ({"translation": np.full((7, 3), np.nan)}, "translation is not so"),
        ({"translation": np.zeros((6, 3))}, "as many"),
        ({"frame": np.zeros(7)}, "each frame once"),
    ],
)
def test_cameras_that_are_none_are_refused(tmp_path, change: dict[str, np.ndarray], hint):
    np.savez(tmp_path / "c.npz", **{**turning(np.arange(7)), **change})  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=hint):
        read_cameras(tmp_path / "c.npz")


def test_a_frame_without_a_camera_and_what_is_no_file_are_refused(tmp_path):
    np.savez(tmp_path / "c.npz", **turning(np.arange(7)))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="frame 7 has no camera; 4 of 7"):
        in_world(moving(), read_cameras(tmp_path / "c.npz"))
    (tmp_path / "c.npz").write_bytes(b"PK")
    for name in ("c.npz", "nothing.npz"):
        with pytest.raises(BadInput, match=name):
            read_cameras(tmp_path / name)
