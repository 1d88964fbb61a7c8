"""Bodies in SMPL's format: the open one, and licensed files of a user's."""

from hmr.body.files import import_body, load_body
from hmr.body.model import BodyModel

__all__ = ["BodyModel", "import_body", "load_body"]
