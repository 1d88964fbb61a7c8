"""A recovery that was killed goes on to the bit, and takes nobody else's checkpoint."""

from __future__ import annotations

import pytest
import torch

from compress.distillation import targets as kept_targets
from compress.distillation.targets import Targets
from compress.distillation.training import distil
from compress.errors import BadInput
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.training import checkpoint, loop
from compress.training.loop import Training
from tests.recovery import CROPS, Noise, compressed, original, recovered, recovery


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of a run that nobody disturbed, and what it measured."""
    teacher = original()
    student = compressed(teacher)
    found = recovered(student, teacher, tmp_path_factory.mktemp("whole") / "run")
    return student.state_dict(), found


@pytest.mark.parametrize("killed_at", [0, 1, 3])
def test_a_killed_run_goes_on_to_the_bit(killed_at, whole, tmp_path, monkeypatch):
    folder, teacher = tmp_path / "run", original()
    advance = Training.advance

    def killing(run):
        if run.progress.step == killed_at:
            raise KeyboardInterrupt
        advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", killing)
        with pytest.raises(KeyboardInterrupt):
            recovered(compressed(teacher), teacher, folder, checkpoint_minutes=0)
    (folder / "checkpoint-99999999.part").mkdir()  # what a kill in the middle of a write leaves
    torch.manual_seed(killed_at)  # another process would have other random numbers
    student = compressed(teacher)
    found = recovered(student, teacher, folder, checkpoint_minutes=0)
    weights, undisturbed = whole
    assert all(torch.equal(value, weights[name]) for name, value in student.state_dict().items())
    assert found["distance"] == undisturbed["distance"]
    again = compressed(teacher)  # a run that had finished gives its weights, and no step more
    assert recovered(again, teacher, folder)["steps"] == 4
    assert all(torch.equal(value, weights[name]) for name, value in again.state_dict().items())


def test_the_callers_random_numbers_are_their_own(tmp_path):
    teacher = original()
    torch.manual_seed(3)
    wanted = torch.randn(3)
    student = compressed(teacher)
    torch.manual_seed(3)
    recovered(student, teacher, tmp_path / "run", steps=1)
    assert torch.equal(torch.randn(3), wanted)


@pytest.mark.parametrize("change", ["plan", "student", "schedule", "teacher", "crops", "seed"])
def test_anothers_checkpoint_is_refused(tmp_path, change):
    folder, teacher = tmp_path / "run", original()
    recovered(compressed(teacher), teacher, folder, steps=1)
    held = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    student, crops, seed = compressed(teacher), CROPS, 0
    plan = recovery(student, teacher, steps=1, lr=2e-3 if change == "plan" else 1e-3, batch=4)
    if change == "student":
        student = compressed(teacher, MergeLayers(strategy="explicit", windows=((0, 1),)))
    elif change == "schedule":
        student = compressed(teacher, MergeLayers(strategy="explicit", windows=((1, 2),)), MergeTokens(keep=180))
    elif change == "teacher":
        teacher = original(1)
    elif change == "crops":
        crops = Noise(11)
    elif change == "seed":
        seed = 1
    with pytest.raises(BadInput, match="has another"):
        distil(plan, student, teacher, crops, folder, seed=seed)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == held


@pytest.mark.parametrize("content", [None, "", "5", "[]", '{"plan": 1}'])
def test_a_folder_of_something_else_is_refused(tmp_path, content):
    folder, teacher = tmp_path / "run", original()
    folder.mkdir()
    (folder / ("letter.txt" if content is None else "training.json")).write_text(content or "mine")
    with pytest.raises(BadInput, match="run"):
        recovered(compressed(teacher), teacher, folder)
    assert len(list(folder.iterdir())) == 1


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(BadInput, match="run: it is there"):
        recovered(compressed(original()), original(), tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_checkpoint_is_never_taken_away_for_its_own_step(tmp_path, monkeypatch):
    """A run that is over is gone on with, as after a kill while it was measured: its only checkpoint stays."""
    folder, teacher = tmp_path / "run", original()
    first = recovered(compressed(teacher), teacher, folder)
    (kept,) = folder.glob("checkpoint-*")
    monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda path, **_: pytest.fail(f"{path} was removed"))
    again = recovered(compressed(teacher), teacher, folder)
    assert [*folder.glob("checkpoint-*")] == [kept] and again["distance"] == first["distance"]


def test_what_no_pass_asks_for_is_not_counted_as_trained(tmp_path):
    teacher = original()
    teacher.beside = torch.nn.Linear(5, 5)
    more = recovered(compressed(teacher), teacher, tmp_path / "run")["trained_params"]
    del teacher.beside
    assert more == recovered(compressed(teacher), teacher, tmp_path / "bare")["trained_params"] > 0


def test_minutes_are_counted_over_interruptions(tmp_path, monkeypatch):
    """Each step takes 100 seconds of a clock."""
    folder, teacher, now = tmp_path / "run", original(), [0.0]
    student, advance = compressed(teacher), Training.advance

    def slow(run):
        now[0] += 100
        advance(run)

    plan = recovery(student, teacher, minutes=10.0, batch=2)
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Training, "advance", slow)

    def killing(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(plan, student, teacher, CROPS, folder, observe=killing)
    again = distil(plan, compressed(teacher), teacher, CROPS, folder)
    assert (again["steps"], again["seconds"]) == (6, 600.0)


def joined(tokens):
    """Those within and the finished ones, side by side."""
    return torch.cat([one.x for one in tokens], -1)


def test_the_original_sees_a_crop_once_and_gone_on_with_in_the_same_batch(tmp_path, monkeypatch):
    """Its tokens are kept, and are to the bit those that a training computes which keeps none."""
    teacher, seen = original(), []
    embed = teacher.stack.embed

    def recording(crop):
        seen.append(len(crop))
        return embed(crop)

    monkeypatch.setattr(teacher.stack, "embed", recording)
    groups = [[5, 1, 3], [0, 4, 2]]
    targets = Targets(teacher, (1,), Noise(6), groups, bfloat16=False)
    kept = [joined(targets.read(chosen)[1]) for chosen in (groups[0], groups[1], [4, 3])]
    assert seen == [1, 3, 3]  # the first asks how much there is to keep
    again = Targets(teacher, (1,), Noise(6), groups, bfloat16=False)  # after a kill
    assert torch.equal(joined(again.read([4, 3])[1]), kept[2])
    assert torch.equal(kept[2], torch.stack((kept[1][1], kept[0][2])))
    monkeypatch.setattr(kept_targets, "KEPT_BYTES", 0)
    none = Targets(teacher, (1,), Noise(6), groups, bfloat16=False)
    torch.testing.assert_close(joined(none.read([4, 3])[1]), kept[2])
    assert none.kept == {}
