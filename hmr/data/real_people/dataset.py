"""`real` and `real-avatar`: a person by four cameras, as crops of a camera turned to them, with silver truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.context import Observer, silent
from compress.errors import BadInput
from hmr.body.conventions import CONVENTIONS
from hmr.body.limbs import HIPS
from hmr.data.dataset import DataSpec, Frames
from hmr.data.real_people.camera import Camera
from hmr.data.real_people.crops import Side, places_in, taken, toward, turned
from hmr.data.real_people.importing import VIDEOS, video_name
from hmr.data.real_people.manifest import read_manifest
from hmr.data.real_people.offsets import LIMB_LANDMARKS, joints_of, read_offsets
from hmr.data.real_people.recording import MultiViewRecording, load_recording
from hmr.data.real_people.silver import LIMB_POINTS, VISIBLE
from hmr.data.sample import Sample
from hmr.home import fasthmr_home
from hmr.media.video import frames_of_video

if TYPE_CHECKING:
    from hmr.evaluation.multiview import ViewsMeasurement

COMMAND = "fasthmr data import pose2sim WHEEL, with the wheel of pip download --no-deps pose2sim==0.10.49"
CONVENTION = "limbs12-hips"
MARGIN = 1.2  # of a box around BlazePose's landmarks, which end below the top of the head and before the fingertips


@dataclass(frozen=True)
class Keypoints:
    """BlazePose's landmarks of the twelve joints of `hmr.body.limbs` in N crops, in their pixels."""

    places: Tensor  # (N, 12, 2)
    visible: Tensor  # (N, 12) bool
    box: Tensor  # (N,) longer side of the box around all landmarks
    focal: Tensor  # (N,) of the crop's camera, infinite where it is unknown


@dataclass(frozen=True)
class Truth:
    """What is known of N frames in space; joints are the twelve of `hmr.body.limbs`, from between the hips and in the
    axes of each crop's camera."""

    views: tuple[str, ...]  # (N,) names of cameras
    moments: tuple[int, ...]  # (N,) number of the frame in its video
    rotations: Tensor  # (N, 3, 3) world to crop camera
    joints: Tensor  # (N, 12, 3) m, silver truth from the other views
    places: Tensor  # (N, 12, 2) pixels, where the crops show them
    error: Tensor  # (N, 12) m, its estimated error
    blazepose: Tensor  # (N, 12, 3) m, BlazePose's single-view landmarks as joints


Part = TypeVar("Part", Truth, Keypoints)


@dataclass(frozen=True, eq=False)
class RealFrames(Frames):
    """Frames of people whom BlazePose sees; by several cameras, view after view, each view's in the order of its video,
    or by one, where there is no truth in space."""

    size: tuple[int, int] = (256, 192)  # height and width of the crops
    side: Side = max  # how their squares follow from boxes
    keypoints: Keypoints | None = None
    truth: Truth | None = None

    def measure(self, model: Any, name: str = "model", observer: Observer = silent) -> ViewsMeasurement:  # type: ignore[override]  # other scores
        """How wrong and how fast `model` is on these frames."""
        from hmr.evaluation.multiview import measure_views

        return measure_views(model, self, name, observer)


