"""The focal length of a camera: as the user knows it, as the file says, as a network sees it, or assumed."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from compress.errors import BadInput
from hmr.data.datasets import focal_of
from hmr.media.listing import pictures_in
from hmr.media.picture import IMAGES
from hmr.media.shot import Pixels
from hmr.media.video import pyav
from hmr.models.model import HMRModel
from hmr.video.frames import STREAM

log = logging.getLogger(__name__)

FULL_FRAME = math.hypot(36, 24)  # mm, the diagonal that "35 mm equivalent" is about
EXIF, EQUIVALENT = 0x8769, 0xA405  # EXIF's own directory, FocalLengthIn35mmFilm
TAG = "com.apple.quicktime.camera.focal_length.35mm_equivalent"
ASSUMED = "assumed: the picture's diagonal, 53 degrees along it"


@dataclass(frozen=True)
class Lens:
    """focal: pixels, of a camera that looks through the middle of its picture. metric: whether it is known."""

    focal: float
    source: str

    @property
    def metric(self) -> bool:
        """Whether distances from the camera are in metres, as far as the size of the person is known."""
        return self.source != ASSUMED


def lens(
    path: Path,
    image: Pixels,
    focal: float | None = None,
    fov: float | None = None,
    model: HMRModel | None = None,
) -> Lens:
    """The lens that took the frame `image` (H, W, 3) of a file: `focal` in pixels or the vertical field of view `fov`
    in degrees where one is given, else what the file says, else what the `model`'s own network sees, else assumed.

    Raises BadInput for both, for values that no lens has, and for a model that has to know it and has no network.
    """
    height, width = image.shape[:2]
    refuse_lenses(focal, fov)
    if focal is not None:
        return Lens(focal, "--focal")
    if fov is not None:
        return Lens(height / (2 * math.tan(math.radians(fov) / 2)), "--fov")
    if equivalent := equivalent_of(path):
        return Lens(equivalent / FULL_FRAME * math.hypot(width, height), "written in the file")
    if model is not None and (network := focal_of(model)):
        return Lens(network(image), "the model's field-of-view network, from the first frame")
    found = Lens(math.hypot(width, height), ASSUMED)
    log.warning(
        "%s: the focal length is not known and is %s, %.0f pixels; distances from the camera are not metric "
        "(--focal PIXELS or --fov DEGREES)", path, ASSUMED, found.focal,
    )  # fmt: skip
    return found


def refuse_lenses(focal: float | None, fov: float | None) -> None:
    """Raise BadInput where both are given, or what no lens has."""
    if focal is not None and fov is not None:
        raise BadInput("--focal and --fov say the same: give one of them")
    if (focal is not None and not 1 <= focal <= 1e6) or (fov is not None and not 0.1 <= fov <= 179):
        raise BadInput("--focal is in pixels, 1 or more, and --fov in degrees, 0.1 to 179")


def equivalent_of(path: Path) -> float | None:
    """The focal length of a file in mm of a 35 mm film; None where it does not say."""
    try:
        said = None if path == STREAM else in_picture(path) if path.is_dir() or image(path) else in_video(path)
        value = float(said) if said else 0.0
    except (OSError, ValueError, TypeError, SyntaxError):
        return None
    return value if 1 < value < 5000 else None


def image(path: Path) -> bool:
    return path.suffix.lower() in IMAGES


def in_picture(path: Path) -> Any:
    """FocalLengthIn35mmFilm of a picture, or of the first one in a folder."""
    first = path / pictures_in(path)[0] if path.is_dir() else path
    with Image.open(first) as opened:
        return opened.getexif().get_ifd(EXIF).get(EQUIVALENT)


def in_video(path: Path) -> Any:
    """Apple's note in a video."""
    with pyav().open(str(path)) as file:
        return {**file.metadata, **file.streams.video[0].metadata}.get(TAG)
