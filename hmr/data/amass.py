from __future__ import annotations
from pathlib import Path
from hmr.data.clip import MotionClip
def read_amass(path: Path) -> MotionClip:
    raise NotImplementedError
