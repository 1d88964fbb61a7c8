"""A user's pictures: crops against coordinates drawn into the picture, splits, boxes, videos, masks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from compress.errors import BadInput
from hmr.data import crop
from hmr.data.crop import cut
from hmr.data.masks import MaskFiles, segmenter
from hmr.data.pictures import LIMITS, Segmenter, listed, open_pictures, read
from hmr.media.listing import part_of, recording_of, spread
from hmr.models.families import FAMILIES

SIDE = FAMILIES["hmr2"].box.side


def ramp(height: int, width: int) -> np.ndarray:
    """Red says the column, green the row: both under 256."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, 0 * rows], -1).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Eight pictures of 60 x 80 pixels, of growing brightness."""
    path = tmp_path / "pictures"
    path.mkdir()
    for i in range(8):
        Image.fromarray(np.full((60, 80, 3), 20 * i + 20, np.uint8)).save(path / f"{i}.png")
    return path


@pytest.fixture
def video(tmp_path):
    """Twelve grey frames of growing brightness at 25 frames/s."""
    path = tmp_path / "walk.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * i + 10, np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def boxed(video: Path, frames: Iterable[int]) -> None:
    """Write one box for each of the frames."""
    rows = [f"{frame},10,5,40,45\n" for frame in frames]
    video.with_name(f"{video.name}.boxes.csv").write_text("name,left,top,right,bottom\n" + "".join(rows))


def test_a_crop_shows_the_pixels_that_its_box_says():
    """Of a ramp: the value at a pixel's middle is its own place in the picture."""
    seen = cut(ramp(200, 250), (120.0, 90.0), 128.0, (256, 192)).astype(float)
    columns = 120 - 48 + (np.arange(192) + 0.5) / 2 - 0.5
    rows = 90 - 64 + (np.arange(256) + 0.5) / 2 - 0.5
    assert np.abs(seen[..., 0] - columns).max() < 1 and np.abs(seen[..., 1] - rows[:, None]).max() < 1


def test_outside_of_the_picture_is_black_and_absurd_boxes_are_refused():
    seen = cut(np.full((40, 40, 3), 200, np.uint8), (0, 20), 40, (256, 192))
    assert (seen[:, :90] == 0).all() and (seen[5:-5, 105:] == 200).all()
    for side in (0, -1, float("nan"), 1e9):
        with pytest.raises(BadInput, match="cannot be cut"):
            cut(seen, (0, 0), side, (256, 192))


def test_a_crop_too_large_to_be_cut_at_once_shows_the_same(monkeypatch):
    """A phone's photo, taken whole, is more than PIL cuts out: it is made smaller first."""
    photo = np.asarray(Image.fromarray(ramp(60, 80)).resize((800, 600), Image.Resampling.BICUBIC))
    whole = cut(photo, (300.0, 400.0), 1100.0, (256, 192)).astype(float)
    monkeypatch.setattr(crop, "LARGEST", 200_000)
    assert np.abs(cut(photo, (300.0, 400.0), 1100.0, (256, 192)).astype(float) - whole).mean() < 1
    large = np.zeros((6000, 8000), np.uint8)
    monkeypatch.undo()
    for side in (21_000, 10327.955589886446):  # one a rounding above the limit
        assert cut(large, (4000, 3000), side, (256, 192)).shape == (256, 192)


@pytest.mark.parametrize(
    "name, wide, tall",
    [("hmr2", 4 / 3 * 100, 100), ("tokenhmr", 4 / 3 * 100, 100), ("camerahmr", 100, 100), ("hamer", 8 / 3 * 100, 200)],
)
def test_each_family_has_its_box_rule(name, wide, tall):
    """checkpoints.md: expanded to 192:256 and the longer side, CameraHMR without expansion, HaMeR twice the box."""
    side = FAMILIES[name].box.side
    assert (side(100, 50), side(40, 100)) == (pytest.approx(wide), pytest.approx(tall))


def test_splits_are_parts_of_each_recording_that_share_nothing():
    names = [f"a/{i:02d}" for i in range(16)] + [f"b/{i}" for i in range(8)]
    parts = [part_of(names, split) for split in ("calib", "val", "test")]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert parts[0] == names[:8] + names[16:20] and parts[2] == names[12:16] + names[22:]
    assert spread(names, 3) == [names[0], names[8], names[16]] and spread(names, 99) == names


