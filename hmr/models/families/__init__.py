"""The families of HMR networks, one file each."""

from __future__ import annotations

from hmr.models.families import camerahmr, dinov2, hamer, hmr2, tokenhmr
from hmr.models.families.family import Family

_MODULES = (hmr2, camerahmr, hamer, tokenhmr, dinov2)  # the mark of a later one counts where a file has several
FAMILIES: dict[str, Family] = {module.FAMILY.name: module.FAMILY for module in _MODULES}
