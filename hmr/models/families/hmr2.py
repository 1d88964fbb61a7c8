"""HMR2.0 (Goel et al. 2023, 4D-Humans): the network that `hmr.models.head` and `hmr.models.vit` describe, as it is.

`token_dim` 157 is its `TRANSFORMER_INPUT: mean_shape`, `iterations` its `IEF_ITERS`.
"""

from __future__ import annotations

from hmr.models.families.family import Family

FAMILY = Family(name="hmr2", mark="smpl_head.decpose.weight", licence="MIT")