def test_a_box_that_cannot_be_cut_names_its_picture(folder):
    (folder / "boxes.csv").write_text("name,x,y,w,h\n0.png,1,1,20,30\n1.png,1,1,1e12,9\n")
    with pytest.raises(BadInput, match=r"1\.png: a box of 1\.3\S+ pixels cannot be cut out of a 80 x 60 picture"):
        open_pictures(folder, "calib", None, SIDE, (256, 192))


@pytest.mark.parametrize("centre", [(-3.2e9, 30.0), (40.0, 1e6), (float("inf"), 30.0), (float("nan"), 30.0)])
def test_a_box_far_from_its_picture_is_refused(centre):
    image = np.full((60, 80, 3), 200, np.uint8)
    with pytest.raises(BadInput, match=r"is too far outside of a 80 x 60 picture"):
        cut(image, centre, 40.0, (32, 24))
    assert not cut(image, (-200.0, 30.0), 40.0, (32, 24)).any()  # one that has only just left it is black


def test_small_people_are_told(folder, caplog):
    (folder / "boxes.csv").write_text("name,x,y,w,h\n0.png,1,1,20,31\n1.png,1,1,9,32\n")
    assert open_pictures(folder, "calib", None, SIDE, (256, 192)).notes["small_people"] == 1
    assert "people are less than 32 pixels high in 0.png" in caplog.text


def test_more_pictures_than_a_split_takes_are_told(folder, monkeypatch, caplog):
    monkeypatch.setitem(LIMITS, "calib", 3)
    for frames, told in ((2, False), (3, False), (9, True)):
        assert len(open_pictures(folder, "calib", frames, SIDE, (256, 192))) == min(frames, 3)
        assert ("of 4 pictures of split calib, 3 are taken, evenly spread" in caplog.text) == told


def test_a_folder_with_folders_is_one_recording(folder):
    """Names sort a folder between its pictures: neighbours in time must not stand on two sides of a split."""
    (folder / "3_edits").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "3_edits" / "a.png")
    names = [name for name in listed(folder)[0] if "/" not in name]
    assert part_of(listed(folder)[0], "calib")[:4] == names[:4] == [f"{i}.png" for i in range(4)]
    assert part_of(listed(folder)[0], "test")[:2] == names[6:]


def test_a_folder_without_masks_says_so(folder, caplog):
    (folder / "labels.json").touch()
    found = open_pictures(folder, "calib", None, SIDE, (256, 192))
    assert len(found) == 4 and found.recordings == ["pictures"] * 4 and found.fps is None
    assert found.notes == {"mask_source": "none", "boxes": "whole picture", "left_out": 0, "small_people": 0}
    assert "each picture is taken whole" in caplog.text and "labels.json is not looked at" in caplog.text
    assert [p.image[128, 96, 0] for p in found] == [20, 40, 60, 80]
    assert found[0].image.shape == (256, 192, 3) and found[0].mask is None and found[0].rotations is None
    assert recording_of(folder, "day/one.png") == "pictures/day"


def test_video_frames_come_in_order_with_their_rate(video):
    names, times, _ = listed(video)
    assert names == [str(i) for i in range(12)] and times == pytest.approx([i / 25 for i in range(12)])
    photos = list(read(video, ["3", "7"]))
    assert [p.name for p in photos] == ["3", "7"]
    assert [int(p.image.mean()) for p in photos] == pytest.approx([70, 150], abs=4)
    boxed(video, range(12))
    assert open_pictures(video, "test", None, SIDE, (256, 192)).fps == 25.0
    assert open_pictures(video, "test", 2, SIDE, (256, 192)).fps is None  # frames no longer follow each other
    boxed(video, [*range(10), 11])
    assert open_pictures(video, "test", None, SIDE, (256, 192)).fps is None


