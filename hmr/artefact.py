"""Compressed HMR models from their folders; `compress.artefact` does the work and knows no HMR model."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from compress import artefact
from hmr.models.model import HMRModel, build


def load(folder: Path) -> HMRModel:
    """The model of an artefact that was made from one of `ARCHITECTURES`; raises as `compress.artefact.load`.

    A user's own model comes back by `compress.artefact.load(folder, their_own_build)`.
    """
    return cast(HMRModel, artefact.load(folder, build))
