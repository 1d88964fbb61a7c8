"""report.html: self-contained, true to the result, and its drawings checked pixel by pixel."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import hmr
from compress import Recipe, compress
from compress.card import formatted
from compress.policies.merge_layers import LayerPlan, MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.precision import Precision
from compress.policies.prune_width import PruneWidth
from compress.policy import MadeFor
from compress.tokens import DROPPED, Tokens
from diffusion.model.sizes import sizes_of
from diffusion.policy import DecoderPlan
from experiments.reports import chain, pictures, plots
from experiments.reports import compression as report
from hmr.body.files import load_body
from hmr.evaluation.predict import ROUNDS, times_faster
from hmr.models.head import HMROutput
from hmr.models.model import build
from hmr.world.synthetic import open_world
from tests.links import Links
from tests.planning import planned

SIZES = {"dim": 16, "depth": 4, "heads": 2, "mlp_dim": 16, "head_dim": 16, "head_depth": 1}
RECIPE = """\
schema_version: 1
name: "a<b> & c"
steps:
  - policy: merge_layers
    strategy: explicit
    windows: [[1, 2]]
  - policy: merge_tokens
    keep: 120
    per_layer: 40
"""


@pytest.fixture(scope="module")
def sample():
    return open_world("synth", "val", 1)[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "mine.yaml").write_text(RECIPE.replace('"a<b> & c"', "mine"))
    model = build("reference", SIZES).eval()
    model.name = "<i>small</i>"
    test, calib = (hmr.frames(f"synth:{split}", 4) for split in ("val", "calib"))
    compressed = compress(model, Recipe.load(str(folder / "mine.yaml")), calib=calib, test=test)
    out = folder / "out"
    compressed.save(out, {"report.html": report.page(compressed, test, calib, out).encode()})
    return out, compressed.result, (out / "report.html").read_text("utf-8")


def test_a_page_asks_for_nothing_from_anywhere(made):
    page = Links()
    page.feed(made[2])
    assert page.found and all(link.startswith(("data:image/png;base64,", "#")) for link in page.found)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "url(http" not in made[2] and "@import" not in made[2]


def test_a_name_with_markup_is_text(made):
    assert "&lt;i&gt;small&lt;/i&gt;" in made[2] and "<i>small" not in made[2]


def test_the_page_says_what_the_result_says(made):
    _, result, html = made
    for row in result["rows"]:
        assert formatted(row["mpjpe_mm"]) in html
    assert "Blocks 1 to 2 became one block, by operator slm" in html
    assert "Tokens merge outside of the person mask in blocks 0 to 1: 192 → 152 → 120." in html
    assert json.dumps(result["rows"][-1]["tokens"][-1]) in html


def test_the_page_is_hashed_with_the_artefact(made):
    assert "report.html" in json.loads((made[0] / "manifest.json").read_text())["files"]


def test_figures_are_well_formed_and_repeat():
    points = [plots.Point("a", 2.0, 100.0, 95.0, 106.0), plots.Point("b", 1.0, 101.0, 99.0, 103.0)]
    for draw in (
        lambda: plots.error_against_macs(points),
        lambda: plots.layer_map(8, [(2, 4)]),
        lambda: plots.similarity_map(torch.eye(4), [(1, 2)]),
        lambda: plots.error_against_depth([(4, 100.0), (3, 99.0), (2, None), (1, 250.0)], 3),
    ):
        figure = draw()
        assert ElementTree.fromstring(figure).tag.endswith("svg")
        assert figure == draw()


def test_the_layer_map_has_a_box_for_each_block_above_and_below():
    plain, merged = (len(re.findall(r'<g id="patch_', plots.layer_map(8, windows))) for windows in ([], [(2, 4)]))
    assert plain - (8 + 8) == merged - (8 + 6)
    assert ">2–4</text>" in plots.layer_map(8, [(2, 4)])


def ticks(figure: str) -> list[float]:
    """The numbers along the axes of a figure."""
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", figure)
    return [float(text.replace("\u2212", "-")) for text in texts if re.fullmatch(r"[\u2212\d.]+", text)]


def test_a_search_without_labels_is_drawn_from_0_to_where_a_model_is_broken():
    """The original's distance to itself is 0, and an axis up to 1.5 times that was blank."""
    path = [(8, 0.0), (7, 12.0), (6, 40.0), (5, None), (4, 500.0)]
    figure = plots.error_against_depth(path, 7, plots.FIDELITY)
    assert "distance to the original on calib, mm" in figure and "MPJPE" not in figure
    assert {0.0, 20.0, 40.0, 60.0, 80.0, 100.0} <= {*ticks(figure)} and max(ticks(figure)) <= 110
    alone = plots.error_against_depth([(8, 1e-6)], 8, plots.FIDELITY)
    assert {0.0, 0.2, 0.4, 0.6, 0.8, 1.0} <= {*ticks(alone)}


