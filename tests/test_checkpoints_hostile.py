"""Files from strangers: none of them runs, hangs or loads in silence."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests import hostile_checkpoints as hostile


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """The folder; what became of a good file; path -> (words, outcome, message, events), each in a process of its own
    under the hook and with limited memory."""
    folder = tmp_path_factory.mktemp("hostile")
    good = hostile.archive(folder / "good.ckpt", {"state_dict": hostile.weights(), "cfg": hostile.Call("yacs", "Node")})
    plain = hostile.archive(folder / "plain.ckpt", hostile.weights())
    made = hostile.files(folder)
    command = [sys.executable, "-m", "tests.opened_apart"]
    given = json.dumps([str(plain), str(good), *map(str, made)])
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    outcome, message, events = found.pop(str(plain))
    assert (outcome, events) == ("loaded", [])
    assert message.count("WARNING") == message.count("assuming 8 attention heads")
    return folder, found.pop(str(good)), {path: (words, *found[str(path)]) for path, words in made.items()}


def test_enough_of_them(outcomes):
    assert len(outcomes[2]) >= 40


def test_no_code_ran(outcomes):
    folder, _, found = outcomes
    assert not (folder / hostile.MARKER).exists()
    assert {path.name: events for path, (*_, events) in found.items() if events} == {}


def test_all_are_refused_in_a_sentence_and_those_with_whole_weights_leave_the_rest_out(outcomes):
    expected = {path.name: "loaded" if path.name == "with_weights.ckpt" else "refused" for path in outcomes[2]}
    assert {path.name: outcome for path, (_, outcome, *_) in outcomes[2].items()} == expected


def test_each_message_names_what_was_refused(outcomes):
    silent = {
        path.name: (words, message)
        for path, (words, _, message, _) in outcomes[2].items()
        if words not in message or path.name not in message
    }
    assert silent == {}


def test_the_watcher_lets_a_good_file_through(outcomes):
    outcome, message, events = outcomes[1]
    assert (outcome, events) == ("loaded", [])
    assert "yacs.Node" in message


def test_the_watcher_would_see_it(tmp_path):
    """The same file, read by pickle as it comes, does what it says: so the files are what they claim to be."""
    marker = tmp_path / hostile.MARKER
    data, _ = hostile.pickled(hostile.calls(marker)["os_system"][0])
    (tmp_path / "data.pkl").write_bytes(data)
    script = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "data.pkl")], check=True, timeout=60)
    assert marker.exists()
