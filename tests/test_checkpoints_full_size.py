"""Checkpoints of full size: they load strictly, in little more memory than their weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from yacs.config import CfgNode

from tests.test_checkpoints import TOKENIZER, prefixed

MANIFESTS = Path(__file__).parent / "manifests"
MEASURED = """
import json, sys, torch
from pathlib import Path
from hmr.checkpoints.files import load, read
from hmr.models.own_model import stack_from
from tests.networks import sam3d

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

def own(path):
    with torch.device("meta"):
        model = sam3d()
    model.load_state_dict(read(Path(path)).state, assign=True)
    assert len(stack_from(model, "backbone.encoder.blocks").blocks) == 32
    return model

path, files = sys.argv[1], json.loads(sys.argv[2])
torch.empty(1).isfinite()
before = peak()
model = own(path) if files is None else load(path, **files)
state = {key: list(value.shape) for key, value in model.state_dict().items()}
held = sum(value.nbytes for value in model.state_dict().values())
print(json.dumps([getattr(model, "architecture", None), peak() - before, held, state]))
"""


def random_weights(manifest, path, container="state_dict"):
    """A file of a manifest's keys and shapes, as Lightning writes it where they are in a container; the shapes."""
    shapes = json.loads((MANIFESTS / f"{manifest}.json").read_text())
    state = {}
    for key, shape in shapes.items():
        integer = key.endswith("num_batches_tracked")
        state[key] = torch.zeros(shape, dtype=torch.int64) if integer else torch.rand(shape)
    settings = {"cfg": CfgNode({"MODEL": {"IMAGE_SIZE": 256}})}
    torch.save({container: state, "hyper_parameters": settings} if container else state, path)
    return shapes


def measured(path, files):
    """A model's architecture, the memory in bytes that loading it took at most, that of its weights, its shapes."""
    command = [sys.executable, "-c", MEASURED, str(path), json.dumps(files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    path.unlink()  # gigabytes, which pytest would keep
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("family", ["hmr2", "camerahmr", "hamer", "tokenhmr"])
def test_full_size_loads_strictly_in_little_more_memory_than_its_weights(family, tmp_path):
    wanted = random_weights(family, tmp_path / "model.ckpt")
    parts = {"camerahmr": ("cam_model", "state_dict", "fov_net."), "tokenhmr": ("tokenizer", "net", TOKENIZER)}
    files = {}
    if family in parts:
        name, container, prefix = parts[family]
        wanted |= prefixed(prefix, random_weights(f"{family}_{name}", tmp_path / "part.ckpt", container))
        files[name] = str(tmp_path / "part.ckpt")
    architecture, peak, held, state = measured(tmp_path / "model.ckpt", files)
    assert architecture == family
    kept = ("backbone.", "smpl_head.", "mano_head.", "fov_net.")
    assert state == {key: shape for key, shape in wanted.items() if key.startswith(kept)}
    assert held < 3.2e9 and peak <= 1.3 * held


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_full_size_backbone_of_sam_3d_body_loads_into_the_users_own_module(tmp_path):
    wanted = random_weights("sam3dbody_dinov3_backbone", tmp_path / "model.pt", None)
    _, peak, held, state = measured(tmp_path / "model.pt", None)
    assert state == wanted
    assert held > 3.2e9 and peak <= 1.3 * held