def test_fidelity_over_cost_begins_at_the_original():
    points = [plots.Point("0", 2.0, 0.0), plots.Point("1", 1.0, 30.0, 25.0, 36.0)]
    figure = plots.error_against_macs(points, plots.FIDELITY)
    assert "distance to the original, mm" in figure and "true GMACs per frame" in figure
    assert min(ticks(figure)) == 0.0 and 35.0 <= max(ticks(figure)) <= 45.0


def test_an_interval_without_width_holds_its_mean():
    """Where every recording rises alike, both ends are the mean but for rounding: no bar has a negative length."""
    row = {"mpjpe_mm": {"mean": 0.1 + 0.2}, "mpjpe_rise_mm": {"lo": 0.2, "hi": 0.2}, "macs": {"true": 1e9}}
    for mean in (0.1, 0.1 + 1e-15, 0.1 - 1e-15):
        found = report.point(1, row, {"mpjpe_mm": {"mean": mean}})
        assert found.low is not None and found.high is not None and found.low <= found.mm <= found.high


def test_one_recording_has_no_bar():
    row = {"mpjpe_mm": {"mean": 81.5}, "mpjpe_rise_mm": {"mean": 1.5, "lo": None, "hi": None}, "macs": {"true": 1e9}}
    bare = report.point(1, row, {"mpjpe_mm": {"mean": 80.0}})
    assert bare == plots.Point("1", 1.0, 81.5)
    barred = plots.Point("1", 1.0, 81.5, 80.5, 82.5)
    bars = [plots.error_against_macs([bare, *more]).count('id="LineCollection') for more in ([], [barred])]
    assert bars == [0, 1]


@pytest.mark.parametrize(
    "policy, words",
    [
        (MergeTokens(keep=100, mode="drop"),
         "Of 192 tokens, the 92 least covered by the person are dropped at the input."),
        (MergeTokens(keep=192), "All tokens stay."),
        (MergeTokens(keep=90, protect="none", start=1),
         "Tokens merge anywhere in the picture in blocks 1 to 3: 192 → 152 → 112 → 90."),
        (PruneWidth(), "0 attention heads and 0 hidden units were removed from 4 blocks."),
        (Precision(dtype="bfloat16"), "The blocks compute in bfloat16."),
        (MergeLayers(strategy="explicit", windows=((0, 1), (2, 3)), operator="mean"),
         "Blocks 0 to 1, 2 to 3 became one block each, by operator mean."),
    ],
)  # fmt: skip
def test_plans_describe_themselves(policy, words):
    assert planned(policy, build("reference", SIZES)).describe() == words


def test_the_depth_that_a_search_of_maps_took_is_marked(monkeypatch):
    """A map in the place of one block leaves one block less, though its window is as long as it is wide."""
    step = {"windows": [[1, 1]], "layers": 3, "error_mm": 99.0}
    measured = {"path": [{"windows": [], "layers": 4, "error_mm": 100.0}, step], "original_mm": 100.0, "error_mm": 99.0}
    plan = LayerPlan(
        made_for=MadeFor.of(build("reference", SIZES)), windows=((1, 1),), operator="linear", maps=("a",),
        measured=measured,
    )  # fmt: skip
    marked: list[int] = []
    monkeypatch.setattr(plots, "error_against_depth", lambda path, chosen, error: marked.append(chosen))
    report.path_of([plan])
    assert marked == [3] and plan.describe().startswith("Block 1 became one linear map")


def test_two_models_are_timed_in_turn_on_the_same_frames():
    """Both see the same frames in every round, side by side."""
    model, frames = build("reference", SIZES).eval(), hmr.frames("synth:val", 4)
    seen: list[int] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    assert times_faster(model, model, frames) > 0 and seen == [4] * 2 * (1 + ROUNDS)


def test_a_decoder_describes_itself():
    made: dict[str, Any] = {"kind": "diffusion", "target": "latent", "objective": "hybrid"}
    facts: dict[str, Any] = {**made, "encoder": "", "steps": 1, "seed": 0}
    sizes, made_for = sizes_of("reference"), MadeFor.of(build("reference", SIZES))
    plan = DecoderPlan(made_for=made_for, sizes=sizes, weights="", **facts)
    assert plan.describe() == "Clips of 81 frames are decoded by diffusion in 1 step, in the place of the pose head."


def test_a_patch_with_a_token_of_its_own_keeps_its_pixels(sample):
    tokens = Tokens.of(torch.zeros(1, 192, 4), (16, 12))
    drawn = pictures.tokens_drawn(replace(sample, mask=np.zeros_like(sample.mask)), tokens, 0)
    assert (drawn == sample.image.repeat(2, 0).repeat(2, 1)).all()


