"""Joint and mesh errors of predicted bodies.

Positions go in as metres in any common axes, errors come out in millimetres, one per frame. Joint errors are pelvis
aligned and averaged over all joints given. The pelvis is joint 0 and its error of 0 counts, unless positions are
`aligned` already: evaluations of 3DPW and EMDB each have a pelvis of their own, see `hmr.body.conventions`.
"""

from __future__ import annotations

import roma
from torch import Tensor

from compress.errors import BadInput

MM = 1000.0  # millimetres in a metre


def joint_errors(predicted: Tensor, target: Tensor, aligned: bool = False) -> Tensor:
    """Distance of each joint after moving both pelvises to the origin, where they are if `aligned`.

    predicted, target (..., J, 3) m -> (..., J) mm. Raises BadInput for unlike shapes or values that are not finite.
    """
    _check(predicted, target)
    return distances(_from_pelvis(predicted, aligned), _from_pelvis(target, aligned))


def mpjpe(predicted: Tensor, target: Tensor, aligned: bool = False) -> Tensor:
    """Mean per-joint position error: (..., J, 3) m, twice -> (...) mm. Raises BadInput as `joint_errors`."""
    return joint_errors(predicted, target, aligned).mean(-1)


def pa_mpjpe(predicted: Tensor, target: Tensor) -> Tensor:
    """MPJPE after the best similarity transform of each frame: (..., J, 3) m, twice -> (...) mm.

    Raises BadInput for unlike shapes or values that are not finite.
    """
    _check(predicted, target)
    return distances(procrustes_aligned(predicted, target), target).mean(-1)


def pve(predicted: Tensor, target: Tensor, predicted_pelvis: Tensor, target_pelvis: Tensor) -> Tensor:
    """Per-vertex error: vertices (..., V, 3) m with pelvises (..., 3) m -> (...) mm.

    Raises BadInput for unlike shapes or values that are not finite.
    """
    _check(predicted, target)
    _check(predicted_pelvis, target_pelvis)
    return distances(predicted - predicted_pelvis[..., None, :], target - target_pelvis[..., None, :]).mean(-1)


def accel(predicted: Tensor, target: Tensor, aligned: bool = False, times: Tensor | None = None) -> Tensor:
    """Acceleration error of one recording, from second differences of pelvis-aligned joints.

    predicted, target (T, J, 3) m of consecutive frames, at one rate or at `times` (T,) in s -> (T - 2,) mm per frame
    squared, where a frame lasts as long as their mean; nothing where T < 3. Raises BadInput for unlike shapes, values
    that are not finite or times that do not grow.
    """
    _check(predicted, target)
    moves = (_second_difference(_from_pelvis(joints, aligned), times) for joints in (predicted, target))
    return distances(*moves).mean(-1)


def procrustes_aligned(predicted: Tensor, target: Tensor) -> Tensor:
    """`predicted` moved, turned and scaled (never mirrored) onto `target` with the least squared error, per frame.

    (..., J, 3), twice -> (..., J, 3). Umeyama, "Least-squares estimation of transformation parameters", 1991.
    """
    centre_p, centre_t = predicted.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    p, t = (predicted - centre_p).double(), (target - centre_t).double()
    rotation, scale = roma.rigid_vectors_registration(p, t, compute_scaling=True)
    scale = scale.nan_to_num()  # of joints that are all in one point, 0 / 0
    return (scale[..., None, None] * (p @ rotation.mT)).to(predicted.dtype) + centre_t


def _check(predicted: Tensor, target: Tensor) -> None:
    if predicted.shape != target.shape or predicted.shape[-1:] != (3,):
        raise BadInput(
            f"predicted and true positions need the same (..., 3) shape: "
            f"got {tuple(predicted.shape)} and {tuple(target.shape)}"
        )
    for name, positions in (("predicted", predicted), ("true", target)):
        if not positions.isfinite().all():
            raise BadInput(f"the {name} positions hold a value that is not finite")


def _from_pelvis(joints: Tensor, aligned: bool) -> Tensor:
    return joints if aligned else joints - joints[..., :1, :]


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Between points (..., 3) m, in mm (...). Nothing is checked: to look at values waits for the device."""
    return (a - b).norm(dim=-1) * MM


def _second_difference(joints: Tensor, times: Tensor | None) -> Tensor:
    """(T, J, 3) -> (T - 2, J, 3); with times, the second divided difference, which is exact for a constant
    acceleration, over mean frames."""
    if len(joints) < 3:
        return joints[:0]
    if times is None:
        return joints[:-2] - 2 * joints[1:-1] + joints[2:]
    steps = times.double().diff()
    if not (steps > 0).all():
        raise BadInput("the times of frames have to grow from one to the next")
    slopes = joints.double().diff(dim=0) / steps[:, None, None]  # (T - 1, J, 3) m/s
    second = 2 * slopes.diff(dim=0) / (steps[1:] + steps[:-1])[:, None, None]  # (T - 2, J, 3) m/s^2
    return second * steps.mean() ** 2
