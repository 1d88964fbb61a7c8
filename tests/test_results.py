"""The page of results says what the records do, and every record can be made again, one after the other."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from experiments.cli.app import app as command_line
from experiments.paper import anew, fill, results
from tests.links import Links


def test_the_page_is_that_of_the_records():
    for path, content in results.written().items():
        assert path.read_text() == content, f"python -m experiments.paper.fill ({path.name})"


def test_every_row_has_one_anchor_and_the_figures_of_its_record():
    found, links = json.loads(results.JSON.read_text()), Links()
    links.feed(results.HTML.read_text())
    assert len(links.ids) == len({*links.ids})
    for table in found["tables"]:
        for row in table["rows"]:
            record, _, place = row["anchor"].rpartition("-")
            whole = json.loads((fill.RECORDS / f"{record}.json").read_text())["rows"][int(place)]
            own = {key: value for key, value in row["values"].items() if "." not in key}
            assert own == {key: whole[key] for key in own} and row["anchor"] in links.ids
    assert {link.partition("#")[2] for link in links.found if link.startswith("#")} <= {*links.ids}


def test_the_smallest_detectable_difference_is_half_of_a_paired_interval():
    paired, alone = {"mean": 3.0, "lo": 1.0, "hi": 5.0}, {"mean": 3.0, "lo": None, "hi": None}
    assert results.half_width("mpjpe_rise_mm", paired) == 2.0 == results.half_width("other.pa_rise_mm", paired)
    assert results.half_width("energy_mm_over_regressor", paired) == 2.0
    for column, value in (("mpjpe_mm", paired), ("mpjpe_rise_mm", alone), ("mpjpe_rise_mm", None), ("rise", 3.0)):
        assert results.half_width(column, value) is None
    assert results.half_width("mpjpe_rise_mm", dict.fromkeys(paired, 0.0)) is None  # from itself
    rows = [{"detectable": {"rise": half}} for half in (4.0, 1.0, 2.0)] + [{"detectable": {}}]
    assert results.detectable(rows) == {"rise": {"least": 1.0, "median": 2.0, "most": 4.0}}


def test_every_record_is_made_by_a_command_that_there_is():
    assert {path.stem for path in fill.RECORDS.glob("*.json")} <= {*anew.RECORDS}
    names = {command.callback.__name__ for command in command_line.registered_commands if command.callback}
    names |= {group.name for group in command_line.registered_groups if group.name}
    for made in anew.RECORDS.values():
        for line in made.lines:
            words = shlex.split(line.split(" && ")[0])
            assert words[0] in ("python", "cat", "echo") or (words[0] == "fasthmr" and words[1] in names)


def test_records_are_made_once_and_one_that_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    count = "echo x >> {}; echo '{{\"rows\": []}}'"
    records = {
        "one": anew.Made(count.format("made-one"), (("first", "echo x >> count; touch first"),)),
        "broken": anew.Made("false"),
        "two": anew.Made("cp given two.json", (("given", "echo {} > given"),), "two.json"),
    }
    (tmp_path / "into").mkdir()
    monkeypatch.setattr(anew, "RECORDS", records)
    monkeypatch.setattr(fill, "RECORDS", tmp_path / "into")
    monkeypatch.setattr(fill, "main", lambda: None)
    monkeypatch.setattr("sys.argv", ["anew", str(tmp_path / "out")])
    for _ in range(2):
        assert anew.main() == 1 and "not made: broken" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "into").iterdir()} == {"one.json", "two.json"}
    assert (tmp_path / "out" / "made-one").read_text() == (tmp_path / "out" / "count").read_text() == "x\n"
    with pytest.raises(subprocess.CalledProcessError):
        anew.make("broken", tmp_path / "out")


def test_commands_run_with_a_home_of_their_own(tmp_path):
    said = anew.done(
        "echo 1 && python -c 'import os; print(os.environ[\"FASTHMR_HOME\"])' && fasthmr --version", tmp_path
    )
    one, home, version = said.decode().splitlines()
    assert (one, home) == ("1", str(tmp_path / "home")) and version.startswith("fasthmr ")
    assert Path(home).parent == tmp_path
