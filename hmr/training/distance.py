"""How far a compressed HMR model's output is from the original's: what `compress.policies.recover` makes small."""

from __future__ import annotations

from torch import Tensor

from hmr.adapters.adapted import PlacedJoints
from hmr.body.model import BodyModel
from hmr.models.head import HMROutput

# NOTE: scales differ: rotations are squared, joints are metres (0.005 is near), features are in variances.
WEIGHTS = {"rotations": 3.0, "joints": 8.0, "betas": 0.1, "camera": 0.5, "features": 0.1}


def joint_distance(student: PlacedJoints, teacher: PlacedJoints) -> Tensor:
    """The same of an adapter's outputs, of which only the joints are known, wherever they lie."""
    return WEIGHTS["joints"] * (student.joints.float() - teacher.joints.float()).abs().mean()


def distance(body: BodyModel, student: HMROutput, teacher: HMROutput) -> Tensor:
    """Weighted sum of distances between two outputs for the same crops: a scalar, 0 where they are equal.

    No label: rotations, joints on `body` relative to the pelvis, betas, camera, and the query token's features.
    """
    mine, theirs = joints(body, student), joints(body, teacher)
    features = teacher.features.float()
    parts = {
        "rotations": (student.rotations.float() - teacher.rotations.float()).square().mean(),
        "joints": (mine - theirs).abs().mean(),
        "betas": (student.betas.float() - teacher.betas.float()).square().mean(),
        "camera": (student.camera.float() - teacher.camera.float()).abs().mean(),
        "features": (student.features.float() - features).square().mean() / features.var().clamp_min(1e-12),
    }
    return sum((weight * parts[name] for name, weight in WEIGHTS.items()), start=mine.new_zeros(()))


def joints(body: BodyModel, output: HMROutput) -> Tensor:
    """(B, 24, 3) m from the pelvis; of a hand (B, 16, 3) from the wrist."""
    found = body.skeleton(output.rotations.float(), output.betas.float())
    return found - found[:, :1]
