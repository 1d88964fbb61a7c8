"""The campaign's own laws: it goes on where it was stopped, does defects again, and sees what is lost or half done."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from experiments.cli.main import ended
from tests.campaign import __main__ as campaign
from tests.campaign import kills
from tests.campaign.apart import Defect, End, apart
from tests.campaign.places import Command


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The campaign with rows in the place of its own: (exit code, the record)."""

    def go(*rows: tuple[str, int, object]) -> tuple[int, dict[str, dict[str, int]]]:
        monkeypatch.setattr(campaign, "rows", lambda: iter([iter(rows)]))
        record = tmp_path / "record.json"
        words = ["campaign", "--record", str(record), "--journal", str(tmp_path / "journal.jsonl")]
        monkeypatch.setattr(sys, "argv", words)
        code = campaign.main()
        assert "cases" in capsys.readouterr().out
        return code, {row["row"]: row for row in json.loads(record.read_text())["rows"]}

    return go


def test_what_is_over_is_not_done_again_and_a_defect_is(run):
    tried = []

    def attempt(case: int) -> str:
        tried.append(case)
        if case == 1 and tried.count(1) == 1:
            raise Defect("it broke")
        if case == 3 and tried.count(3) == 1:
            raise KeyboardInterrupt  # the campaign is stopped
        return "refused"

    with pytest.raises(KeyboardInterrupt):
        run(("row", 4, attempt))
    code, found = run(("row", 4, attempt))
    assert tried == [0, 1, 2, 3, 1, 3]
    assert (code, found["all"]) == (0, {"row": "all", "cases": 4, "refused": 4, "equal": 0, "read": 0, "defect": 0})


def test_a_defect_is_counted_and_is_no_success(run):
    def attempt(case: int) -> str:
        raise Defect("it broke")

    code, found = run(("row", 2, attempt))
    assert (code, found["row"]["defect"]) == (1, 2)


def test_a_process_is_killed_where_it_is_told_to_and_ends_as_python_does_else(tmp_path):
    def long() -> None:
        while True:
            Path("at").touch()

    assert apart(long, tmp_path, killed=0.05).code == -9
    assert apart(lambda: sys.stdout.write("done\n"), tmp_path, killed=30).out == "done\n"

    def bug() -> None:
        raise ZeroDivisionError

    assert (apart(lambda: sys.exit(3), tmp_path).code, apart(bug, tmp_path).code) == (3, 1)


def test_a_refusal_is_one_sentence_and_exit_2(tmp_path):
    def refused() -> None:
        raise PermissionError(13, "Permission denied", "there")

    assert apart(lambda: ended(refused), tmp_path).sentence == "fasthmr: there: Permission denied"
    for end in (End(1, "", "Traceback", 0), End(0, "", "", 0), End(2, "", "oh", 0), End(-9, "", "fasthmr: no", 0)):
        with pytest.raises(Defect):
            _ = end.sentence


def test_what_is_lost_or_left_after_a_kill_is_a_defect(tmp_path):
    def again(write: str) -> Command:
        return Command(lambda: Path("out").write_text(write), lambda: facts(), Path("out").exists)

    def facts() -> dict[str, str]:
        return {"out": Path("out").read_text()} if Path("out").exists() else {}

    assert kills.recovered(again("whole"), {"out": "whole"}, tmp_path) == "equal"
    (tmp_path / "out").unlink()
    with pytest.raises(Defect, match="in the place of"):
        kills.recovered(again("half"), {"out": "whole"}, tmp_path)
    (tmp_path / "out").unlink()
    (tmp_path / ".out.unfinished").mkdir()
    with pytest.raises(Defect, match="are left"):
        kills.recovered(again("whole"), {"out": "whole"}, tmp_path)
