"""Human mesh recovery: models, bodies, data and errors. `hmr.frames` is imported when it is first asked for, so that
`import hmr` does not wait for torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hmr.library import frames

__all__ = ["frames"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hmr' has no attribute {name!r}")
    from hmr import library

    return getattr(library, name)
