"""Recovery: it follows the original, forgets nothing when it is killed, and takes nobody else's checkpoint."""

from __future__ import annotations

import copy
import json
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from compress.artefact import read_plans
from compress.context import Context
from compress.errors import BadInput
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.recover import (
    Distillation,
    Recover,
    RecoverPlan,
    averaged,
    distil,
    order,
    token_distance,
    untouched,
)
from compress.tokens import DROPPED, Tokens, match
from compress.training import checkpoint, loop
from compress.training.loop import Training
from hmr.body.files import load_body
from hmr.checkpoints.files import save
from hmr.evaluation import evaluate
from hmr.models.model import HMRModel, build
from hmr.training.distance import distance
from tests import sizes
from tests.planning import applied, planned

SIZES = {**sizes.TINY, "depth": 4, "head_mlp_dim": 24}
DISTANCE = partial(distance, load_body("open"))


class Noise:
    """Crops of smooth noise, and a box as mask."""

    distance = staticmethod(DISTANCE)

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Any) -> tuple[Tensor, Tensor]:
        generators = [torch.Generator().manual_seed(i) for i in indices]
        coarse = torch.stack([torch.randn(3, 8, 6, generator=generator) for generator in generators])
        masks = torch.zeros(len(generators), 256, 192)
        for i, index in enumerate(indices):
            masks[i, 60 + index : 200, 50:140] = 1
        return torch.nn.functional.interpolate(coarse, scale_factor=32), masks

    def provenance(self) -> dict[str, Any]:
        return {}


CROPS = Noise(12)


def original(seed: int = 0) -> HMRModel:
    """A tiny random model whose blocks and head say something."""
    torch.manual_seed(seed)
    model = build("reference", SIZES).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and ("blocks" in name or "dec" in name):
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def compressed(teacher: HMRModel, *steps: Any) -> HMRModel:
    student = copy.deepcopy(teacher)
    for step in steps or (MergeLayers(strategy="explicit", windows=((1, 2),)),):
        applied(planned(step, student), student)
    return student


def recovered(student, teacher, folder, steps=4, **more):
    plan = recovery(student, teacher, steps=steps, lr=1e-3, batch=4)
    return distil(plan, student, teacher, CROPS, folder, **more)


def recovery(student: HMRModel, teacher: HMRModel, **asked: Any) -> Any:
    """The plan of a training."""
    return Recover(**asked).plan(student, Context(teacher))


def outputs(model: HMRModel) -> Tensor:
    crop, mask = CROPS.read(range(3))
    with torch.no_grad():
        said = model(crop, mask)
    return torch.cat([said.rotations.flatten(1), said.betas, said.camera, said.features], 1)


# ---- what is compared


