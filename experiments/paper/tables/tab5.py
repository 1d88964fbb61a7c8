"""FastHMR Tab. 5: what the denoiser predicts, when it has one step."""

from __future__ import annotations

from experiments.paper.ablation import Table
from experiments.paper.finding import NEGLIGIBLE_MM, lower
from experiments.paper.trained import Trained

# 62.2 mm is FastHMR-CameraHMR on 3DPW in Tab. 8, so the paper measured these on 3DPW.
ROWS = {
    "noise": {"3dpw": {"mpjpe_mm": 181.8}},
    "v": {"3dpw": {"mpjpe_mm": 62.5}},
    "hybrid": {"3dpw": {"mpjpe_mm": 62.2}},
}

TABLE = Table(
    name="tab5",
    title="Tab. 5, what the denoiser predicts",
    question="Velocity, noise or both: what can a denoiser be asked for, when it has one step?",
    finding=lower(
        "the paper's finding that one step needs the velocity, and that the noise beside it does no harm",
        "velocity is {} from noise in MPJPE, and both losses {} from velocity",
        ("v", "noise"),
        ("hybrid", "v", NEGLIGIBLE_MM),
    ),
    trained=Trained("objectives", ROWS),
)
