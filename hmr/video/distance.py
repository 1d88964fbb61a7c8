"""How far away somebody is, over time: a picture alone says it badly, and people do not jump.

The place of the pelvis in the picture is seen well, its distance is guessed from how large a person looks. So each
pelvis stays on its ray, and the inverses of distances, in which that guess errs alike near and far, are smoothed as
much as their own noise asks for: the most likely ones where velocity is a random walk (Whittaker 1923).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solveh_banded

LEAST = 5  # frames in which somebody is seen, to know how noisy they are
CHANGE = 1.0  # m/s by which a person's velocity changes in a second; 0.8 to 1.4 in the shipped training motion
ROUNDS = 5  # of weights that follow from what does not fit
FITS = 1.5  # deviations of noise beyond which a frame counts less (Huber 1964)

Doubles = NDArray[np.float64]


def steadied(pelvis: NDArray[np.float32], seen: NDArray[np.bool_], times: NDArray[np.float64]) -> NDArray[np.float32]:
    """The places of a pelvis (T, 3) m in the axes of the camera, at steady distances on the same rays.

    seen (T,): which frames count; times (T,) s, growing. Distances stay between the nearest and the farthest seen. A
    person seen in fewer than LEAST frames stays where they are.
    """
    near = 1 / np.linalg.norm(pelvis.astype(np.float64), axis=1)
    if seen.sum() < LEAST or not (noise := noise_of(near[seen], times[seen])):
        return pelvis
    motion = CHANGE * float(np.median(near[seen])) ** 2
    weights, smooth = seen.astype(np.float64), near
    for _ in range(ROUNDS):
        smooth = smoothed(near, weights, times, (noise / motion) ** 2)
        off = np.abs(near - smooth) / (FITS * noise)
        weights = seen / np.maximum(off, 1.0)
    smooth = smooth.clip(near[seen].min(), near[seen].max())
    return (pelvis * (near / smooth)[:, None]).astype(np.float32)


def noise_of(values: Doubles, times: Doubles) -> float:
    """The deviation of the noise of values (T,): from how far each is off the line between its neighbours."""
    share = (times[1:-1] - times[:-2]) / (times[2:] - times[:-2])
    off = values[1:-1] - (1 - share) * values[:-2] - share * values[2:]
    return float(1.4826 * np.median(np.abs(off) / np.sqrt(1 + share**2 + (1 - share) ** 2)))


def smoothed(values: Doubles, weights: Doubles, times: Doubles, stiffness: float) -> Doubles:
    """What (T,) is nearest to values (T,) by weights, and bends little: the least sum of weighted squares and of
    `stiffness` s³ times the integral of the squared second derivative over times (T,)."""
    first, second = np.diff(times)[:-1], np.diff(times)[1:]
    span = (first + second) / 2
    bends = np.stack([1 / (first * span), -1 / first / second * 2, 1 / (second * span)])  # (3, T - 2) of D
    heavy = stiffness * span * bends
    bands = np.zeros((3, len(values)))  # the upper ones of diag(weights) + stiffness D' diag(span) D
    bands[2] = weights
    for i in range(3):
        for j in range(i, 3):
            bands[2 - (j - i), j : j + bends.shape[1]] += heavy[i] * bends[j]
    return np.asarray(solveh_banded(bands, weights * values))
