"""A picture file as the pixels that it shows."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from compress.errors import BadInput

log = logging.getLogger(__name__)

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LARGEST = 100_000_000  # pixels of a picture
GREY = (128, 128, 128, 255)  # what transparent pixels are shown on: nearest to any background
TURNS = {  # EXIF's orientation -> what makes a picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def picture(path: Path) -> NDArray[np.uint8]:
    """A picture file as (H, W, 3) RGB, upright as its EXIF orientation says, transparent pixels on mid grey.

    Grey of 32 bits, integers or floats, is read in the range that its values show. That and transparency are logged,
    once for a folder. Raises BadInput where the file is no picture, is too large, or has values of no such range.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > LARGEST:
                raise BadInput(f"{path}: {image.width} x {image.height} pixels are too many; {LARGEST} is the limit")
            return shown(oriented(image), path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path}: not a picture that can be read ({error})") from error


def oriented(image: Image.Image) -> Image.Image:
    """A picture as its EXIF orientation says; PIL's own function fails where the rest of EXIF is damaged."""
    if isinstance(image, TiffImageFile):
        image.filename = ""  # else a grey one is mapped into memory in the size that it has once it is turned
    image.load()  # turns a TIFF
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def shown(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of an upright picture in any of PIL's modes; raises as `picture`."""
    if image.mode.startswith("I;16"):
        return grey(np.asarray(image), 65535)
    if image.mode in ("I", "F"):
        return grey(np.asarray(image), white(image, path))
    if image.has_transparency_data:
        say_once(path.parent, "transparent pixels are shown on mid grey")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, GREY), image)
    return np.asarray(image.convert("RGB"))


def white(image: Image.Image, path: Path) -> float:
    """The value of white in grey of 32 bits, a format that does not tell it: of the usual ones the smallest that no
    value exceeds. Raises BadInput where there is none."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    fits = [top for top in (1.0, 255.0, 65535.0)[image.mode == "I" :] if 0 <= low <= high <= top]
    if not fits:
        raise BadInput(f"{path}: grey values from {low:g} to {high:g}: save it as 0 to 1, 0 to 255 or 0 to 65535")
    say_once(path.parent, f"grey of 32 bits is read as 0 to {fits[0]:g}")
    return fits[0]


def grey(values: NDArray[Any], top: float) -> NDArray[np.uint8]:
    """Grey (H, W) from 0 to `top` -> (H, W, 3)."""
    return np.repeat(np.rint(values * (255 / top)).astype(np.uint8)[..., None], 3, 2)


@cache
def say_once(place: Path, what: str) -> None:
    """Log what is done to a file, or to the pictures of a folder, once for all of them."""
    log.warning("%s: %s", place, what)
