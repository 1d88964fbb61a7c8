"""Human mesh recovery: models, bodies, data and errors.

    import hmr
    model = hmr.load("reference")
    frames = hmr.frames("synth:test", 256)

They are imported when they are first asked for, so that `import hmr` does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hmr.adapters.adapter import Adapter
    from hmr.library import frames
    from hmr.resolver import load
    from hmr.video.stream import Stream

__all__ = ["Adapter", "Stream", "frames", "load"]


def __getattr__(name: str) -> Any:
    if name == "Adapter":
        from hmr.adapters.adapter import Adapter

        return Adapter
    if name == "frames":
        from hmr.library import frames

        return frames
    if name == "load":
        from hmr.resolver import load

        return load
    if name == "Stream":
        from hmr.video.stream import Stream

        return Stream
    raise AttributeError(f"module 'hmr' has no attribute {name!r}")
