"""The one folder fasthmr writes to unasked."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_data_path


def fasthmr_home() -> Path:
    """Folder of imported bodies, caches and search state: `$FASTHMR_HOME`, else the user's data folder; not created."""
    named = os.environ.get("FASTHMR_HOME")
    return Path(named).expanduser() if named else user_data_path("fasthmr")
