"""Artefacts come back whole and equal, or not at all."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from compress import artefact
from compress.atomic import atomic_folder
from compress.errors import BadInput
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policy import Plan
from hmr import load
from hmr.models.model import HMRModel, build
from tests import sizes
from tests.campaign.apart import apart
from tests.planning import applied, planned

SIZES = {**sizes.TINY, "dim": 16, "depth": 4, "mlp_dim": 16, "head_dim": 16}
STEPS = (MergeLayers(strategy="explicit", windows=((1, 2),), operator="mean"), MergeTokens(keep=100, per_layer=50))
CROPS = torch.randn(2, 3, 256, 192, generator=torch.Generator().manual_seed(1))
MASK = torch.zeros(2, 256, 192)
MASK[:, 60:200, 50:140] = 1


def compressed(seed: int = 0, measured: float = 0.0) -> tuple[HMRModel, list[Plan]]:
    torch.manual_seed(seed)
    model = build("hmr2", SIZES).eval()
    plans: list[Plan] = []
    for step in STEPS:
        plans.append(planned(step, model).model_copy(update={"measured": {"error_mm": measured}}))
        applied(plans[-1], model)
    return model, plans


def origin(base: str = "0" * 64) -> artefact.Origin:
    base_model = artefact.Base(name="tiny", architecture="hmr2", sizes=SIZES, sha256=base)
    return artefact.Origin(base=base_model, seed=0, commit="c0ffee", versions={"torch": torch.__version__})


def result_of(made: str) -> dict[str, bytes]:
    return {"result.json": artefact.canonical({"artefact": {"id": made}, "rows": []})}


def saved(folder: Path, seed: int = 0, measured: float = 0.0, base: str = "0" * 64) -> str:
    model, plans = compressed(seed, measured)
    return artefact.save(folder, model, plans, origin(base), "schema_version: 1\n", "# tiny\n", result_of)


def features(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(CROPS, MASK).features


def test_a_loaded_model_gives_equal_outputs(tmp_path):
    made = saved(tmp_path / "out")
    model, _ = compressed()
    again = load(tmp_path / "out")
    assert isinstance(again, HMRModel) and not again.training
    assert torch.equal(features(model), features(again))
    assert again.state_dict().keys() == model.state_dict().keys()
    assert json.loads((tmp_path / "out" / "result.json").read_text())["artefact"]["id"] == made
    assert artefact.read_manifest(tmp_path / "out").id == made


def test_a_users_own_model_or_builder_takes_the_place_of_build(tmp_path):
    saved(tmp_path / "out")
    own = build("hmr2", SIZES)
    by_builder = artefact.load(tmp_path / "out", lambda architecture, sizes: build(architecture, sizes))
    by_model = artefact.load(tmp_path / "out", own)
    assert by_model is own
    assert torch.equal(features(by_builder), features(by_model))


def test_the_id_is_of_weights_and_decisions_alone(tmp_path):
    first = saved(tmp_path / "a")
    assert saved(tmp_path / "b", measured=3.0) == first
    assert len({first, saved(tmp_path / "c", seed=1), saved(tmp_path / "d", base="1" * 64)}) == 3


def test_a_model_of_another_version_is_refused_with_the_version_that_knew_it(tmp_path):
    saved(tmp_path / "out")
    path = tmp_path / "out" / artefact.MANIFEST
    manifest = artefact.read_manifest(tmp_path / "out")
    base = manifest.origin.base.model_copy(update={"sizes": {**SIZES, "stem": "conv"}})
    older = manifest.origin.model_copy(update={"base": base, "commit": "0123abcd"})
    path.write_bytes(manifest.model_copy(update={"origin": older}).to_bytes())
    with pytest.raises(BadInput, match=r"made by fasthmr at 0123abcd .*stem.* compress it again"):
        load(tmp_path / "out")


def test_a_flipped_byte_is_refused_wherever_it_is(tmp_path):
    saved(tmp_path / "out")
    files = sorted((tmp_path / "out").iterdir())
    rng = random.Random(0)
    places = [(file, rng.randrange(file.stat().st_size)) for file in (*files * 10, *rng.choices(files, k=40))]
    assert len(places) == 100
    for file, place in places:
        content = bytearray(file.read_bytes())
        content[place] ^= rng.randrange(1, 256)
        whole = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(BadInput, match=str(tmp_path)):
            load(tmp_path / "out")
        file.write_bytes(whole)
    load(tmp_path / "out")


@pytest.mark.parametrize("name", [artefact.MANIFEST, *artefact.NEEDED, "result.json"])
def test_a_missing_or_cut_file_is_named(name, tmp_path):
    saved(tmp_path / "out")
    path = tmp_path / "out" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match=name):
        load(tmp_path / "out")
    path.unlink()
    with pytest.raises(BadInput, match=name):
        load(tmp_path / "out")


def rewritten(folder: Path, **contents: bytes) -> None:
    """Replace files as someone would who makes the hashes right again."""
    manifest = artefact.read_manifest(folder)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    files = {**manifest.files, **{name: artefact.sha256(content) for name, content in contents.items()}}
    plans = artefact.read_plans(folder, (folder / "plan.json").read_bytes())
    made = artefact.artefact_id(manifest.origin.base.sha256, plans, files["model.safetensors"])
    (folder / artefact.MANIFEST).write_bytes(manifest.model_copy(update={"files": files, "id": made}).to_bytes())


def test_whoever_may_read_a_plan_may_read_the_weights(tmp_path):
    saved(tmp_path / "out")
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1


def test_plans_for_another_depth_are_refused_with_right_hashes_too(tmp_path):
    saved(tmp_path / "out")
    plans = json.loads((tmp_path / "out" / "plan.json").read_text())
    plans[1]["made_for"]["depth"] = 4
    rewritten(tmp_path / "out", **{"plan.json": json.dumps(plans).encode()})
    with pytest.raises(BadInput, match="4 blocks, this model has 3: put merge_tokens after merge_layers"):
        load(tmp_path / "out")


def test_weights_of_another_model_are_refused_with_right_hashes_too(tmp_path):
    saved(tmp_path / "out")
    other = tmp_path / "other.safetensors"
    artefact.write_weights(build("hmr2", {**SIZES, "mlp_dim": 8, "depth": 3}), other)
    rewritten(tmp_path / "out", **{artefact.WEIGHTS: other.read_bytes()})
    with pytest.raises(BadInput, match=r"weights do not fit this model, first '.*mlp"):
        load(tmp_path / "out")
    rewritten(tmp_path / "out", **{"model.safetensors": b"\x80\x04." * 100})
    with pytest.raises(BadInput, match="not a safetensors file"):
        load(tmp_path / "out")


def test_what_lies_outside_the_folder_is_not_read(tmp_path):
    saved(tmp_path / "out")
    (tmp_path / "secret").write_text("")
    manifest = artefact.read_manifest(tmp_path / "out")
    files = {**manifest.files, "../secret": artefact.sha256(b"")}
    (tmp_path / "out" / artefact.MANIFEST).write_bytes(manifest.model_copy(update={"files": files}).to_bytes())
    with pytest.raises(BadInput, match="secret"):
        load(tmp_path / "out")


def test_a_taken_place_is_left_alone(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file", "file/below"):
        with pytest.raises(BadInput, match=name):
            saved(tmp_path / name)
    with pytest.raises(BadInput, match="cannot be read"):
        saved(tmp_path / ("n" * 300))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "letter.txt"]
    (tmp_path / "empty").mkdir()
    saved(tmp_path / "empty")
    load(tmp_path / "empty")


def test_a_folder_that_fails_midway_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out") as folder:
        (folder / "first").write_text("half")
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_kill_9_leaves_nothing_or_a_whole_artefact(tmp_path):
    """A process writes one artefact after the other until it is killed."""
    (model, plans), rng, count = compressed(), random.Random(0), 0

    def write() -> None:
        for i in range(100_000):
            artefact.save(tmp_path / f"out-{i}", model, plans, origin(), "", "# tiny")

    for _ in range(4):
        assert apart(write, tmp_path, killed=0.1 + 0.3 * rng.random()).code == -signal.SIGKILL
        for path in [path for path in tmp_path.iterdir() if not path.name.startswith(".")]:
            load(path)
            shutil.rmtree(path)
            count += 1
    assert count > 0
