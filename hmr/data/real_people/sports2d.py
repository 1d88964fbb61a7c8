"""`fasthmr data import sports2d WHEEL`: two people in a video by one camera, of whom only BlazePose's keypoints are
known. An evaluation on `real:test` measures errors in the picture on them.

Sports2D is BSD-3-Clause; its demonstration shows a man on a roof and a woman who walks by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.atomic import atomic_folder
from compress.context import Observer, silent
from compress.errors import BadInput
from hmr.data.blazepose import Detector, LandmarkNetwork, Landmarks, Square, people_in_picture
from hmr.data.crop import cut
from hmr.data.dataset import DataSpec
from hmr.data.real_people.crops import Side
from hmr.data.real_people.dataset import MARGIN, ChosenPictures, RealFrames, keypoints_of
from hmr.data.real_people.manifest import digest, read_manifest, write_manifest
from hmr.data.real_people.recording import stacked
from hmr.data.sample import CropSquare, Sample
from hmr.data.wheel import described, members
from hmr.home import fasthmr_home
from hmr.media.video import frames_of_video, video

NAME = "sports2d"
VIDEO = "Sports2D/Demo/demo.mp4"
HINT = "take the wheel of sports2d 0.8.34 (pip download --no-deps sports2d==0.8.34)"
STEP = 5  # frames from one picture to the next


def import_sports2d(
    wheel: Path, finder: tuple[Detector, LandmarkNetwork] | None = None, observer: Observer = silent
) -> Path:
    """Put the people of Sports2D's video into `$FASTHMR_HOME/sports2d`; returns that folder.

    Written as `hmr.data.real_people.importing.import_pose2sim` does. Raises BadInput where the wheel is another, shows
    nobody, or BlazePose is missing.
    """
    name, release, licence = described(wheel, HINT)
    if name != NAME:
        raise BadInput(f"{wheel}: a wheel of {name}: {HINT}")
    content = members(wheel, [VIDEO], HINT)[VIDEO]
    detector, network = finder or (Detector(), LandmarkNetwork())
    target = fasthmr_home() / NAME
    with atomic_folder(target, replace=True) as folder:
        path = folder / Path(VIDEO).name
        path.write_bytes(content)
        (folder / "LICENSE").write_bytes(licence)
        count = len(video(path).times)
        found: list[tuple[int, Landmarks]] = []
        for moment, image in frames_of_video(path, set(range(0, count, STEP))):
            found += [(moment, person) for person in people_in_picture(image, detector, network)]
            observer(f"BlazePose on {NAME}", "", moment + 1, count)
        if not found:
            raise BadInput(f"{wheel}: BlazePose finds nobody in {VIDEO}")
        save(folder / f"{NAME}.npz", found)
        source = {"package": name, "version": release, "licence": "BSD-3-Clause", "sha256": digest(wheel)}
        write_manifest(folder, {"source": source, "people": len(found)})
    return target


def save(path: Path, people_at: list[tuple[int, Landmarks]]) -> None:
    """Write who was found at which moment of the video."""
    people = stacked([[person] for _, person in people_at])  # as if by one camera of several
    arrays: dict[str, Any] = {name: each[0].numpy() for name, each in people.items()}
    masks = np.packbits(np.stack([person.mask for _, person in people_at]), axis=-1)
    with path.open("wb") as file:
        np.savez_compressed(file, moments=np.array([moment for moment, _ in people_at]), masks=masks, **arrays)


def beside(frames: RealFrames) -> RealFrames | None:
    """Sports2D's people in crops like those of `real`, where they were imported; None beside other frames."""
    folder = fasthmr_home() / NAME
    if frames.spec.name != "real" or not folder.is_dir():
        return None
    return open_sports2d(folder, frames.side, frames.size)


def open_sports2d(folder: Path, side: Side, size: tuple[int, int]) -> RealFrames:
    """The people of an imported folder, in plain crops: nothing is known of their camera. Raises BadInput where it was
    changed."""
    manifest = read_manifest(folder, "fasthmr data import sports2d WHEEL")
    with np.load(folder / f"{NAME}.npz", allow_pickle=False) as arrays:
        moments, pixels, squares = arrays["moments"], arrays["pixels"], arrays["squares"]
        visibility, masks = torch.from_numpy(arrays["visibility"]), np.unpackbits(arrays["masks"], axis=-1)
    low, high = pixels.min(1), pixels.max(1)
    middles, sides = (low + high) / 2, [side(*extent) for extent in MARGIN * (high - low)]
    scale = size[0] / np.array(sides)[:, None, None]
    places = (pixels - middles[:, None]) * scale + [size[1] / 2, size[0] / 2]
    shown = {int(moment): i for i, moment in enumerate(dict.fromkeys(moments))}
    pictures = ChosenPictures(folder / Path(VIDEO).name, list(shown))

    def draw(index: int) -> Sample:
        image = pictures.picture(shown[int(moments[index])])
        x, y, across, angle = squares[index].tolist()
        mask = Square((x, y), across, angle).pasted(255 * masks[index], image.shape[:2])
        centre = (float(middles[index, 0]), float(middles[index, 1]))
        crop, person = (cut(each, centre, sides[index], size) for each in (image, mask))
        return Sample(crop, NAME, person > 127, CropSquare(centre, sides[index], image.shape[:2]))

    return RealFrames(
        draw=draw,
        recording_of=lambda index: NAME,
        count=len(moments),
        notes={"mask_source": "blazepose", "boxes": "BlazePose's landmarks", "source": manifest["source"]},
        spec=DataSpec(NAME),
        size=size,
        side=side,
        keypoints=keypoints_of(torch.from_numpy(places), visibility, torch.full((len(moments),), torch.inf)),
    )