@st.composite
def reductions(draw) -> tuple[Tokens, Tokens]:
    """(student's, teacher's) tokens of a 4 x 3 grid: merged twice or dropped, with or without a prefix token."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    prefix = draw(st.integers(0, 1))
    teacher = Tokens.of(torch.randn(2, prefix + 12, 5, generator=generator), (4, 3), prefix)
    student = teacher.protecting(torch.rand(2, 12, generator=generator) < 0.3)
    if draw(st.booleans()):
        keep = prefix + torch.rand(2, 12, generator=generator).argsort(1)[:, :10].sort(1).values
        first = torch.arange(prefix).expand(2, -1)
        student = student.kept(torch.cat((first, keep), 1))
    for r in draw(st.lists(st.integers(0, 2), max_size=2)):
        found = match(student.x, student.protected, r, prefix=prefix)
        student = student.reduced(found.assign, student.x.shape[1] - r)
    return student, teacher


@given(reductions())
@settings(max_examples=60)
def test_merged_tokens_are_compared_with_the_mean_of_their_patches(pair: tuple[Tokens, Tokens]) -> None:
    student, teacher = pair
    found = averaged(student, teacher)
    for b in range(2):
        for i in range(student.x.shape[1]):
            if i < student.prefix:
                wanted = teacher.x[b, i]
            else:
                patches = [p for p in range(12) if student.source[b, p] == i]
                assert patches and DROPPED not in patches
                wanted = torch.stack([teacher.x[b, teacher.prefix + p] for p in patches]).mean(0)
            torch.testing.assert_close(found[b, i], wanted)
    assert token_distance(teacher, teacher) == 0
    torch.testing.assert_close(token_distance(student, teacher), (student.x - found).square().mean() / teacher.x.var())


def test_nothing_can_be_learnt_of_a_teacher_that_dropped_tokens() -> None:
    tokens = Tokens.of(torch.randn(1, 12, 5), (4, 3))
    with pytest.raises(ValueError, match="dropped"):
        averaged(tokens, tokens.kept(torch.arange(6)[None]))


def test_the_distance_of_equal_outputs_is_nothing_and_of_others_is_something() -> None:
    one, two = original(), original(1)
    crop, _ = CROPS.read(range(3))
    with torch.no_grad():
        assert DISTANCE(one(crop), one(crop)) == 0
        assert DISTANCE(one(crop), two(crop)) > 0.01


# ---- what is learnt


def test_the_original_has_nothing_to_recover():
    teacher = original()
    student = copy.deepcopy(teacher)
    plan = recovery(student, teacher, steps=4)
    assert plan.empty and (plan.steps, plan.minutes) == (0, None)
    assert torch.equal(outputs(student), outputs(teacher))
    applied(plan, student)  # a plan without anything to learn can be followed


def test_an_equal_student_starts_at_no_distance():
    teacher = original()
    student = copy.deepcopy(teacher)
    plan = recovery(student, original(1), steps=1)
    assert Distillation(plan, student, teacher, CROPS, 0).held_out_distance() < 1e-8


@pytest.mark.parametrize(
    "steps",
    [
        (MergeLayers(strategy="explicit", windows=((1, 2),)),),
        (MergeLayers(strategy="explicit", windows=((2, 3),), operator="drop"), MergeTokens(keep=100, per_layer=46)),
        (MergeTokens(keep=20, mode="drop"),),
    ],
)
def test_a_few_dozen_steps_bring_held_out_crops_much_nearer(tmp_path, steps):
    teacher = original()
    student = compressed(teacher, *steps)
    said = outputs(teacher)
    off = (outputs(student) - said).square().mean()
    shapes = {name: value.shape for name, value in student.state_dict().items()}
    before = copy.deepcopy(teacher.state_dict())
    plan = recovery(student, teacher, steps=36, lr=5e-3, batch=4)
    crops = Noise(40)
    seen: list[int] = []
    found = distil(plan, student, teacher, crops, tmp_path / "run", observe=lambda p: seen.append(p.step))
    assert found["distance"]["after"] < 0.6 * found["distance"]["before"]
    assert (outputs(student) - said).square().mean() < 0.7 * off
    assert seen == list(range(1, 37)) and found["steps"] == 36
    assert {name: value.shape for name, value in student.state_dict().items()} == shapes
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in [*student.parameters(), *teacher.parameters()])


def test_bfloat16_is_of_products_and_not_of_weights(tmp_path):
    teacher = original()
    student = compressed(teacher)
    plan = recovery(student, teacher, steps=3, lr=1e-3, batch=2, precision="bfloat16")
    measured = distil(plan, student, teacher, CROPS, tmp_path / "run")
    assert measured["distance"]["after"] < measured["distance"]["before"]
    assert {value.dtype for value in student.state_dict().values() if value.is_floating_point()} == {torch.float32}


def test_what_sees_and_does_what_it_did_is_frozen(tmp_path):
    teacher = original()
    student = compressed(teacher, MergeLayers(strategy="explicit", windows=((2, 3),)))
    before, modes = copy.deepcopy(student.state_dict()), [module.training for module in student.modules()]
    recovered(student, teacher, tmp_path / "run")
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith(("backbone.blocks.1", "backbone.blocks.2", "backbone.last", "smpl_")) for name in moved)
    buffers = {name for name, _ in student.named_buffers()}
    assert any("running_mean" in name for name in buffers) and not moved & buffers
    assert [module.training for module in student.modules()] == modes


@pytest.mark.parametrize(
    "steps, lowest",
    [
        ([], 4),
        ([MergeLayers(strategy="explicit", windows=((1, 2),))], 0),
        ([MergeLayers(strategy="explicit", windows=((2, 3),), operator="mean")], 1),
        ([MergeLayers(strategy="explicit", windows=((2, 3),), operator="drop")], 2),
        ([MergeTokens(keep=150, per_layer=60, start=2)], 2),
        ([MergeTokens(keep=150, mode="drop")], 0),
    ],
)
def test_blocks_below_the_first_change_are_untouched(steps, lowest):
    teacher = original()
    student = compressed(teacher, *steps) if steps else copy.deepcopy(teacher)
    assert untouched(student, teacher) == lowest


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
def test_an_epoch_shows_a_crop_once_and_follows_from_seed_and_step(count, batch, seed):
    steps = count // min(batch, count)
    for epoch in range(2):
        shown = [i for step in range(steps) for i in order(count, batch, epoch * steps + step, seed)]
        assert len(set(shown)) == len(shown) == steps * min(batch, count)
        assert set(shown) <= set(range(count))


# ---- killed and gone on


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


class Slow(Noise):
    """Crops that take 100 seconds of a clock to read."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.now = 0.0

    def read(self, indices: Any) -> tuple[Tensor, Tensor]:
        self.now += 100
        return super().read(indices)


