"""The detectors of people by their own packages: their networks, of random weights, whose biases find something.

`make test-zoo` runs it in a venv of its own, since both packages need torchvision.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rfdetr
import torch
from PIL import Image

from hmr.data.masks import Detections, chosen, rfdetr_people, segmenter, yolo_people
from hmr.data.pictures import Photo

PERSON, BICYCLE, CAR = 0, 1, 2  # as YOLO counts; RF-DETR counts from 1


@pytest.fixture
def photo() -> Photo:
    """Colours of which none is grey, so that their order counts."""
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3)) // (1, 2, 4)
    return Photo("a.png", image.astype(np.uint8))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "ultralytics"))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    torch.manual_seed(0)
    return tmp_path


def test_rfdetr_finds_people(monkeypatch, photo):
    """Everything it sees is a person or a car: the package itself says which is which."""
    monkeypatch.setattr(rfdetr, "RFDETRSegMedium", lambda: rfdetr.RFDETRSegNano(pretrain_weights=None))
    detector = segmenter("rfdetr")
    assert isinstance(detector, Detections)
    with torch.no_grad():
        bias = detector.network.model.model.class_embed.bias
        bias[[1 + PERSON, 1 + CAR]] = 5.0
    own = detector.network.predict(Image.fromarray(photo.image), threshold=0.5)
    named = [name == "person" for name in own.data["class_name"]]
    people = rfdetr_people(detector.network, photo)
    assert 0 < len(people) == sum(named) < len(named)
    for (corners, mask), box, theirs in zip(people, own.xyxy[named], own.mask[named], strict=True):
        assert corners == pytest.approx(tuple(box)) and mask.shape == (120, 160) and (mask == theirs).all()
    found = detector.mask(photo, None)
    assert found is not None and found.sum() == own.mask[named].sum((1, 2)).max()


def test_yolo_finds_people(monkeypatch, photo):
    """It takes an array for BGR and a picture for what it is: both are of the same people."""
    import ultralytics
    from ultralytics.utils import ROOT, YAML

    monkeypatch.setattr(ultralytics, "YOLO", lambda weights, real=ultralytics.YOLO: real("yolo11n-seg.yaml"))
    detector = segmenter("ultralytics")
    assert isinstance(detector, Detections)
    with torch.no_grad():
        for level in detector.network.model.model[-1].cv3:
            level[-1].bias[[PERSON, BICYCLE]] = 5.0
    people = yolo_people(detector.network, photo)
    own, blind = (
        detector.network(image, classes=[PERSON], conf=0.5, retina_masks=True, verbose=False)[0]
        for image in (Image.fromarray(photo.image), photo.image)
    )
    assert YAML.load(ROOT / "cfg" / "datasets" / "coco.yaml")["names"][PERSON] == "person"
    assert 0 < len(people) == len(own.boxes) and not (own.boxes.xyxy[:5] == blind.boxes.xyxy[:5]).all()
    for (corners, mask), box, theirs in zip(people, own.boxes.xyxy, own.masks.data, strict=True):
        assert corners == pytest.approx(tuple(box.tolist())) and (mask == (theirs > 0.5).numpy()).all()
    for (left, top, right, bottom), mask in people:
        assert mask.shape == (120, 160) and mask.dtype == bool
        assert 0 <= left < right <= 160 and 0 <= top < bottom <= 120
    found = detector.mask(photo, people[0][0])
    assert found is not None and (found == chosen(people, people[0][0])).all() and found.any()