def test_the_person_mask_is_outlined(sample):
    tokens = Tokens.of(torch.zeros(1, 192, 4), (16, 12))
    drawn, mask = pictures.tokens_drawn(sample, tokens, 0), sample.mask.repeat(2, 0).repeat(2, 1)
    changed = (drawn != sample.image.repeat(2, 0).repeat(2, 1)).any(2)
    edge = np.pad(mask, 1, mode="edge")
    outside = ~(edge[:-2, 1:-1] & edge[2:, 1:-1] & edge[1:-1, :-2] & edge[1:-1, 2:])  # has a neighbour off the person
    assert (changed <= mask).all() and changed[mask & outside].all()
    assert 0 < changed.sum() < 4 * (mask & outside).sum()


def test_merges_that_took_the_person_are_red(sample):
    source = torch.arange(192)
    source[1], source[101] = 0, 100
    tokens = replace(Tokens.of(torch.zeros(1, 192, 4), (16, 12)), source=source[None])
    tokens = replace(tokens, protected=torch.arange(192)[None] == 100)
    drawn = pictures.tokens_drawn(replace(sample, mask=np.zeros_like(sample.mask)), tokens, 0)
    side = 2 * sample.image.shape[0] // 16  # of a patch, drawn twice as large
    assert (drawn[0, 5] == 255).all() and (drawn[8 * side, 4 * side + 5] == pictures.FORCED).all()


def test_kept_merged_and_dropped_are_counted():
    source = torch.arange(192)
    source[1], source[12], source[191], source[100] = 0, 0, DROPPED, 99
    tokens = replace(Tokens.of(torch.zeros(1, 192, 4), (16, 12)), source=source[None])
    assert pictures.counted(tokens, 0) == (186, 2, 5, 1)


def test_merged_patches_share_their_mean_and_dropped_ones_are_grey(sample):
    source = torch.arange(192)
    source[1], source[12], source[191] = 0, 0, DROPPED
    tokens = replace(Tokens.of(torch.zeros(1, 192, 4), (16, 12)), source=source[None])
    drawn = pictures.tokens_drawn(replace(sample, mask=np.zeros_like(sample.mask)), tokens, 0)
    side = sample.image.shape[0] // 16
    patches = sample.image.reshape(16, side, 12, side, 3).transpose(0, 2, 1, 3, 4)  # (rows, columns, side, side, 3)
    mean = np.concatenate([patches[0, 0], patches[0, 1], patches[1, 0]]).reshape(-1, 3).mean(0)
    for y, x in ((1, 1), (1, 3), (3, 1)):  # the middles of the three patches, drawn twice as large
        assert np.abs(drawn[y * side, x * side] - mean).max() <= 1
    inside, border = drawn[10, 2 * side - 1], drawn[10, 4 * side - 1]
    assert (inside != 255).any() and (border == 255).all()  # a border around the group, none inside it
    assert set(np.unique(drawn[-2 * side :, -2 * side :])) == {140, 205}


def test_the_true_body_covers_the_subject(sample):
    """Drawn from the true pose and camera, the mesh lies where the renderer put it."""
    rotations = torch.from_numpy(sample.rotations)[None]
    camera = torch.from_numpy(sample.camera)[None]
    output = HMROutput(rotations[:, :1], rotations[:, 1:], torch.from_numpy(sample.betas)[None], camera, camera)
    drawn = pictures.body_drawn(sample, load_body(), output, 0, "original")
    changed = (drawn != sample.image).any(2)
    both = (changed & sample.mask).sum()  # clothes and hair stand off the body, what is in front of it covers it
    assert both / changed.sum() > 0.8 and both / sample.mask.sum() > 0.7


def test_frames_are_spread_from_the_first_to_the_last():
    assert list(pictures.spread(101, 3)) == [0, 50, 100]
    assert list(pictures.spread(2, 6)) == [0, 1]


def test_the_chain_has_a_row_for_each_stage(made, tmp_path):
    out, _, _ = made
    chain.main(str(out), tmp_path / "chain.png", original="reference-small", data="synth:val", frames=2)
    with Image.open(tmp_path / "chain.png") as picture:
        width, height = picture.size
        assert picture.mode == "P"  # 256 colours at most
    assert height > 1.8 * width  # four rows of two crops, each a third taller than wide


def test_rows_of_the_chain_stand_in_their_order():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]
    rows = [[np.full((256, 192, 3), colour, np.uint8)] * 2 for colour in colours]
    with Image.open(BytesIO(chain.small(plots.png(chain.drawn(rows))))) as picture:
        shades = np.asarray(picture.convert("RGB"), int)
    middle = [shades[round((i + 0.5) * len(shades) / 4), shades.shape[1] // 4] for i in range(4)]
    assert all(np.abs(seen - colour).max() < 12 for seen, colour in zip(middle, colours, strict=True))
