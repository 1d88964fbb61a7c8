"""A small model that is traced and written once for all tests, and pictures for it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from compress.policies.merge_tokens import MergeTokens
from hmr.data.sample import Sample
from hmr.deploy.export import export
from hmr.deploy.formats import write_openvino
from hmr.deploy.onnx_file import read_onnx
from hmr.models.model import HMRModel, build
from tests.planning import applied, planned
from tests.sizes import TINY


def small() -> HMRModel:
    torch.manual_seed(0)
    model = build("hmr2", {**TINY, "depth": 2}).eval()
    step = MergeTokens(keep=90, per_layer=60)
    applied(planned(step, model), model)
    return model


def samples(count: int, size: tuple[int, int] = (256, 192)) -> list[Sample]:
    """Pictures of noise with a box for a person."""
    draw, found = np.random.default_rng(0), []
    for i in range(count):
        mask = np.zeros(size, bool)
        mask[30 + 5 * i : 160, 40 : 90 + 7 * i] = True
        found.append(Sample(draw.integers(0, 256, (*size, 3), np.uint8), f"noise{i}", mask, focal=500.0))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Any:
    """The model and the folder of its ONNX file. To write it takes longer than all tests that read it, so that of
    several files of tests, and of several workers, the first one writes it for all."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    model, folder = small(), root / "exported"
    with FileLock(root / "exported.lock"):
        if not folder.exists():
            export(model, folder, samples(7))
    return SimpleNamespace(model=model, folder=folder, file=folder / "model.onnx")


@pytest.fixture(scope="module")
def xml(made, tmp_path_factory) -> Path:
    interface = read_onnx(made.file)[1]
    return write_openvino(made.file, interface, tmp_path_factory.mktemp("openvino") / "model.xml")


@pytest.fixture(params=["onnx", "xml"])
def file(request, made) -> Path:
    return made.file if request.param == "onnx" else request.getfixturevalue("xml")