def test_a_video_is_not_measured_on_a_guess(video, caplog):
    """Without boxes somebody has to look for people: a frame without them is left out, and half of all may be."""
    with pytest.raises(BadInput, match=r"it is not known where people are in this video: write walk\.mp4\.boxes\.csv"):
        open_pictures(video, "calib", None, SIDE, (256, 192))

    class Finder(Segmenter):
        name = "finder"

        def mask(self, photo, box):
            mask = np.zeros(photo.image.shape[:2], bool)
            mask[10:30, 20 * int(photo.name in others) : 10 + 20 * int(photo.name in others)] = True
            return mask if photo.name in there else None

    there, others = list("024"), []
    found = open_pictures(video, "calib", None, SIDE, (256, 192), Finder())
    assert (len(found), found.notes["left_out"], found.notes["without_mask"], found.follow) == (3, 3, 3, False)
    assert "3 people of split calib are left out: 3 have no mask: 1, 3, 5" in caplog.text
    assert "no file has boxes: of several people, finder takes the surest or largest one" in caplog.text
    there.pop()
    with pytest.raises(BadInput, match=r"in 4 of 6 places nobody is seen for sure .* bring boxes or masks"):
        open_pictures(video, "calib", None, SIDE, (256, 192), Finder())
    there += [str(i) for i in range(12)]
    assert open_pictures(video, "calib", None, SIDE, (256, 192), Finder()).fps == 25
    others.append("3")
    assert not open_pictures(video, "calib", None, SIDE, (256, 192), Finder()).follow
    assert "2 times the next frame shows another person" in caplog.text


def test_boxes_that_miss_their_picture_or_are_of_another_size(folder, caplog):
    table, beside = "0.png,60,-9,90,1\n2.png,-5,-5,0,20\n3.png,3,60,9,70\n", "1.png,80,0,99,60\n"
    (folder / "boxes.csv").write_text(table + "1.png,79,0,99,60\n")  # a column of one picture, a row of another
    found = open_pictures(folder, "calib", None, SIDE, (256, 192))
    assert (len(found), found.notes["boxes_outside"], found.notes["pictures_without_row"]) == (2, 2, 4)
    assert "2 have their box outside of the picture: 2.png, 3.png" in caplog.text
    (folder / "boxes.csv").write_text(table + beside)
    with pytest.raises(BadInput, match=r"in 3 of 4 places nobody is seen"):
        open_pictures(folder, "calib", None, SIDE, (256, 192))
    (folder / "boxes.csv").unlink()
    images = [{"id": 1, "file_name": "0.png", "width": 160, "height": 120}]
    people = [{"image_id": 1, "bbox": [1, 2, 30, 40]}]
    (folder / "boxes.json").write_text(json.dumps({"images": images, "annotations": people}))
    with pytest.raises(BadInput, match=r"0\.png: 80 x 60 pixels, and its boxes are for 160 x 120"):
        open_pictures(folder, "calib", None, SIDE, (256, 192))


@pytest.mark.parametrize("kind", ["frame_{:05d}.png", "{:05d}.jpg", "{}.png", "0.jpg_{}.png"])
@pytest.mark.parametrize("first", [0, 1])
def test_masks_of_a_video_by_number(video, tmp_path, caplog, kind, first):
    masks = tmp_path / "masks"
    masks.mkdir()
    for i in range(12):
        person = np.zeros((48, 64), np.uint8)
        person[8:40, 2 * i : 2 * i + 16] = 255
        Image.fromarray(person).save(masks / kind.format(i + first))
    found = open_pictures(video, "calib", None, SIDE, (256, 192), MaskFiles(masks))
    centres = [sample.place and sample.place.centre[0] for sample in found]
    assert centres == pytest.approx([2 * i + 8 for i in range(6)], abs=0.6) and found.fps == 25
    assert f"masks: masks are matched to pictures by number, frames counted from {first}: " in caplog.text
    assert f"{kind.format(first)} is of frame 0" in caplog.text


def test_masks_within_the_folder_are_no_pictures(folder):
    masks = folder / "masks"
    masks.mkdir()
    for i in range(8):
        Image.fromarray(np.full((60, 80), 255, np.uint8)).save(masks / f"{i}.png")
    found = open_pictures(folder, "calib", None, SIDE, (256, 192), MaskFiles(masks))
    assert found.recordings == ["pictures"] * 4 and [p.image[128, 96, 0] for p in found] == [20, 40, 60, 80]
    with pytest.raises(BadInput, match="its pictures cannot be their own masks"):
        open_pictures(folder, "calib", None, SIDE, (256, 192), MaskFiles(folder))