def open_real(spec: DataSpec, frames: int | None, side: Side, size: tuple[int, int]) -> RealFrames:
    """The frames of `real` or `real-avatar`: of every view the same moments, spread evenly, at most `frames` in all.

    Raises BadInput where it was not imported, was changed since, or `frames` are fewer than views.
    """
    folder = fasthmr_home() / "real"
    manifest = read_manifest(folder, COMMAND)
    recording = load_recording(folder / f"{spec.name}.npz")
    views, total = len(recording.cameras), recording.points.shape[1]
    if frames is not None and frames < views:
        raise BadInput(f"--frames {frames}: {spec.name} has {views} views of each moment: name at least as many")
    each = total if frames is None else min(frames // views, total)
    moments = [i * total // each for i in range(each)]
    crops = [[crop_camera(recording, view, moment, side, size) for moment in moments] for view in range(views)]
    videos = [ChosenPictures(folder / video_name(spec.name, view), moments) for view in range(views)]
    truth = concatenated([known(recording, view, moments, crops[view]) for view in range(views)])
    keypoints = concatenated([seen(recording, view, moments, crops[view]) for view in range(views)])

    def draw(index: int) -> Sample:
        view, i = divmod(index, each)
        image = videos[view].picture(i)
        masked = recording.square(view, moments[i]).pasted(
            255 * recording.masks[view, moments[i]].astype(np.uint8), image.shape[:2]
        )
        camera, crop = recording.cameras[view], crops[view][i]
        return Sample(
            image=taken(image, camera, crop, size),
            recording=truth.views[index],
            mask=taken(masked, camera, crop, size) > 127,
            focal=crop.focal[0].item(),
            landmarks=truth.joints[index].float().numpy(),
        )

    return RealFrames(
        draw=draw,
        recording_of=truth.views.__getitem__,
        count=views * each,
        fps=recording.fps if each == total else None,
        notes=notes(spec, manifest),
        spec=spec,
        identity={"wheel": manifest["source"]["sha256"], "size": list(size)},
        size=size,
        side=side,
        keypoints=keypoints,
        truth=truth,
    )


def crop_camera(recording: MultiViewRecording, view: int, moment: int, side: Side, size: tuple[int, int]) -> Camera:
    """The camera of the crop of one view at one moment."""
    pixels = recording.pixels[view, moment]
    middle = (pixels.amin(0) + pixels.amax(0)) / 2
    return turned(recording.cameras[view], middle + MARGIN * (pixels - middle), side, size)


def known(recording: MultiViewRecording, view: int, moments: Sequence[int], crops: Sequence[Camera]) -> Truth:
    """What is known of some moments of one view."""
    picked, offsets = list(moments), read_offsets()
    rotations = torch.stack([crop.rotation for crop in crops])
    camera = recording.cameras[view]
    turn = rotations @ camera.rotation.mT  # (T, 3, 3) the picture's camera to the crop's
    # BlazePose's metres are in the axes of a camera that looks through the middle of its square
    turns = torch.stack([toward(ray) for ray in camera.rays(recording.squares[view, picked, :2])])
    own = recording.world[view, picked][:, LIMB_LANDMARKS] @ turns  # by the transposed: back to the picture's camera
    truth = joints_of(recording.points[view, picked][:, LIMB_POINTS], offsets)
    return Truth(
        views=(Path(VIDEOS[view]).stem,) * len(picked),
        moments=tuple(picked),
        rotations=rotations,
        joints=from_hips(truth @ rotations.mT),
        places=torch.stack([crop.project(each) for crop, each in zip(crops, truth, strict=True)]),
        error=recording.error[picked][:, LIMB_POINTS],
        blazepose=from_hips(joints_of(own @ turn.mT, offsets)),
    )


def seen(recording: MultiViewRecording, view: int, moments: Sequence[int], crops: Sequence[Camera]) -> Keypoints:
    """Where BlazePose has its landmarks in the crops of one view."""
    picked, camera = list(moments), recording.cameras[view]
    pixels = recording.pixels[view, picked]
    places = torch.stack([places_in(crop, camera, each) for crop, each in zip(crops, pixels, strict=True)])
    return keypoints_of(places, recording.visibility[view, picked], torch.stack([crop.focal[0] for crop in crops]))


def keypoints_of(places: Tensor, visibility: Tensor, focal: Tensor) -> Keypoints:
    """Of all landmarks (N, 33, 2) in pixels of crops by cameras of focal length (N,), visible (N, 33) 0..1."""
    box = (places.amax(1) - places.amin(1)).amax(-1)
    return Keypoints(places[:, LIMB_LANDMARKS], visibility[:, LIMB_LANDMARKS] > VISIBLE, box, focal)


def from_hips(joints: Tensor) -> Tensor:
    """Joints (..., 12, 3) m from between the hips."""
    return joints - joints[..., list(HIPS), :].mean(-2, keepdim=True)


def concatenated(parts: Sequence[Part]) -> Part:
    """Frames of several views as one, field by field."""
    columns: list[Any] = [[getattr(part, one.name) for part in parts] for one in fields(parts[0])]
    joined: list[Any] = [torch.cat(each) if isinstance(each[0], Tensor) else sum(each, ()) for each in columns]
    return type(parts[0])(*joined)


def notes(spec: DataSpec, manifest: dict[str, Any]) -> dict[str, Any]:
    """What reports state about these frames."""
    return {
        "clips": 1,
        "mask_source": "blazepose",
        "boxes": "BlazePose's landmarks",
        "convention": CONVENTION,
        "convention_used_by": CONVENTIONS[CONVENTION].used_by,
        "source": manifest["source"],
        "silver": manifest["sets"][spec.name],
    }


class ChosenPictures:
    """Chosen moments of a video: in their order each is decoded once, out of it from the start again."""

    def __init__(self, path: Path, moments: Sequence[int]) -> None:
        self.path, self.moments = path, moments
        self.coming: Iterator[tuple[int, NDArray[np.uint8]]] = iter(())
        self.next = 0

    def picture(self, index: int) -> NDArray[np.uint8]:
        """The picture (H, W, 3) of the moment of that number."""
        if index != self.next or index == 0:
            self.coming = frames_of_video(self.path, set(self.moments[index:]))
        self.next = index + 1
        return next(self.coming)[1]
