"""Person masks: from files, or from a network that the user brings. Nothing is made up: no mask is None."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit

from compress.errors import BadInput
from hmr.data.blazepose import INPUT, Detector, LandmarkNetwork
from hmr.data.crop import cut
from hmr.data.pictures import Mask, Photo, Segmenter
from hmr.home import fasthmr_home
from hmr.media.boxes import SURE, Corners
from hmr.media.listing import pictures_in, some
from hmr.media.mask import at_size, person
from hmr.media.matching import match
from hmr.media.picture import say_once

log = logging.getLogger(__name__)


class MaskFiles(Segmenter):
    """Masks beside the pictures, in a folder of their own, read as `hmr.media.mask.person` does."""

    everybody = True
    folder: Path

    def __init__(self, folder: Path, files: Mapping[str, str] | None = None) -> None:
        self.folder, self.name, self.files = folder, f"files in {folder.name}", files or {}

    def among(self, pictures: Sequence[str]) -> MaskFiles:
        """Those of these pictures, see `hmr.media.matching`; the rule is logged, and what has no counterpart. Raises
        BadInput where there are none, or two masks of one picture."""
        names = pictures_in(self.folder)
        found = match(names, pictures, own_names=False)
        if not found.pictures:
            raise BadInput(f"{self.folder}: masks are {some(names, 3)}, pictures {some(pictures, 3)}: name them alike")
        files: dict[str, str] = {}
        for name, picture in found.pictures.items():
            if (other := files.setdefault(picture, name)) != name:
                raise BadInput(f"{self.folder}: {other} and {name} are both masks of {picture} ({found.rule})")
        say_once(self.folder, f"masks are matched to pictures {found.rule}: {found.example}")
        if lost := [name for name in names if name not in found.pictures]:
            say_once(self.folder, f"{len(lost)} of {len(names)} masks are of no picture that is there: {some(lost)}")
        return MaskFiles(self.folder, files)

    def lacks(self, name: str) -> bool:
        return name not in self.files

    def mask(self, photo: Photo, box: Corners | None) -> Mask | None:
        """Of everybody; None where there is no file. Raises BadInput for one that is not a picture or of another
        shape."""
        if self.lacks(photo.name):
            return None
        file = self.folder / self.files[photo.name]
        return at_size(person(file), photo.image.shape[:2], file)


class BlazePose(Segmenter):
    """MediaPipe's pose network, which draws a mask of one person in a square: around the box, or else where MediaPipe's
    detector is surest of a person. With a score below `least` there is no whole person, and no mask."""

    name = "blazepose"

    def __init__(self, file: Path | None = None, least: float = 0.5, detector: Path | None = None) -> None:
        self.network = LandmarkNetwork(file)
        self.least, self.detector_file = least, detector

    @cached_property
    def detector(self) -> Detector:
        return Detector(self.detector_file)

    def mask(self, photo: Photo, box: Corners | None) -> Mask | None:
        """The person in the middle of `box`, or the one that is surest to be there."""
        height, width = photo.image.shape[:2]
        if box is None:
            return self.surest(photo.image)
        left, top, right, bottom = box
        side = 1.25 * max(right - left, bottom - top)  # as MediaPipe, whose network wants some air around the person
        centre = (left + right) / 2, (top + bottom) / 2
        found = self.run(cut(photo.image, centre, side, (INPUT, INPUT)))
        return None if found is None else pasted(found, centre, side, (height, width))

    def surest(self, image: NDArray[np.uint8]) -> Mask | None:
        """The person (H, W) of a picture (H, W, 3) of whom the detector is surest; None where it finds nobody."""
        squares = self.detector.people(image, self.least)
        if not squares:
            return None
        rough = self.network.see(image, squares[0])  # a detector's square is rough, see `LandmarkNetwork.track`
        found = self.network.see(image, rough.next)
        sure = rough.score >= self.least and found.score >= self.least
        return found.square.pasted(found.mask * np.uint8(255), image.shape[:2]) > 127 if sure else None

    def run(self, square: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Probability (256, 256) of person in a picture (256, 256, 3); None below the least score."""
        out = self.network.run(square)
        return expit(out.mask) if out.score >= self.least else None


