"""Recordings for Rerun, read back by Rerun itself, which the slow suite installs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roma
import torch

from hmr.animation.rrd import AT_ONCE, rrd
from hmr.animation.track import BETWEEN, COLOURS, Track
from hmr.animation.world import CameraPath, in_world
from hmr.body.files import load_body
from tests.films import film
from tests.test_animation import FRAMES, moving

SHOWN = ("frame", "Points3D", "Mesh3D", "Boxes2D", "Transform3D", "Clear", "Pinhole")


def columns_of(path: Path) -> dict[str, np.ndarray]:
    """What a recording holds at `entity|Archetype:component`, the rows of its chunks one after the other."""
    from rerun.chunk import RrdReader

    found: dict[str, list[np.ndarray]] = {}
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name.partition(":")[0] in SHOWN:
                found.setdefault(f"{chunk.entity_path}|{name}", []).append(flat(column))
    return {name: np.concatenate(rows) for name, rows in found.items()}


def flat(column: Any) -> np.ndarray:
    """An Arrow column of nested lists: (rows, values of each row)."""
    values = column
    while hasattr(values, "flatten") and hasattr(values.type, "value_type"):
        values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(len(column), -1)


def near(values: np.ndarray, others: np.ndarray) -> bool:
    """Whether they are the same numbers in the same order."""
    return values.size == others.size and float(np.abs(values.ravel() - others.ravel()).max()) < 1e-5


def rgba(colours: list[tuple[int, int, int]]) -> list[int]:
    """As Rerun keeps colours that hide what is behind them."""
    return [(red << 24) | (green << 16) | (blue << 8) | 255 for red, green, blue in colours]


@pytest.mark.slow
def test_rerun_reads_skeletons_meshes_boxes_and_cameras(tmp_path):
    first = moving()
    box = np.tile(np.array([10, 20, 30, 60], np.float32), (FRAMES, 1))
    first = replace(first, interpolated=np.arange(FRAMES) == 3, box_px=box)
    long = np.arange(AT_ONCE + 5) % FRAMES
    second: Track = replace(first.part(long), id=2, frame=np.arange(len(long)), time_s=np.arange(len(long)) / 25)
    draw = torch.Generator().manual_seed(1)
    count = 100
    turns = roma.rotvec_to_rotmat(torch.randn(count, 3, generator=draw, dtype=torch.float64)).numpy()
    cameras = CameraPath(Path("path"), np.arange(count), turns, torch.randn(count, 3, generator=draw).double().numpy())
    path, body = tmp_path / "people.rrd", load_body()
    path.write_bytes(rrd([first, second], body, (96, 128), True, cameras))
    found = columns_of(path)
    person, box_of = "/camera/people/3", "/camera/image/3"
    assert np.array_equal(found[f"{person}/joints|frame"][:, 0], first.frame)
    assert near(found[f"{person}/joints|Points3D:positions"], first.joints_m)
    assert near(found[f"{person}/mesh|Mesh3D:vertex_positions"], first.vertices_m(body))
    assert near(found["/camera/people/2/mesh|Mesh3D:vertex_positions"], second.vertices_m(body))
    assert near(found[f"{person}/mesh|Mesh3D:triangle_indices"], body.faces.numpy())
    expected = rgba([BETWEEN if i == 3 else COLOURS[2] for i in range(FRAMES)])
    assert found[f"{person}/joints|Points3D:colors"][:, 0].tolist() == expected
    assert found[f"{person}/mesh|Mesh3D:albedo_factor"][:, 0].tolist() == expected
    assert found[f"{box_of}|Boxes2D:centers"].tolist() == [[20, 40]] * FRAMES
    assert found[f"{box_of}|Boxes2D:half_sizes"].tolist() == [[10, 20]] * FRAMES
    gone = int(first.frame[-1]) + 1
    assert found[f"{person}|frame"].tolist() == [[gone]]  # when it is cleared
    assert sorted(found[f"{box_of}|frame"][:, 0]) == [*first.frame, gone]
    assert found["/camera/image|Pinhole:image_from_camera"][0, 0] == first.focal_px
    rows = np.searchsorted(found["/camera|frame"][:, 0], first.frame)
    back = found["/camera|Transform3D:mat3x3"][rows].reshape(-1, 3, 3).swapaxes(1, 2)  # columns first
    world = np.einsum("tab,tjb->tja", back, first.joints_m) + found["/camera|Transform3D:translation"][rows][:, None]
    assert near(world, in_world(first, cameras)["world_joints_m"])


@pytest.mark.slow
def test_a_run_writes_what_rerun_reads(fasthmr, tmp_path):
    boxes = tmp_path / "people.csv"
    boxes.write_text("frame,id,x1,y1,x2,y2\n" + "".join(f"{i},a,20,28,40,52\n" for i in range(6)))
    words = ("run", film(tmp_path / "walk.mp4", 6), "--model", "reference-small", "--people", boxes, "--rerun")
    assert fasthmr(*words, "--out", tmp_path / "out")[0] == 0
    with np.load(tmp_path / "out" / "track-1.npz") as track:
        found = columns_of(tmp_path / "out" / "people.rrd")["/camera/people/1/joints|Points3D:positions"]
        assert near(found, track["joints_m"])


def test_rerun_that_is_missing_is_told_before_anything_is_seen(fasthmr, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    boxes = tmp_path / "people.csv"
    boxes.write_text("frame,x1,y1,x2,y2\n0,20,28,40,52\n")
    words = ("run", film(tmp_path / "walk.mp4", 6), "--model", "reference-small", "--people", boxes, "--rerun")
    code, _, err = fasthmr(*words, "--out", tmp_path / "out")
    assert code == 2 and "pip install 'fasthmr[rerun]'" in err and not (tmp_path / "out").exists()
