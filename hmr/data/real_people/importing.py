"""`fasthmr data import pose2sim WHEEL`: two recordings with silver truth, made of a wheel's videos and calibration.

Pose2Sim (BSD-3-Clause) brings a demonstration: a man, by four calibrated cameras, and the same recording with a
rendered woman in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.atomic import atomic_folder
from compress.context import Observer, silent
from compress.errors import BadInput
from hmr.data.blazepose import Detector, LandmarkNetwork, Landmarks, Pixels, Square
from hmr.data.real_people.camera import Camera, read_qualisys
from hmr.data.real_people.manifest import digest, write_manifest
from hmr.data.real_people.people import followed, people_in
from hmr.data.real_people.recording import MultiViewRecording, stacked
from hmr.data.real_people.silver import LIMB_POINTS, silver
from hmr.data.real_people.skeleton import POINTS
from hmr.data.real_people.triangulation import Views, triangulated
from hmr.data.wheel import described, members
from hmr.home import fasthmr_home
from hmr.media.video import frames_of_video, rate_of, video

DEMOS = {"real": "Pose2Sim/Demo_SinglePerson", "real-avatar": "Pose2Sim/Demo_MultiPerson"}
CALIBRATION = "calibration/Calib.qca.txt"
VIDEOS = tuple(f"videos/cam0{view}.mp4" for view in (1, 2, 3, 4))
HINT = "take the wheel of pose2sim 0.10.49 (pip download --no-deps pose2sim==0.10.49)"
AWAY = 0.5  # m between two people's hips


def import_pose2sim(
    wheel: Path, finder: tuple[Detector, LandmarkNetwork] | None = None, observer: Observer = silent
) -> Path:
    """Make `real` and `real-avatar` out of Pose2Sim's wheel; returns their folder, `$FASTHMR_HOME/real`.

    The folder holds the videos as they are, an .npz for each recording, the licence and `manifest.json`: hashes,
    versions, and how good the silver truth is. It takes the place of an older one when all is done; on one machine the
    same wheel gives the same bytes. Raises BadInput where the wheel is another or BlazePose is missing.
    """
    name, release, licence = described(wheel, HINT)
    if name != "pose2sim":
        raise BadInput(f"{wheel}: a wheel of {name}: {HINT}")
    held = members(wheel, [f"{demo}/{file}" for demo in DEMOS.values() for file in (CALIBRATION, *VIDEOS)], HINT)
    finder = finder or (Detector(), LandmarkNetwork())
    target = fasthmr_home() / "real"
    with atomic_folder(target, replace=True) as folder:
        (folder / "LICENSE").write_bytes(licence)
        sets: dict[str, Any] = {}
        man: Tensor | None = None
        for data, demo in DEMOS.items():
            cameras = read_qualisys(held[f"{demo}/{CALIBRATION}"], f"{wheel}: {demo}/{CALIBRATION}")
            videos = [folder / video_name(data, view) for view in range(len(VIDEOS))]
            for path, file in zip(videos, VIDEOS, strict=True):
                path.write_bytes(held[f"{demo}/{file}"])
            recording, sets[data] = recorded(videos, cameras, finder, man, observer)
            recording.save(folder / f"{data}.npz")
            man = recording.points[0, 0, LIMB_POINTS[:2]].mean(0)
        source = {"package": name, "version": release, "licence": "BSD-3-Clause", "sha256": digest(wheel)}
        write_manifest(folder, {"source": source, "sets": sets})
    return target


def video_name(data: str, view: int) -> str:
    """The file of one view of a data set in its folder."""
    return f"{data}-{Path(VIDEOS[view]).name}"


def recorded(
    videos: Sequence[Path],
    cameras: Camera,
    finder: tuple[Detector, LandmarkNetwork],
    other: Tensor | None,
    observer: Observer,
) -> tuple[MultiViewRecording, dict[str, Any]]:
    """The recording of the person on whom V videos agree best, at least AWAY from an `other` place (3,) m; and the
    figures of its silver truth, as JSON values."""
    times = [video(path).times for path in videos]
    fps = rate_of(list(times[0]))
    if len(cameras) != len(videos) or any(len(each) != len(times[0]) for each in times) or fps is None:
        raise BadInput(f"{videos[0].name} and the others: not one length and rate, or not as many as there are cameras")
    squares = whom_to_follow(next(together(videos, 1)), cameras, finder, other)
    moments: list[list[Landmarks]] = []
    for one in followed(together(videos, len(times[0])), cameras, squares, finder[1]):
        moments.append(one)
        observer(f"BlazePose on {videos[0].stem[:-6]}", "", len(moments), len(times[0]))
    seen = stacked(moments)
    truth = silver(cameras, seen["pixels"], seen["visibility"], fps)
    masks = np.stack([[one.mask for one in views] for views in zip(*moments, strict=True)])
    recording = MultiViewRecording(fps, truth.cameras, masks=masks, points=truth.points, error=truth.error, **seen)
    error = truth.error.median(0).values * 1000
    figures = {"frames": len(moments), "error_mm": dict(zip(POINTS, error.tolist(), strict=True)), **truth.figures}
    return recording, figures


def whom_to_follow(
    images: Sequence[Pixels], cameras: Camera, finder: tuple[Detector, LandmarkNetwork], other: Tensor | None
) -> list[Square]:
    """Where V pictures of one moment show the person on whom they agree best, not the one at `other` (3,) m."""
    for squares in people_in(images, cameras, *finder):
        middles = torch.tensor([square.centre for square in squares], dtype=torch.float64)[:, None]
        hips = triangulated(Views(cameras, middles, torch.ones_like(middles[..., 0])))[0]
        if other is None or (hips - other).norm() > AWAY:
            return squares
    raise BadInput("pose2sim: nobody is seen by three cameras of the first pictures, who is not followed already")


def together(videos: Sequence[Path], count: int) -> Iterator[list[Pixels]]:
    """The first pictures of V videos, moment by moment."""
    for views in zip(*(frames_of_video(path, set(range(count))) for path in videos), strict=True):
        yield [image for _, image in views]
