"""A mask file as the pixels of the person, in whatever way people write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.errors import BadInput
from hmr.media.picture import LARGEST, oriented, say_once

SOFT = 32  # values in a mask of fewer are labels; with more, edges are soft


def person(path: Path) -> NDArray[np.bool_]:
    """A mask file as (H, W), upright as its EXIF orientation says: True is the person.

    That is where an alpha channel that varies, or is clear altogether, is opaque, where an index is not 0, where a
    colour is not black. Soft edges, and what JPEG and WebP add, are cut at half of the brightest value; soft edges are
    logged, once for a folder. Raises BadInput where the file is no picture or is too large.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > LARGEST:
                raise BadInput(f"{path}: not a mask: {image.width} x {image.height} pixels are too many")
            values = brightness(oriented(image))
            if not np.isfinite(values).all():
                raise BadInput(f"{path}: not a mask: it holds values that are not finite")
            blurred = lossy(image, path)
            if not blurred and len(np.unique(values)) <= SOFT:
                return values > 0
            if not blurred:
                say_once(path.parent, "masks have soft edges: they are cut at half of the brightest value")
            return values > values.max() / 2
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path}: not a mask that can be read ({error})") from error


def at_size(mask: NDArray[np.bool_], size: tuple[int, int], file: Path) -> NDArray[np.bool_]:
    """A mask (h, w) as large as its picture (H, W); raises BadInput where it is not the same at another scale."""
    (height, width), (h, w) = size, mask.shape
    if (h, w) == (height, width):
        return mask
    if abs(h * width - w * height) > max(width, height) / 2 + max(w, h) / 2:  # half a pixel is lost in rounding
        raise BadInput(f"{file}: {w} x {h} pixels, its picture has {width} x {height}")
    say_once(file.parent, "masks are of another size than their pictures and are scaled to it")
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def lossy(image: Image.Image, path: Path) -> bool:
    """Whether values are only near those that were saved: in JPEG, also within TIFF, and in most of WebP."""
    if image.format == "WEBP":
        return b"VP8 " in path.read_bytes()  # VP8L is lossless
    return image.format in ("JPEG", "MPO") or image.info.get("compression") == "jpeg"


def brightness(image: Image.Image) -> NDArray[np.float64]:
    """(H, W): how much each pixel is the person's, from 0, in a unit of the file's own."""
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if alpha.min() < alpha.max() or not alpha.any():
            return alpha.astype(np.float64)
    if image.mode not in ("1", "L", "P", "I", "F") and not image.mode.startswith("I;16"):
        image = image.convert("RGB")
    values = np.asarray(image).astype(np.float64)
    return values.max(-1) if values.ndim == 3 else values
