"""What finds the person in a picture: BlazePose, RF-DETR, YOLO, each by a stand-in of its package."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from compress.errors import BadInput
from hmr.data import blazepose
from hmr.data.blazepose import Output, Square
from hmr.data.crop import cut
from hmr.data.masks import BlazePose, chosen, pasted, segmenter
from hmr.data.pictures import Photo
from tests.test_media import ramp


def test_a_mask_goes_back_where_it_was_cut_out():
    person = np.zeros((120, 160), np.uint8)
    person[30:90, 60:80] = 255
    share = cut(person, (75.5, 60.2), 97.0, (256, 256)).astype(np.float32) / 255
    back = pasted(np.asarray(share, np.float32), (75.5, 60.2), 97.0, person.shape)
    assert (back != (person > 0)).mean() < 0.005


def test_the_person_of_a_box_is_chosen_by_overlap():
    small, large = np.zeros((10, 10), bool), np.ones((10, 10), bool)
    people = [((0.0, 0.0, 4.0, 4.0), small), ((0.0, 0.0, 10.0, 10.0), large)]
    assert chosen(people, None) is large
    assert chosen(people, (0, 0, 5, 4)) is small
    assert chosen(people, (9, 9, 10, 10)) is None and chosen([], None) is None


@pytest.fixture
def litert(monkeypatch):
    """An interpreter whose person is the left half of its square, and whose score is in `said`."""
    said = {"score": 0.9}

    class Interpreter:
        def __init__(self, model_path: str, num_threads: int) -> None:
            self.input = None

        def allocate_tensors(self) -> None:
            pass

        def get_input_details(self):
            return [{"index": 0}]

        def set_tensor(self, index, value) -> None:
            assert value.shape == (1, 256, 256, 3) and value.dtype == np.float32 and value.max() <= 1

        def invoke(self) -> None:
            pass

        def get_output_details(self):
            return [{"index": i} for i in range(5)]

        def get_tensor(self, index):
            logits = np.full((1, 256, 256, 1), -9.0, np.float32)
            logits[:, :, :128] = 9
            zeros = (np.zeros(shape, np.float32) for shape in ((1, 195), (1, 117), (1, 64, 64, 39)))
            return [*zeros, np.full((1, 1), said["score"], np.float32), logits][index]

    package, module = ModuleType("ai_edge_litert"), ModuleType("ai_edge_litert.interpreter")
    module.__dict__["Interpreter"] = Interpreter
    monkeypatch.setitem(sys.modules, "ai_edge_litert", package)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)
    return said


def test_blazepose_has_no_mask_below_its_score(litert, tmp_path):
    file = tmp_path / "net.tflite"
    file.write_bytes(b"....TFL3")
    photo = Photo("a", ramp(100, 100))
    found = BlazePose(file).mask(photo, (40, 20, 80, 80))  # a square of 75 pixels about (60, 50)
    assert found is not None and found[14:86, 24:59].all() and not found[:, 62:].any() and not found[:, :22].any()
    litert["score"] = 0.03
    assert BlazePose(file).mask(photo, (40, 20, 80, 80)) is None
    litert["score"] = float("nan")
    assert BlazePose(file).mask(photo, (40, 20, 80, 80)) is None
    with pytest.raises(BadInput, match="no such file"):
        BlazePose(tmp_path / "missing.tflite")


def test_blazepose_looks_for_the_surest_person_where_there_is_no_box(monkeypatch):
    """The detector's square is rough: the person's is where the landmarks that are seen in it say."""
    monkeypatch.setattr(blazepose, "interpreter", lambda name, file: None)
    finder, squares = BlazePose(), [Square((50.0, 60.0), 80.0), Square((9.0, 9.0), 9.0)]
    places = np.full((39, 5), 128.0)
    places[33], places[34] = (153.6, 128, 0, 0, 0), (153.6, 51.2, 0, 0, 0)  # right of the middle; three tenths above
    mask = np.full((256, 256), -9.0, np.float32)
    mask[:, :128] = 9
    cold = np.full((64, 64, 39), -20.0, np.float32)
    scores = [0.9, 0.9]
    saw = lambda square: Output(places, np.zeros((39, 3)), scores.pop(), mask, cold)  # noqa: E731
    monkeypatch.setattr(finder.network, "run", saw)
    monkeypatch.setattr(finder, "detector", SimpleNamespace(people=lambda image, least: squares))
    found = finder.mask(Photo("a", ramp(120, 160)), None)
    # 8 pixels to the right of (50, 60), 2.5 * 0.3 as high as the square of 80: half of it is the person
    true = np.zeros((120, 160), bool)
    true[30:90, 28:58] = True
    assert found is not None and (found != true).sum() < 60
    for pair in ((0.9, 0.4), (0.4, 0.9), (float("nan"), 0.9)):
        scores[:] = pair
        assert finder.mask(Photo("a", ramp(120, 160)), None) is None
    squares.clear()
    assert finder.mask(Photo("a", ramp(120, 160)), None) is None


def test_detectors_that_are_not_installed_say_their_licence(monkeypatch):
    for name, words in (("ultralytics", "AGPL"), ("rfdetr", "rfdetr")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(BadInput, match=words):
            segmenter(name)


def test_detectors_find_people_among_what_they_find(monkeypatch, caplog, tmp_path):
    """RF-DETR calls a person 1, YOLO is asked for class 0 alone, in BGR."""
    here, home = Path.cwd(), tmp_path / "home"
    monkeypatch.setenv("FASTHMR_HOME", str(home))
    mask = np.zeros((2, 20, 20), bool)
    mask[0, :5], mask[1, 10:] = True, True
    boxes = np.array([[0, 0, 20, 5], [0, 10, 20, 20]], np.float32)
    seen = SimpleNamespace(xyxy=boxes, mask=mask, class_id=np.array([1, 3]))
    rfdetr = SimpleNamespace(RFDETRSegMedium=lambda: SimpleNamespace(predict=lambda image, threshold: seen))
    monkeypatch.setitem(sys.modules, "rfdetr", rfdetr)
    assert (segmenter("rfdetr").mask(Photo("a", ramp(20, 20)), None) == mask[0]).all()

    class OnCPU(np.ndarray):
        def cpu(self):
            return self

        def numpy(self):
            return np.asarray(self)

    def yolo(image, classes, conf, retina_masks, verbose):
        assert classes == [0] and conf == 0.5 and (image[..., 2] == ramp(20, 20)[..., 0]).all()
        result = SimpleNamespace(xyxy=boxes.view(OnCPU)), SimpleNamespace(data=mask.astype(np.float32).view(OnCPU))
        return [SimpleNamespace(boxes=result[0], masks=result[1])]

    def network(weights):
        assert Path(weights).absolute() == home / "masks" / "yolo11x-seg.pt"  # not in the current folder
        return yolo

    monkeypatch.setitem(sys.modules, "ultralytics", SimpleNamespace(YOLO=network))
    with caplog.at_level("WARNING", "hmr.data.masks"):
        segmenter("ultralytics")
    assert "AGPL-3.0" in caplog.text and Path.cwd() == here
    assert (segmenter("ultralytics").mask(Photo("a", ramp(20, 20)), None) == mask[1]).all()