def test_minutes_are_counted_over_interruptions(tmp_path, monkeypatch):
    folder, teacher, crops = tmp_path / "run", original(), Slow(12)
    student = compressed(teacher)
    plan = recovery(student, teacher, minutes=10.0, batch=2)
    monkeypatch.setattr(loop.time, "monotonic", lambda: crops.now)

    def killing(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(plan, student, teacher, crops, folder, observe=killing)
    again = distil(plan, compressed(teacher), teacher, crops, folder)
    assert (again["steps"], again["seconds"]) == (6, 600.0)


# ---- as a policy and a plan


@pytest.mark.parametrize(
    "fields",
    [{}, {"steps": 1, "minutes": 1.0}, {"steps": 0}, {"minutes": 0.0}, {"steps": 1, "lr": 0.0}, {"steps": 1, "stp": 1}],
)
def test_a_recovery_has_one_budget(fields):
    with pytest.raises(ValidationError):
        Recover(**fields)


def test_a_plan_survives_json_and_changes_no_structure(tmp_path):
    model = original()
    plan = recovery(model, original(1), minutes=0.5, lr=1e-4)
    assert read_plans(tmp_path, json.dumps([plan.model_dump(mode="json")]).encode()) == (plan,)
    before = copy.deepcopy(model.state_dict())
    plan.shape(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(BadInput, match="give it calibration frames"):
        applied(plan, model)
    with pytest.raises(BadInput, match="made for 4 blocks"):
        plan.shape(build("reference", {**SIZES, "depth": 3}))
    assert isinstance(plan, RecoverPlan) and not plan.empty


def test_too_few_crops_and_a_run_that_diverges_are_told(tmp_path):
    teacher = original()
    plan = recovery(compressed(teacher), teacher, steps=3, lr=1e30, batch=2)
    with pytest.raises(BadInput, match="two crops"):
        distil(plan, compressed(teacher), teacher, Noise(1), tmp_path / "a")
    with pytest.raises(BadInput, match="lower lr"):
        distil(plan, compressed(teacher), teacher, CROPS, tmp_path / "b")


# ---- from a recipe


RECIPE = """schema_version: 1
name: mine
steps:
  - {policy: merge_layers, strategy: explicit, windows: [[1, 2]]}
  - {policy: merge_tokens, keep: 150, per_layer: 42}
  - {policy: recover, steps: 3, batch: 2, lr: 0.001}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a tiny model, its home and a recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(evaluate, "POSES", 20)
    save(original(), tmp_path / "tiny.safetensors")
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return tmp_path


def test_compress_recovers_and_what_it_learnt_comes_back(fasthmr, place, monkeypatch):
    words = ("compress", "./mine.yaml", "--model", "tiny.safetensors", "--data", "synth", "--frames", 4, "--json")
    code, out, _ = fasthmr(*words, "--out", "one")
    assert code == 0
    one = json.loads(out)
    assert [row["step"] for row in one["rows"]] == ["original", "merge_layers", "merge_tokens", "recover"]
    before, after = one["rows"][2:]
    assert after["changed"] and after["measured"]["steps"] == 3
    assert after["mpjpe_mm"] != before["mpjpe_mm"]
    assert (after["macs"], after["params"]) == (before["macs"], before["params"])
    source = one["provenance"]["recover"]
    assert (source["name"], source["split"], source["frames"]) == ("synth", "train", 4096)
    assert not list((place / "home" / "recover").iterdir())

    code, out, _ = fasthmr("evaluate", "one", "--data", "synth", "--frames", 4, "--json")
    assert code == 0
    assert json.loads(out)["rows"][0]["mpjpe_mm"] == pytest.approx(after["mpjpe_mm"])

    def killed(run):
        if run.progress.step == 2:
            raise KeyboardInterrupt
        advance(run)

    advance = Training.advance
    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", killed)
        patch.setitem(distil.__kwdefaults__, "checkpoint_minutes", 0)
        assert fasthmr(*words, "--out", "two")[0] not in (0, 2) and not (place / "two").exists()
    assert [path.name for path in (place / "home" / "recover").rglob("checkpoint-*")] == ["checkpoint-00000002"]
    code, out, _ = fasthmr(*words, "--out", "two")
    assert (code, json.loads(out)["artefact"]["id"]) == (0, one["artefact"]["id"])


def test_a_recipe_that_changed_nothing_has_nothing_to_recover(fasthmr, place):
    (place / "mine.yaml").write_text(RECIPE.replace("[[1, 2]]", "[]").replace("150, per_layer: 42", "192"))
    code, out, _ = fasthmr(
        *("compress", "./mine.yaml", "--model", "tiny.safetensors", "--data", "synth:val"),
        *("--frames", 4, "--out", "out", "--json"),
    )
    assert code == 0
    last = json.loads(out)["rows"][-1]
    assert not last["changed"] and last["mpjpe_rise_mm"] == {"mean": 0, "lo": 0, "hi": 0}


@pytest.mark.parametrize(
    "change, hint",
    [
        (("steps: 3", "minutes: 1, steps: 3"), "either minutes or steps"),
        (("steps: 3, ", ""), "either minutes or steps"),
        (("steps: 3", "steps: 0"), "steps[2].steps"),
        (("batch", "bacth"), "did you mean 'batch'"),
    ],
)
def test_wrong_recipes_are_one_sentence(fasthmr, place, change, hint):
    (place / "mine.yaml").write_text(RECIPE.replace(*change))
    code, out, err = fasthmr("recipe", "check", "./mine.yaml")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert hint in err