class Detections(Segmenter):
    """Masks by a detector of all people: the one whose box overlaps most with the box asked for, or the largest."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.network = rfdetr_network() if name == "rfdetr" else ultralytics_network()

    def mask(self, photo: Photo, box: Corners | None) -> Mask | None:
        found = rfdetr_people(self.network, photo) if self.name == "rfdetr" else yolo_people(self.network, photo)
        return chosen(found, box)


def rfdetr_network() -> Any:
    """RF-DETR-Seg (Apache-2.0); its package downloads the weights when it is first used."""
    try:
        import rfdetr
    except ImportError as error:
        raise BadInput("masks: rfdetr is not installed: pip install 'fasthmr[rfdetr]'") from error
    kinds = [getattr(rfdetr, name, None) for name in ("RFDETRSegMedium", "RFDETRSegPreview")]
    if (kind := next((k for k in kinds if k is not None), None)) is None:
        raise BadInput("masks: this version of rfdetr has no segmentation network: upgrade it")
    with at_home():
        return kind()


@contextmanager
def at_home() -> Iterator[None]:
    """Where a detector's package looks for its weights, and puts what it downloads: not where the user happens to be,
    whose folder may hold a stranger's file of that name, which these packages would unpickle."""
    place = fasthmr_home() / "masks"
    place.mkdir(parents=True, exist_ok=True)
    with chdir(place):
        yield


def rfdetr_people(network: Any, photo: Photo) -> list[tuple[Corners, Mask]]:
    """Boxes and masks of everybody; class 1 is COCO's person."""
    found = network.predict(Image.fromarray(photo.image), threshold=SURE)
    if found.mask is None:
        return []
    people = zip(found.xyxy, found.mask, found.class_id, strict=True)
    return [(corners(box), np.asarray(mask, np.bool_)) for box, mask, kind in people if kind == 1]


def ultralytics_network() -> Any:
    """The paper's YOLO11-seg. AGPL-3.0: whoever offers a service with it has to open its source."""
    try:
        from ultralytics import YOLO
    except ImportError as error:
        raise BadInput(
            "masks: ultralytics is not installed; it is under AGPL-3.0, which binds what you build on it: "
            "pip install 'fasthmr[ultralytics]' if that suits you, or use rfdetr (Apache-2.0)"
        ) from error
    log.warning("masks by ultralytics, which is under AGPL-3.0: that binds what you build on it")
    with at_home():
        return YOLO("yolo11x-seg.pt")


def yolo_people(network: Any, photo: Photo) -> list[tuple[Corners, Mask]]:
    """Boxes and masks of everybody; class 0 is its person, and arrays are taken for BGR."""
    image = np.ascontiguousarray(photo.image[..., ::-1])
    result = network(image, classes=[0], conf=SURE, retina_masks=True, verbose=False)[0]
    if result.masks is None:
        return []
    people = zip(result.boxes.xyxy.cpu().numpy(), result.masks.data.cpu().numpy(), strict=True)
    return [(corners(box), mask > 0.5) for box, mask in people]


def corners(box: Any) -> Corners:
    left, top, right, bottom = (float(value) for value in box)
    return left, top, right, bottom


def chosen(people: Sequence[tuple[Corners, Mask]], box: Corners | None) -> Mask | None:
    """The mask of the person in `box`, whose own box overlaps it by a third or more; of the largest one without it."""
    if not people:
        return None
    if box is None:
        return max((mask for _, mask in people), key=lambda mask: int(mask.sum()))
    best = max(people, key=lambda person: overlap(person[0], box))
    return best[1] if overlap(best[0], box) >= 1 / 3 else None


def overlap(one: Corners, other: Corners) -> float:
    """Intersection over union."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    if across <= 0 or down <= 0:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return across * down / (sum(areas) - across * down)


def pasted(share: NDArray[np.float32], centre: tuple[float, float], side: float, size: tuple[int, int]) -> Mask:
    """A square (S, S) of 0..1 back where `cut` took it from: (H, W), more than a half is the person."""
    height, width = size
    scale = share.shape[0] / side  # pixels of the square per pixel of the picture
    to_square = (scale, 0.0, (side / 2 - centre[0]) * scale, 0.0, scale, (side / 2 - centre[1]) * scale)
    image = Image.fromarray(share.astype(np.float32))
    back = image.transform((width, height), Image.Transform.AFFINE, to_square, Image.Resampling.BILINEAR)
    return np.asarray(back) > 0.5


def segmenter(text: str) -> Segmenter:
    """`blazepose`, `rfdetr`, `ultralytics` or a folder of mask files. Raises BadInput."""
    if text == "blazepose":
        return BlazePose()
    if text in ("rfdetr", "ultralytics"):
        return Detections(text)
    if Path(text).is_dir():
        return MaskFiles(Path(text))
    raise BadInput(f"masks: {text!r} is neither a folder of mask files nor one of blazepose, rfdetr, ultralytics")
