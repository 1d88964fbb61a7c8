"""The families of HMR networks, one file each."""

from __future__ import annotations

from hmr.models.families import camerahmr, hamer, hmr2, tokenhmr
from hmr.models.families.family import Family

FAMILIES: dict[str, Family] = {module.FAMILY.name: module.FAMILY for module in (hmr2, camerahmr, hamer, tokenhmr)}