def test_masks_that_fit_no_picture_or_one_twice(folder, tmp_path, caplog):
    masks = tmp_path / "masks"
    masks.mkdir()
    person = Image.fromarray(np.full((60, 80), 255, np.uint8))
    person.save(masks / "other.png")
    with pytest.raises(BadInput, match=r"masks are other\.png, pictures 0\.png, 1\.png, 2\.png and 5 more: name them"):
        open_pictures(folder, "calib", None, SIDE, (256, 192), MaskFiles(masks))
    for i in range(8):
        person.save(masks / f"{i}.bmp")
    open_pictures(folder, "calib", None, SIDE, (256, 192), MaskFiles(masks))
    assert "1 of 9 masks are of no picture that is there: other.png" in caplog.text
    person.save(masks / "3.tif")
    with pytest.raises(BadInput, match=r"3\.bmp and 3\.tif are both masks of 3\.png"):
        open_pictures(folder, "calib", None, SIDE, (256, 192), MaskFiles(masks))


def test_how_a_crop_lies_before_the_camera(folder):
    """CameraHMR by hand: the box's offset from the middle of 80 x 60 pixels and its side, in focal lengths."""
    (folder / "boxes.csv").write_text("0.png,0,0,30,40\n")
    side = FAMILIES["camerahmr"].box.side
    found = open_pictures(folder, "calib", None, side, (256, 192), focal=lambda image: 2.0 * image.shape[1])
    assert found[0].bbox_info == pytest.approx([(15 - 40) / 160, (20 - 30) / 160, 40 / 160])
    assert open_pictures(folder, "calib", None, side, (256, 192))[0].bbox_info is None


def test_mask_files_give_boxes_too_and_leave_out_who_is_not_there(folder, tmp_path, caplog):
    masks = tmp_path / "masks"
    masks.mkdir()
    person = np.zeros((60, 80), np.uint8)
    person[10:50, 30:50] = 255
    for i in (0, 2):
        Image.fromarray(person).save(masks / f"{i}.png")
    found = open_pictures(folder, "calib", None, SIDE, (256, 192), MaskFiles(masks))
    assert (len(found), found.notes["left_out"], found.notes["boxes"], found.fps) == (2, 2, "mask", None)
    assert "2 people of split calib are left out: 2 have no mask: 1.png, 3.png" in caplog.text
    # a box of 20 x 40 pixels becomes 30 x 40: the person is the middle two thirds of the crop
    mask = found[0].mask
    assert mask is not None and mask[:, 34:158].all() and not mask[:, :30].any() and not mask[:, 162:].any()
    Image.fromarray(0 * person).save(masks / "1.png")  # now the mask of one is missing, and another's is empty
    Image.fromarray(0 * person + 255).save(masks / "0.png")
    counts = open_pictures(folder, "calib", None, SIDE, (256, 192), MaskFiles(masks)).notes
    assert (counts["left_out"], counts["without_mask"], counts["empty_masks"], counts["full_masks"]) == (2, 1, 1, 1)
    Image.fromarray(0 * person).save(masks / "2.png")
    with pytest.raises(BadInput, match=r"in 3 of 4 places .* \(1 have no mask: 3\.png; 2 have an empty mask: 1\.png"):
        open_pictures(folder, "calib", None, SIDE, (256, 192), MaskFiles(masks))
    Image.fromarray(person[:, :40]).save(masks / "2.png")
    with pytest.raises(BadInput, match="40 x 60 pixels, its picture has 80 x 60"):
        open_pictures(folder, "calib", None, SIDE, (256, 192), MaskFiles(masks))
    Image.new("1", (20_000, 20_000)).save(masks / "2.png")
    with pytest.raises(BadInput, match=r"2\.png: not a mask"):
        open_pictures(folder, "calib", None, SIDE, (256, 192), MaskFiles(masks))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n broken", b"GIF89a"])
def test_broken_pictures_and_videos_are_named(folder, tmp_path, content):
    (folder / "0.png").write_bytes(content)
    with pytest.raises(BadInput, match=r"0\.png: not a picture"):
        open_pictures(folder, "calib", None, SIDE, (256, 192))
    clip = tmp_path / "a.mp4"
    clip.write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.mp4: (not a video|the video breaks off)"):
        open_pictures(clip, "calib", None, SIDE, (256, 192))


def test_what_is_not_there_is_said(tmp_path, folder):
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, words in ((empty, "no pictures"), (tmp_path / "x", "no such folder"), (folder / "boxes", "such")):
        with pytest.raises(BadInput, match=words):
            open_pictures(path, "calib", None, SIDE, (256, 192))
    with pytest.raises(BadInput, match="no split 'train'"):
        open_pictures(folder, "train", None, SIDE, (256, 192))
    with pytest.raises(BadInput, match="nor one of blazepose, rfdetr, ultralytics"):
        segmenter("nothing")
