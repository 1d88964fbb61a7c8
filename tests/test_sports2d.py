"""`fasthmr data import sports2d`: people in one video, found by networks that know where they are."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest

from compress.errors import BadInput
from hmr.data.blazepose import Detector, LandmarkNetwork, Landmarks, Square, people_in_picture, tiles
from hmr.data.dataset import DataSpec
from hmr.data.real_people.dataset import RealFrames
from hmr.data.real_people.offsets import LIMB_LANDMARKS
from hmr.data.real_people.sports2d import VIDEO, beside, import_sports2d

HEIGHT, WIDTH, FRAMES = 60, 100, 11
PEOPLE = (30.0, 70.0)  # x of their hips; they stand at y 30 and are 20 pixels high


def person(x: float, square: Square) -> Landmarks:
    spread = np.random.default_rng(0).uniform(-1, 1, (33, 2)) * (4, 10)
    pixels = spread - (spread.min(0) + spread.max(0)) / 2 + (x, 30)
    mask = np.zeros((256, 256), np.bool_)
    mask[96:160, 96:160] = True
    return Landmarks(pixels, np.ones(33), np.zeros((33, 3)), 1.0, mask, square, Square((x, 30.0), 25.0))


class Finder(Detector, LandmarkNetwork):
    """Sees those whose middle lies in the part it is shown; the second is there in the second half of the video."""

    def __init__(self) -> None:
        pass

    def people(self, image: np.ndarray, least: float = 0.5, part: Square | None = None) -> list[Square]:
        assert part is not None
        there = PEOPLE[: 1 + (image[..., 0].mean() > 110)]
        return [Square((x + 3, 30.0), 25.0) for x in there if abs(x - part.centre[0]) < part.side / 2]

    def see(self, image: np.ndarray, square: Square) -> Landmarks:
        return min((person(x, square) for x in PEOPLE), key=lambda one: abs(one.next.centre[0] - square.centre[0]))


@pytest.fixture
def wheel(tmp_path) -> Path:
    """Frames grow brighter; under each person's hips lies a white square of 4 x 4 pixels."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 9_000_000
        for moment in range(FRAMES):
            picture = np.full((HEIGHT, WIDTH, 3), 20 * moment, np.uint8)
            for x in PEOPLE:
                picture[28:32, int(x) - 2 : int(x) + 2] = 255
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    path = tmp_path / "sports2d.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(VIDEO, file.getvalue())
        archive.writestr("sports2d-1.dist-info/METADATA", "Name: sports2d\nVersion: 1\n")
        archive.writestr("sports2d-1.dist-info/licenses/LICENSE", "BSD")
    return path


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def like_real(size: tuple[int, int] = (64, 48)) -> RealFrames:
    return RealFrames(lambda i: None, str, 0, spec=DataSpec("real"), size=size, side=max)  # type: ignore[arg-type, return-value]


def test_squares_cover_the_picture_twice():
    """Every person of half a square lies whole in one of them."""
    for height, width in ((60, 100), (994, 1768), (80, 60)):
        squares = list(tiles(height, width))
        side = squares[0].side
        for x in np.linspace(side / 4, width - side / 4, 23):
            for y in np.linspace(side / 4, height - side / 4, 23):
                whole = [s for s in squares if np.abs(np.subtract(s.centre, (x, y))).max() <= side / 4 + 1e-6]
                assert whole, (height, width, x, y)


def test_everybody_is_found_once():
    bright = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    assert sorted(one.next.centre[0] for one in people_in_picture(bright, Finder(), Finder())) == list(PEOPLE)
    assert len(people_in_picture(bright // 9, Finder(), Finder())) == 1


def test_people_are_beside_the_real_ones(wheel, home):
    assert beside(like_real()) is None
    assert import_sports2d(wheel, (Finder(), Finder())) == home / "sports2d"
    found = beside(like_real())
    assert found is not None and found.truth is None and found.keypoints is not None
    assert len(found) == 4 and found.fps is None and found.recordings == ["sports2d"] * 4  # frames 0, 5, 10: 1, 1, 2
    sample = found[3]
    assert sample.image.shape == (64, 48, 3) and sample.mask is not None and sample.bbox_info is None
    assert (sample.image[30:34, 22:26] > 200).mean() > 0.9  # the hips are in the middle
    assert sample.mask[32, 24] and not sample.mask[:4].any()
    places = found.keypoints.places[3]
    expected = person(PEOPLE[1], Square((0.0, 0.0), 1.0)).pixels
    scale = 64 / (1.2 * np.ptp(expected, axis=0).max())
    assert places == pytest.approx((expected - [70, 30])[LIMB_LANDMARKS] * scale + [24, 32])
    assert found.keypoints.box.tolist() == pytest.approx([64 / 1.2] * 4) and found.keypoints.focal.isinf().all()
    assert [int(found[i].image[2, 2, 0]) for i in (0, 2, 1, 3)] == pytest.approx([0, 200, 100, 200], abs=12)
    assert beside(RealFrames(found.draw, str, 1, spec=DataSpec("real-avatar"))) is None


def test_another_wheel_or_an_empty_video_is_refused(wheel, home):
    class Blind(Finder):
        def people(self, image: np.ndarray, least: float = 0.5, part: Square | None = None) -> list[Square]:
            return []

    with pytest.raises(BadInput, match="finds nobody"):
        import_sports2d(wheel, (Blind(), Blind()))
    other = wheel.with_name("other.whl")
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("other-1.dist-info/METADATA", "Name: other\nVersion: 1\n")
        archive.writestr("other-1.dist-info/LICENSE", "")
    with pytest.raises(BadInput, match=r"a wheel of other: .*0\.8\.34"):
        import_sports2d(other, (Finder(), Finder()))
    assert not (home / "sports2d").exists()
