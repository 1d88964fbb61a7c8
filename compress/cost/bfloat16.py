"""Whether this CPU multiplies in bfloat16 itself; where not, bfloat16 halves memory and takes longer than float32."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

log = logging.getLogger(__name__)


@cache
def warn_if_slow(kind: str) -> None:
    """Say once, where bfloat16 is asked for on a device of this kind, that it is slow there."""
    if kind == "cpu" and emulated(torch.cpu.get_capabilities()):
        log.warning(
            "bfloat16 was asked for, and this CPU has neither AMX nor AVX512-BF16 to multiply in it: expect it to be "
            "slower than float32"
        )


def emulated(capabilities: Mapping[str, Any]) -> bool:
    """Whether a CPU of these capabilities, as torch names them, has no products of bfloat16. Of others
    than x86 torch names none, so there is no warning."""
    x86 = capabilities.get("architecture") in ("x86_64", "amd64", "AMD64")
    return x86 and not any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16"))
