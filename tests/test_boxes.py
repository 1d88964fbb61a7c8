"""Files of boxes as people have them, each against corners that are known; and what is left out, counted and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.errors import BadInput
from hmr.media.boxes import Boxes, read_boxes

PICTURES = [f"{i:03d}.png" for i in range(4)]
RIGHT = {name: [(100.0 + i, 60.0, 300.0 + i, 480.0)] for i, name in enumerate(PICTURES)}


def rows(form: str) -> str:
    """A line for each picture; n is its name, i its number, l, t, r, b, w, h, cx and cy its box."""
    made = []
    for i, (name, ((left, top, right, bottom),)) in enumerate(RIGHT.items()):
        given = {"l": left, "t": top, "r": right, "b": bottom, "w": right - left, "h": bottom - top}
        middle = {"cx": (left + right) / 2, "cy": (top + bottom) / 2}
        made.append(form.format(n=name, i=i, j=i + 1, **given, **middle))
    return "\n".join(made) + "\n"


def boxes_in(folder: Path, content: Any, kind: str = "csv") -> Boxes:
    (folder / f"boxes.{kind}").write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read_boxes(folder, PICTURES)
    assert found is not None
    return found


TABLES = {
    "corners": "name,left,top,right,bottom\n" + rows("{n},{l},{t},{r},{b}"),
    "corners without a header": rows("{n},{l},{t},{r},{b}"),
    "corners by number": "name,x1,y1,x2,y2\n" + rows("{n},{l},{t},{r},{b}"),
    "corners from zero": "name,x0,y0,x1,y1\n" + rows("{n},{l},{t},{r},{b}"),
    "least and most": "image,xmin,ymin,xmax,ymax\n" + rows("{n},{l},{t},{r},{b}"),
    "another order": "name,top,left,bottom,right\n" + rows("{n},{t},{l},{b},{r}"),
    "axis by axis": "y2,y1,file,x2,x1\n" + rows("{b},{t},{n},{r},{l}"),
    "COCO's order": "name,x,y,w,h\n" + rows("{n},{l},{t},{w},{h}"),
    "widths": "name,left,top,width,height\n" + rows("{n},{l},{t},{w},{h}"),
    "middles": "name,cx,cy,w,h\n" + rows("{n},{cx},{cy},{w},{h}"),
    "middles in words": "x_center,y_center,width,height,image\n" + rows("{cx},{cy},{w},{h},{n}"),
    "capitals and spaces": "Name, X1 ,Y1, X2 ,Y2\n" + rows(" {n} , {l} ,{t}, {r} ,{b}"),
    "semicolons and commas": "name;left;top;right;bottom\n" + rows("{n};{l};{t};{r};{b}").replace(".0;", ",0;"),
    "tabs": "name\tleft\ttop\tright\tbottom\n" + rows("{n}\t{l}\t{t}\t{r}\t{b}"),
    "a mark": "\ufeffname,left,top,right,bottom\n" + rows("{n},{l},{t},{r},{b}"),
    "a mark alone": "\ufeff" + rows("{n},{l},{t},{r},{b}"),
    "UTF-16": ("name\tleft\ttop\tright\tbottom\n" + rows("{n}\t{l}\t{t}\t{r}\t{b}")).encode("utf-16"),
    "old lines": ("name,left,top,right,bottom\n" + rows("{n},{l},{t},{r},{b}")).replace("\n", "\r"),
    "lines of Windows": ("\nname,left,top,right,bottom\n\n" + rows("{n},{l},{t},{r},{b}")).replace("\n", "\r\n"),
    "a comment": "# name,left,top,right,bottom\n" + rows("{n},{l},{t},{r},{b}"),
    "quotes": '"name","left","top","right","bottom"\n' + rows('"{n}","{l}","{t}","{r}","{b}"'),
    "scores": "frame,bb_left,bb_top,bb_width,bb_height,conf\n" + rows("{n},{l},{t},{w},{h},0.9"),
    "tracks": "frame_id,track_id,x1,y1,x2,y2\n" + rows("{i},7,{l},{t},{r},{b}"),
    "folders": "path,x1,y1,x2,y2\n" + rows("/data/walk/{n},{l},{t},{r},{b}"),
    "MOTChallenge's": rows("{j},7,{l},{t},{w},{h},1,-1,-1,-1"),
    "MOTChallenge's truth": rows("{j},7,{l},{t},{w},{h},1,1,0.8"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_means_what_its_header_says(tmp_path, name):
    found = boxes_in(tmp_path, TABLES[name], "txt" if name.startswith("MOT") else "csv")
    assert found.of == RIGHT
    assert found.notes == {"rows_without_picture": 0, "pictures_without_row": 0, "rows_left_out": 0}


def coco(**changes: object) -> dict[str, object]:
    images = [{"id": 10 * i, "file_name": name, "width": 384, "height": 512} for i, name in enumerate(PICTURES)]
    people = [
        {"id": i, "image_id": 10 * i, "category_id": 7, "iscrowd": 0, "segmentation": [], "area": 1.5,
         "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
        for i, (box,) in enumerate(RIGHT.values())
    ]  # fmt: skip
    categories = [{"id": 3, "name": "dog"}, {"id": 7, "name": "Person", "supercategory": "all"}]
    return {"info": {}, "images": images, "annotations": people, "categories": categories, **changes}


def test_annotations_and_results_of_coco(tmp_path):
    found = boxes_in(tmp_path, json.dumps(coco()), "json")
    assert found.of == RIGHT and found.sizes == dict.fromkeys(PICTURES, (384, 512)) and found.source == "boxes.json"
    one = {"category_id": 1, "image_id": 2, "bbox": [102, 60, 200, 420], "score": 0.7}
    results = [one, {**one, "score": 0.3}, {**one, "category_id": 18}, {**one, "image_id": 99}]
    found = boxes_in(tmp_path, json.dumps(results), "json")
    assert found.of == {"002.png": RIGHT["002.png"]}
    assert found.notes == {"rows_without_picture": 1, "pictures_without_row": 3, "rows_left_out": 2}


def test_who_is_left_out_is_counted_and_named(tmp_path, caplog):
    people = ("000.png,1,2,3,4,0.6", "000.png,5,6,7,8,0.4", *2 * ("001.png,1,2,3,4,1",), "me.png,1,2,3,4,1")
    table = "name,x,y,w,h,score\n" + "\n".join(people)
    found = boxes_in(tmp_path, table)
    assert found.of == {"000.png": [(1, 2, 4, 6)], "001.png": [(1, 2, 4, 6)]}
    assert found.notes == {"rows_without_picture": 1, "pictures_without_row": 2, "rows_left_out": 2}
    for words in (
        "1 of 3 rows name no picture that is there: me.png",
        "2 of 4 pictures have no row and are left out: 002.png, 003.png",
        "1 of 5 rows are left out: each has a score below 0.5",
        "1 of 5 rows are left out: each repeats another row",
    ):
        assert words in caplog.text


def test_what_is_guessed_is_told(tmp_path, caplog):
    for name, words in (
        ("corners without a header", "it has no header: its columns are taken for name,left,top,right,bottom"),
        ("tracks", "its column of ids is not used"),
        ("folders", "matched to pictures by the last part of the name: /data/walk/000.png is of 000.png"),
    ):
        boxes_in(tmp_path, TABLES[name])
        assert words in caplog.text
    (tmp_path / "boxes.csv").unlink()
    boxes_in(tmp_path, TABLES["MOTChallenge's"], "txt")
    assert "read as MOTChallenge's" in caplog.text and "one more than the picture's: 1 is of 000.png" in caplog.text


def test_frames_of_a_video(tmp_path):
    """MOTChallenge counts from 1; where others do is seen from the numbers there are."""
    frames, video = [str(i) for i in range(4)], tmp_path / "walk.mp4"
    box = (1.0, 2.0, 4.0, 6.0)
    for kind, content, wanted in (
        ("csv", "frame,x,y,w,h\n0,1,2,3,4\n3,1,2,3,4\n", ("0", "3")),
        ("csv", "frame,x,y,w,h\n1,1,2,3,4\n4,1,2,3,4\n", ("0", "3")),
        ("csv", "frame,x,y,w,h\nframe_0001.jpg,1,2,3,4\nframe_0004.jpg,1,2,3,4\n", ("0", "3")),
        ("csv", "1,1,2,4,6\n", ("1",)),
        ("txt", "1,7,1,2,3,4,-1,-1,-1,-1\n", ("0",)),
        ("txt", "0,7,1,2,3,4,-1,-1,-1,-1\n1,7,1,2,3,4,-1,-1,-1,-1\n", ("0", "1")),
    ):
        file = tmp_path / f"walk.mp4.boxes.{kind}"
        file.write_text(content)
        found = read_boxes(video, frames)
        assert found is not None and found.of == {frame: [box] for frame in wanted}
        file.unlink()
    assert read_boxes(video, frames) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no box is in it"),
        ("name,x,y,w,h\n", "no box is below its header"),
        ("name,a,b,c,d\n000.png,1,2,3,4\n", "the column 'a' of its header is not known"),
        ("name,x,y,w,h,label\n000.png,1,2,3,4,dog\n", "the column 'label' of its header is not known"),
        ("x,y,w,h\n1,2,3,4\n", "does not name one box"),
        ("name,image,x,y,w,h\n1,1,1,2,3,4\n", "does not name one box"),
        ("name,left,top,right,bottom,width\n000.png,1,2,3,4,5\n", "does not name one box"),
        ("name,left,x,top,bottom\n000.png,1,2,3,4\n", "does not name one box"),
        ("name,cx,cy,right,bottom\n000.png,1,2,3,4\n", "does not name one box"),
        ("000.png,1,2,3,4,5\n", "6 columns without a header"),
        ("000.png,1,2,3\n", "4 columns without a header"),
        ("name,x1,y1,x2,y2\n000.png,5,0,5,9\n", "line 2: no box: left 5 .* below bottom 9$"),
        ("name,x1,y1,x2,y2\n000.png,1,2,3\n", "line 2: 4 cells where there are 5 columns"),
        ("name,x1,y1,x2,y2\n\n000.png,a,b,c,d\n", "line 3: 'a' is not a number"),
        ("name,x1,y1,x2,y2\n000.png,0,0,inf,3\n", "line 2: 'inf' is not a number"),
        ("name,x,y,w,h\n000.png,1e308,0,1e308,3\n", "line 2: no box"),
        ("name,x,y,w,h,score\n000.png,1,2,3,4,80\n", "line 2: a score of 80: scores are 0 to 1"),
        ("name,cx,cy,w,h\n000.png,0.5,0.5,0.25,0.5\n", "line 2: a box within one pixel"),
        ("000.png,100,60,50,20\n", "line 1: no box: .* put a header above: name,x,y,w,h"),
        ("name,x,y,w,h\nother.png,1,2,3,4\n", "no row names a picture: rows name other.png, pictures are 000.png"),
        ("name,x,y,w,h,score\n000.png,1,2,3,4,0.1\n", "no row names a picture: no row counts"),
        ("1,7,1,2,3,4,1\n1,7,1,2\n", "line 2: 4 cells: MOTChallenge's lines have 7 to 10"),
        ("1.5,7,1,2,3,4,1\n", "line 1: 1.5 is no number of a frame"),
        ('"' + "x" * 200_000, "line 1: "),
        (b"\xff\xfe\x00", "not UTF-16"),
        (b"\x00\x01\x02\x03", "."),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path, content, words):
    with pytest.raises(BadInput, match=rf"boxes\.csv.*{words}"):
        boxes_in(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "images: Field required"),
        ([], "no box is in it"),
        (coco(annotations=[]), "no box is in it"),
        (coco(categories=[{"id": 1, "name": "dog"}]), "none of its categories is called person: dog"),
        (coco(images=[{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]), "two images have one id"),
        (coco(annotations=[{"image_id": 0, "bbox": [1, 2, 3]}]), "annotations.0.bbox"),
        (coco(annotations=[{"image_id": 0, "bbox": [1, 2, 3, 0]}]), "annotation 0: no box"),
        (coco(annotations=[{"image_id": 0, "bbox": ["1", 2, 3, 4]}]), "annotations.0.bbox.0"),
        (coco(images=[]), "no image has the id 0, which an annotation names"),
        (coco(categories=[]), "none of its boxes has 1, which is COCO's person"),
        ("[" * 100_000, "not boxes as COCO has them"),
        ("nothing", "not boxes as COCO has them"),
    ],
)
def test_what_is_not_cocos_is_refused(tmp_path, content, words):
    with pytest.raises(BadInput, match=rf"boxes\.json: .*{words}"):
        boxes_in(tmp_path, content if isinstance(content, str) else json.dumps(content), "json")


def test_boxes_of_one_picture_and_of_inner_folders(tmp_path):
    (tmp_path / "me.png").touch()
    (tmp_path / "boxes.csv").write_text("other.png,1,2,4,6\nme.png,1,2,4,6\n")
    for wanted in (4.0, 5.0):
        found = read_boxes(tmp_path / "me.png", ["me.png"])
        assert found is not None and found.of == {"me.png": [(1.0, 2.0, wanted, 6.0)]}
        (tmp_path / "me.png.boxes.csv").write_text("me.png,1,2,5,6\n")
    (tmp_path / "boxes.csv").rename(tmp_path / "walk.mp4.boxes.csv")
    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "boxes.csv").write_text("me.png,1,2,4,6\n")
    with pytest.raises(BadInput, match=r"day/boxes\.csv: boxes are read from .*/boxes\.csv alone: join all there"):
        read_boxes(tmp_path, ["day/me.png"])


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refused(file: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "boxes.csv").touch()
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(BadInput, match=r"boxes\.csv: cannot be read \(Permission denied\)"):
        read_boxes(tmp_path, PICTURES)


def test_a_file_in_capitals(tmp_path):
    (tmp_path / "Boxes.CSV").write_text(TABLES["corners"])
    found = read_boxes(tmp_path, PICTURES)
    assert found is not None and found.of == RIGHT and found.source == "boxes.csv"


def test_names_that_are_no_utf8(tmp_path):
    (tmp_path / "boxes.csv").write_bytes(b"name,x,y,w,h\ncaf\xe9.png,1,2,3,4\n")
    found = read_boxes(tmp_path, ["caf\udce9.png"])
    assert found is not None and found.of == {"caf\udce9.png": [(1.0, 2.0, 4.0, 6.0)]}


def test_two_files_of_boxes_are_one_too_many(tmp_path):
    (tmp_path / "boxes.json").write_text(json.dumps(coco()))
    with pytest.raises(BadInput, match=r"boxes\.csv and boxes\.json: which of them"):
        boxes_in(tmp_path, TABLES["corners"])
