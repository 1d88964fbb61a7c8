"""Recovery: it follows the original, as a policy, as a plan and from a recipe."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from compress.artefact import read_plans
from compress.distillation.changes import untouched
from compress.distillation.distances import averaged, token_distance
from compress.distillation.targets import matched, seen
from compress.distillation.training import Distillation, DistillationLoss, distil, order
from compress.errors import BadInput
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.recover import Recover, RecoverPlan
from compress.stack import Schedule, entering, through
from compress.tokens import DROPPED, Tokens, match
from compress.training.loop import Training
from compress.training.task import OptimizerStep
from hmr.checkpoints.files import save
from hmr.evaluation import evaluate
from hmr.models.model import HMRModel, build
from tests.planning import applied
from tests.recovery import CROPS, DISTANCE, SIZES, Noise, compressed, original, outputs, recovered, recovery

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


def test_tokens_within_are_compared_by_the_patches_that_they_stand_for() -> None:
    torch.manual_seed(0)
    teacher = build("hmr2", {**SIZES, "depth": 6}).eval()
    student = copy.deepcopy(teacher)
    student.schedule, student.protect = Schedule(drop=92), 0.0
    assert matched(student, teacher) == (1, 3) and matched(original(), original()) == ()
    mapped = compressed(teacher, MergeLayers(strategy="explicit", windows=((2, 3),)))
    assert matched(mapped, teacher) == ()
    crop, mask = CROPS.read(range(2))
    with torch.no_grad():
        found = DistillationLoss(student, teacher, DISTANCE)((crop, mask), seen(teacher, crop, mask, (1, 3)))
        apart = [squares(*(after(model, end, crop, mask) for model in (student, teacher))) for end in (2, 4)]
    assert found["loss"].item() - found["distance"].item() == pytest.approx(sum(apart) / 2, rel=1e-3)
    assert min(apart) > 1e-5


def after(model: HMRModel, blocks: int, crop: torch.Tensor, mask: torch.Tensor) -> Tokens:
    """A model's tokens after its first blocks."""
    entered = entering(model.stack, crop, model.person(crop, mask), model.schedule)
    return through(model.stack, model.backbone.blocks[:blocks], entered)


def squares(kept: Tokens, whole: Tokens) -> float:
    """Mean squared difference of normalised tokens, of those that were kept."""
    found = []
    for b in range(len(kept.x)):
        places = [p for p in range(192) if kept.source[b, p] != DROPPED]
        one, two = (
            (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
            for x in (kept.x[b], whole.x[b, places])
        )
        found.append((one - two).square().mean().item())
    return sum(found) / len(found)


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


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_wrong_masks_are_the_students_alone(share):
    teacher = original()
    student = compressed(teacher)
    plan = recovery(student, teacher, steps=1, batch=4, wrong_masks=share)
    torch.manual_seed(0)
    (crop, mask), wanted = Distillation(plan, student, teacher, CROPS, 0).batch(OptimizerStep(0))
    exact = recovery(student, teacher, steps=1, batch=4)
    (same, true), aims = Distillation(exact, student, teacher, CROPS, 0).batch(OptimizerStep(0))
    assert torch.equal(crop, same) and all(torch.equal(a.x, b.x) for a, b in zip(wanted, aims, strict=True))
    assert torch.equal(mask, true) == (share == 0.0)
    assert ("wrong_masks" in plan.decided()) == (share > 0)


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
    assert buffers and not moved & buffers
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
        plan.shape(build("hmr2", {**SIZES, "depth": 3}))
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
