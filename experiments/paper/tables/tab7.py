"""FastHMR Tab. 7: how the decoder says a pose."""

from __future__ import annotations

from experiments.paper.ablation import Table
from experiments.paper.finding import lower
from experiments.paper.trained import Trained

# 62.1 mm is near FastHMR-CameraHMR's 62.2 on 3DPW in Tab. 8, so the paper measured these on 3DPW.
ROWS = {"HybrIK": {"3dpw": {"mpjpe_mm": 62.1}}, "6D rotations": {"3dpw": {"mpjpe_mm": 95.1}}}

TABLE = Table(
    name="tab7",
    title="Tab. 7, how a pose is represented",
    question="Joints and twists, from which kinematics find the rotations, or the rotations themselves?",
    finding=lower(
        "the paper's finding that joints and twists are decoded better than rotations",
        "joints and twists are {} from rotations in MPJPE",
        ("HybrIK", "6D rotations"),
    ),
    trained=Trained("representation", ROWS),
)
