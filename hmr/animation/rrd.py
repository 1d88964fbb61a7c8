"""Motion as a recording that Rerun's viewer shows: everybody's skeleton, mesh and box over time.

Rerun (https://rerun.io, MIT or Apache-2.0) writes its own format, which changes from version to version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from compress.errors import BadInput
from hmr.animation.arrays import CAMERA_AXES
from hmr.animation.track import Track
from hmr.animation.world import CameraPath
from hmr.body.model import BodyModel

AT_ONCE = 64  # frames whose vertices are in memory


def rerun_sdk() -> Any:
    """Rerun, or BadInput."""
    try:
        import rerun
    except ImportError as error:
        raise BadInput("--rerun: Rerun is not installed: pip install 'fasthmr[rerun]'") from error
    return rerun


def rrd(
    tracks: Sequence[Track], body: BodyModel, size: tuple[int, int], metric: bool, cameras: CameraPath | None = None
) -> bytes:
    """A recording of people in frames of `size` (height, width).

    `camera/people/1` has joints and mesh of person 1, `camera/image/1` the box, on the timelines `frame` and `time`
    (s). Everything is in the camera's axes, in metres; where `cameras` are given, `camera` moves in the world.
    metric: whether the focal length is known. Raises BadInput where Rerun is not installed.
    """
    rr = rerun_sdk()
    recording = rr.RecordingStream("fasthmr")
    stream = recording.binary_stream()  # NOTE: what saves to a file itself waits for ever where the disk is full
    for place, entity in still(rr, tracks, body, size, metric, cameras is not None):
        recording.log(place, entity, static=True, strict=True)
    for place, frames, times, columns in changes(rr, tracks, body, cameras):
        indexes = [rr.TimeColumn("frame", sequence=frames), rr.TimeColumn("time", duration=times)]
        recording.send_columns(place, indexes, columns, strict=True)
    return stream.read() or b""  # in one piece: each read ends what can be read


def changes(
    rr: Any, tracks: Sequence[Track], body: BodyModel, cameras: CameraPath | None
) -> Iterator[tuple[str, Any, Any, Any]]:
    """Paths, frames, times and columns of all that moves."""
    if cameras:
        yield camera_moves(rr, tracks, cameras)
    for track in tracks:
        yield from joints_and_box(rr, track)
        for begin in range(0, len(track), AT_ONCE):
            yield mesh(rr, track.part(slice(begin, begin + AT_ONCE)), body)


def still(
    rr: Any, tracks: Sequence[Track], body: BodyModel, size: tuple[int, int], metric: bool, world: bool
) -> Iterator[tuple[str, Any]]:
    """Paths and what is there at all times: what joints are called, the camera's lens, faces of meshes."""
    depth = "metric" if metric else "not metric: the focal length is assumed"
    yield "about", rr.TextDocument(f"Metres, in the axes of {CAMERA_AXES}. Depth is {depth}.")
    layout = body.layout
    bones = [(parent, i) for i, parent in enumerate(layout.parents) if parent >= 0]
    named = {"keypoint_annotations": list(enumerate(layout.joints)), "keypoint_connections": bones}
    yield "/", rr.AnnotationContext([rr.ClassDescription(info=(t.id, f"person {t.id}"), **named) for t in tracks])
    if not world:
        yield "/", rr.ViewCoordinates.RDF
    for focal in {track.focal_px for track in tracks}:
        lens = rr.Pinhole(focal_length=focal, width=size[1], height=size[0], camera_xyz=rr.ViewCoordinates.RDF)
        yield "camera/image", lens
    for track in tracks:
        yield f"camera/people/{track.id}/mesh", rr.Mesh3D.from_fields(triangle_indices=body.faces.numpy())


def joints_and_box(rr: Any, track: Track) -> Iterator[tuple[str, Any, Any, Any]]:
    """Paths, frames, times and columns of one person's joints and box, and of their end, when both are cleared."""
    frames, times, count = track.frame, track.time_s, len(track)
    person, box = f"camera/people/{track.id}", f"camera/image/{track.id}"
    joints, colours = track.joints_m.reshape(-1, 3), track.colours  # (T, J, 3) -> (T*J, 3)
    per_frame = [track.joints_m.shape[1]] * count
    numbers = np.tile(np.arange(per_frame[0]), count)
    points = rr.Points3D.columns(positions=joints, keypoint_ids=numbers).partition(per_frame)
    classes = rr.Points3D.columns(class_ids=[track.id] * count, colors=colours)
    yield f"{person}/joints", frames, times, [*points, *classes]
    low, high = track.box_px[:, :2], track.box_px[:, 2:]
    boxes = rr.Boxes2D.columns(centers=(low + high) / 2, half_sizes=(high - low) / 2, colors=colours)
    labels = rr.Boxes2D.columns(labels=[f"{track.id}"] * count)
    yield box, frames, times, [*boxes, *labels]
    for path in (person, box):
        yield path, frames[-1:] + 1, times[-1:] + 1 / track.fps, rr.Clear.columns(is_recursive=[True])


def mesh(rr: Any, track: Track, body: BodyModel) -> tuple[str, Any, Any, Any]:
    """Path, frames, times and columns of one person's surface."""
    vertices = track.vertices_m(body)
    places = rr.Mesh3D.columns(vertex_positions=vertices.reshape(-1, 3))  # (T, V, 3) -> (T*V, 3)
    columns = [*places.partition([vertices.shape[1]] * len(track)), *rr.Mesh3D.columns(albedo_factor=track.colours)]
    return f"camera/people/{track.id}/mesh", track.frame, track.time_s, columns


def camera_moves(rr: Any, tracks: Sequence[Track], cameras: CameraPath) -> tuple[str, Any, Any, Any]:
    """Path, frames, times and columns of the camera in the world, at each frame that shows somebody."""
    seen = {int(frame): float(time) for t in tracks for frame, time in zip(t.frame, t.time_s, strict=True)}
    frames = np.array(sorted(seen), np.int64)
    rotation, translation = cameras.at(frames)
    back = rotation.swapaxes(1, 2)
    places = -np.einsum("tab,tb->ta", back, translation)
    columns = rr.Transform3D.columns(translation=places, mat3x3=back)
    return "camera", frames, np.array([seen[i] for i in frames.tolist()]), columns
