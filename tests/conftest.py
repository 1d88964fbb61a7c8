from __future__ import annotations

import signal
import sys

import pytest
from hypothesis import settings

from experiments.cli import main as cli

settings.register_profile("fasthmr", deadline=None)  # no test asserts on time
settings.load_profile("fasthmr")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a job in the background has it: its children would too
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def fasthmr(monkeypatch, capsys, tmp_path):
    """Run the command in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FASTHMR_MOCAP", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # what pip would fetch is not fetched

    def run(*words: object) -> tuple[int | str | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["fasthmr", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return run
