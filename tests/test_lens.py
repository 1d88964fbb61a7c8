"""The focal length of a camera, from whoever knows it."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from compress.context import Context
from compress.errors import BadInput
from compress.pipeline import run_all_steps
from compress.policies.merge_tokens import MergeTokens
from hmr.data.pictures import Mask, Photo, Segmenter
from hmr.media.boxes import Corners
from hmr.video.frames import STREAM, Film
from hmr.video.lens import TAG, lens
from hmr.video.run import Run
from tests.films import Squares, film, painted, tiny

PICTURE = np.zeros((240, 320, 3), np.uint8)
DIAGONAL = 400.0


def test_what_the_user_says_counts_first():
    assert lens(STREAM, PICTURE, 321.0).focal == 321 and lens(STREAM, PICTURE, 321.0).metric
    assert lens(STREAM, PICTURE, None, 60.0).focal == pytest.approx(120 / math.tan(math.radians(30)))
    for focal, fov in ((1.0, 1.0), (0.5, None), (None, 0.0), (None, 180.0), (math.nan, None)):
        with pytest.raises(BadInput):
            lens(STREAM, PICTURE, focal, fov)


def test_a_picture_says_its_own(tmp_path):
    """26 mm on a film whose diagonal is 43.27 mm."""
    tags = Image.Exif()
    tags.get_ifd(0x8769)[0xA405] = 26
    Image.fromarray(PICTURE).save(tmp_path / "1.jpg", exif=tags)
    for path in (tmp_path / "1.jpg", tmp_path):
        found = lens(path, PICTURE)
        assert found.focal == pytest.approx(26 / math.hypot(36, 24) * DIAGONAL) and found.metric
        assert found.source == "written in the file"


def test_an_iphones_video_says_its_own(tmp_path):
    path = tmp_path / "phone.mov"
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as file:
        file.metadata[TAG] = "26"
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        file.mux(stream.encode())
    assert lens(path, PICTURE).focal == pytest.approx(26 / math.hypot(36, 24) * DIAGONAL)


def test_what_nobody_knows_is_assumed_aloud(tmp_path, caplog):
    found = lens(film(tmp_path / "walk.mp4", 2), PICTURE, model=tiny())
    assert found.focal == pytest.approx(DIAGONAL) and not found.metric
    assert "400 pixels" in caplog.text and "not metric" in caplog.text and "--fov" in caplog.text


def test_a_model_that_has_to_know_asks_its_network_or_says_so(tmp_path):
    path, model = film(tmp_path / "walk.mp4", 6), tiny("camerahmr")
    expected = model.get_submodule("fov_net").focal_of(PICTURE)  # type: ignore[operator]
    found = lens(path, PICTURE, model=model)
    assert found.focal == expected and "network" in found.source
    assert len(Run(model, Film(path), Squares(), focal=200.0).see().frames) == 6
    del model.fov_net
    with pytest.raises(BadInput, match="has to know"):
        lens(path, PICTURE, model=model)


def test_masks_of_boxes_are_drawn_by_whoever_is_asked(tmp_path):
    """Of each box once; where nobody is seen in it, the person is not seen in that frame."""

    class Draws(Segmenter):
        name = "draws"
        asked: list[str]

        def __init__(self) -> None:
            self.asked = []

        def mask(self, photo: Photo, box: Corners | None) -> Mask | None:
            assert box is not None and photo.image.shape == painted(0).shape
            self.asked.append(photo.name)
            whole = np.zeros(photo.image.shape[:2], bool)
            whole[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
            return None if photo.name == "2" else whole

    class Boxes(Squares):
        def find(self, shot):
            return [type(one)(one.box, one.score) for one in super().find(shot)]

    original, draws = tiny(), Draws()
    merged = run_all_steps(original, [MergeTokens(keep=90, per_layer=60)], Context(original)).eval()
    run = Run(merged, Film(film(Path(tmp_path / "walk.mp4"), 5)), Boxes(), draws, focal=200.0)
    crops, _ = run.see().whole
    assert draws.asked == [str(i) for i in range(5) for _ in range(2)]
    assert crops["moment"].tolist() == [0, 0, 1, 1, 3, 3, 4, 4]
