"""One frame of a video, whoever read it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB


class Shot(NamedTuple):
    """One frame."""

    number: int  # among the frames that decode, from 0
    time: float  # s, as the file has it
    image: Pixels  # upright
