"""A wheel like Pose2Sim's: small videos of a scene that is known, and networks that know it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import av
import numpy as np
import torch

from hmr.data.blazepose import Detector, LandmarkNetwork, Landmarks, Square, square_of
from hmr.data.real_people.camera import FLIP, Camera
from hmr.data.real_people.crops import toward
from hmr.data.real_people.importing import CALIBRATION, DEMOS, VIDEOS
from tests.cameras import four, landmarks33, walk

FRAMES = 8
INTRINSICS = (
    "focalLengthU", "focalLengthV", "centerPointU", "centerPointV", "radialDistortion1", "radialDistortion2",
    "tangentalDistortion1", "tangentalDistortion2",
)  # fmt: skip
MAN = landmarks33(walk()[:FRAMES])
WOMAN = MAN.flip(0) + torch.tensor([0.5, -1.2, 0.0], dtype=torch.float64)


def seen(person: torch.Tensor, camera: Camera, square: Square | None = None) -> Landmarks:
    """What a perfect network sees of a person (33, 3) by a camera."""
    pixels = camera.project(person).numpy()
    hips = pixels[[23, 24]].mean(0)
    nearby = square_of(hips, hips - np.array([0, np.linalg.norm(pixels - hips, axis=1).max()]))
    square = square or nearby
    looks = toward(camera.rays(torch.tensor([square.centre], dtype=torch.float64))[0])  # the network's own axes
    world = (camera.seen(person) - camera.seen(person)[[23, 24]].mean(0)) @ looks.mT
    mask = np.zeros((256, 256), np.bool_)
    mask[64:192, 64:192] = True
    return Landmarks(pixels, np.ones(33), world.numpy(), 1.0, mask, square, nearby)


class Finder(Detector, LandmarkNetwork):
    """Both networks, for pictures whose red is the moment, green the view, blue who is there."""

    def __init__(self) -> None:
        pass

    def people(self, image: np.ndarray, least: float = 0.5, part: Square | None = None) -> list[Square]:
        """The man, and in the second demonstration the woman, whom one camera misses."""
        moment, view, demo = self.read(image)
        there = [MAN] if demo == 0 else [WOMAN, MAN] if view != 2 else [MAN]
        return [seen(person[moment], four()[view]).square for person in there]

    def see(self, image: np.ndarray, square: Square) -> Landmarks:
        """Whoever is nearest to the middle of the square."""
        moment, view, demo = self.read(image)
        people = [seen(person[moment], four()[view], square) for person in ([MAN] if demo == 0 else [MAN, WOMAN])]
        return min(people, key=lambda one: np.hypot(*np.subtract(one.next.centre, square.centre)))

    def read(self, image: np.ndarray) -> tuple[int, int, int]:
        red, green, blue = image.reshape(-1, 3).mean(0)
        return round((red - 20) / 25), round((green - 20) / 60), round(blue / 255)


def picture(moment: int, view: int, demo: int) -> np.ndarray:
    return np.full((48, 64, 3), (20 + 25 * moment, 20 + 60 * view, 255 * demo), np.uint8)


def video(view: int, demo: int, frames: int = FRAMES) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
        for moment in range(frames):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(moment, view, demo), format="rgb24")))
        out.mux(stream.encode())
    return file.getvalue()


def calibration(cameras: Camera) -> str:
    """A Qualisys file of these cameras."""
    entries = []
    for i in range(len(cameras)):
        camera = cameras[i]
        turn, place = FLIP[:, None] * camera.rotation, -camera.rotation.mT @ camera.translation * 1000
        transform = [f'r{a + 1}{b + 1}="{turn[a, b].item()!r}"' for a in range(3) for b in range(3)]
        transform += [f'{axis}="{value!r}"' for axis, value in zip("xyz", place.tolist(), strict=True)]
        lens = [*(64 * camera.focal).tolist(), *(64 * (camera.centre - 0.5)).tolist(), *camera.distortion.tolist()]
        intrinsic = [f'{name}="{value!r}"' for name, value in zip(INTRINSICS, lens, strict=True)]
        entries.append(f"<camera><transform {' '.join(transform)}/><intrinsic {' '.join(intrinsic)}/></camera>")
    return f"<calibration>{''.join(entries)}</calibration>"


def write_wheel(path: Path) -> Path:
    """Pose2Sim's, as far as it is read."""
    with zipfile.ZipFile(path, "w") as file:
        for number, demo in enumerate(DEMOS.values()):
            file.writestr(f"{demo}/{CALIBRATION}", calibration(four()))
            for view, name in enumerate(VIDEOS):
                file.writestr(f"{demo}/{name}", video(view, number))
        file.writestr("pose2sim-1.dist-info/METADATA", "Metadata-Version: 2.4\nName: pose2sim\nVersion: 1\n")
        file.writestr("pose2sim-1.dist-info/licenses/LICENSE", "BSD 3-Clause License")
        file.writestr("Pose2Sim/__init__.py", "raise SystemExit('run')")
    return path
