"""The maths of levers at equal MACs: who ranks first, what costs as much, and that nothing changes nothing."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.context import Context
from compress.stack import through
from compress.tokens import Tokens, coverage
from experiments.paper.equal_macs.following import Answers, dropping, recovered
from experiments.paper.equal_macs.importance import (
    SPARED,
    RankedModel,
    Ranking,
    SmallerPicture,
    attending,
    macs_of,
    most_within,
    places_in,
    query_attention,
    saved_macs,
)
from experiments.paper.equal_macs.levers import MASKS, rankings
from hmr.models.model import HMRModel, build
from tests.recovery import DISTANCE, Noise
from tests.sizes import TINY

CROPS = torch.randn(3, 3, 224, 168, generator=torch.Generator().manual_seed(1))
MASK = torch.zeros(3, 224, 168)
MASK[0, 40:150, 60:110], MASK[1, :, :20], MASK[2, 100:110, 100:160] = 1, 1, 1
EVERY = [one for score in ("norm", "class", "query", "whole") for rings in MASKS for one in rankings(score, rings)[-1:]]


@pytest.fixture
def model() -> HMRModel:
    torch.manual_seed(0)
    made = build("reference", {**TINY, "depth": 4, "head_heads": 1, "head_depth": 2}).eval()
    for parameter in made.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.15)
    return made


def scored(model: HMRModel, ranking: Ranking) -> Tensor:
    """A ranking's scores (B, N0), each by the plain formula."""
    stack, blocks = model.stack, list[Any](model.stack.blocks)
    before = [stack.embed(CROPS)]
    for block in blocks:
        before.append(through(stack, [block], before[-1]))
    if ranking.score == "norm":
        return ranking.sign * before[ranking.at].x[:, 1:].square().sum(-1).sqrt()
    if ranking.score == "class":
        block = blocks[ranking.at - 1]
        x = block.norm1(before[ranking.at - 1].x)
        q, k, _ = block.attn.qkv(x).unflatten(-1, (3, block.attn.heads, -1)).permute(2, 0, 3, 1, 4)
        return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)[:, :, 0, 1:].mean(1)
    layers = 1 if ranking.score == "query" else 2
    return query_attention(model.head, stack.finish(before[ranking.at or 4]).x, layers)[:, 1:]


def brute(scores: list[float], person: list[bool], rings: int | None, keep: int) -> list[int]:
    """The first patches of a ranking, in the picture's order."""

    def near(i: int) -> int:
        if rings is None:
            return 0
        apart = [max(abs(i // 12 - j // 12), abs(i % 12 - j % 12)) for j in range(len(person)) if person[j]]
        return max(0, 1 + rings - min(apart))

    return sorted(sorted(range(len(scores)), key=lambda i: (-near(i), -scores[i]))[:keep])


@torch.no_grad()
@pytest.mark.parametrize("ranking", EVERY, ids=str)
def test_the_first_of_a_ranking_are_left(model: HMRModel, ranking: Ranking) -> None:
    tokens = RankedModel(model, ranking, 70).encode(CROPS, MASK)
    person, scores = coverage(MASK, model.grid) > 0, scored(model, ranking)
    for b in range(3):
        left = brute(scores[b].tolist(), person[b].tolist(), ranking.rings, 70)
        assert (tokens.source[b] >= 0).nonzero().flatten().tolist() == left
    assert tokens.x.shape == (3, 71, 32)


@torch.no_grad()
def test_the_first_of_a_ranking_merge_last(model: HMRModel) -> None:
    """With 100 left, 92 of the 128 that are not spared merge among themselves."""
    ranking = Ranking("norm", 0, 1, 1)
    tokens = RankedModel(model, ranking, 100, merge=True).encode(CROPS, MASK)
    person, scores = coverage(MASK, model.grid) > 0, scored(model, ranking)
    for b in range(3):
        spared = brute(scores[b].tolist(), person[b].tolist(), 1, SPARED)
        assert tokens.size[b, tokens.source[b, spared]].eq(1).all()
    assert tokens.x.shape[1] == 101 and tokens.size[:, 1:].sum(1).eq(192).all()


@torch.no_grad()
def test_attention_is_what_the_head_reads_by(model: HMRModel) -> None:
    """With one head, its weights times the values are what the first layer takes in."""
    head, context = model.head, torch.randn(2, 50, 32)
    decoder: Any = head.transformer
    own, cross, _ = decoder.transformer.layers[0]
    x = decoder.to_token_embedding(torch.zeros(2, 1, 1)) + decoder.pos_embedding
    x = x + own(x, context)
    value = cross.fn.to_kv(context).chunk(2, -1)[1]
    mine = cross.fn.to_out(query_attention(head, context, 1)[:, None] @ value)
    torch.testing.assert_close(mine, cross(x, context))
    assert query_attention(head, context, 2).sum(1).allclose(torch.ones(2))
    even = attending(torch.zeros(1, 2, 1, 4), torch.randn(1, 2, 5, 4))
    assert even.allclose(torch.full((1, 5), 0.2))


def test_places_are_a_permutation_by_nearness_first() -> None:
    scores, near = torch.tensor([[0.1, 0.9, 0.5, 0.7]]), torch.tensor([[1, 0, 2, 0]])
    assert places_in(scores, near).tolist() == [[1, 2, 0, 3]]
    assert places_in(scores, torch.zeros_like(near)).tolist() == [[3, 0, 2, 1]]


@torch.no_grad()
def test_a_picture_of_the_same_grid_is_the_same(model: HMRModel) -> None:
    same, smaller = SmallerPicture(model, model.grid)(CROPS), SmallerPicture(model, (12, 9))
    assert torch.equal(same.features, model(CROPS).features)
    tokens = smaller.encode(CROPS)
    assert tokens.x.shape == (3, 109, 32) and tokens.grid == (12, 9)
    flat = torch.ones(1, 3, 224, 168)
    assert smaller.encode(flat).x.allclose(
        model.stack.finish(through(model.stack, model.stack.blocks, model.stack.embed(flat[..., :168, :126]))).x,
        atol=1e-5,
    )


@torch.no_grad()
def test_equal_macs_are_equal_to_a_patch(model: HMRModel) -> None:
    wanted = macs_of(SmallerPicture(model, (12, 9)))

    def dropped(keep: int) -> HMRModel:
        return dropping(copy.deepcopy(model), keep)

    keep = most_within(dropped, model, wanted)
    assert keep < 108  # of which the smaller picture embeds fewer
    assert macs_of(dropped(keep)) == macs_of(model) - saved_macs(model, keep)
    assert macs_of(dropped(keep)) <= wanted < macs_of(dropped(keep + 1))
    asked = Ranking("query", 1)
    keep = most_within(lambda n: RankedModel(model, asked, n), model, wanted, 1)
    assert macs_of(RankedModel(model, asked, keep)) <= wanted < macs_of(RankedModel(model, asked, keep + 1))
    with pytest.raises(ValueError, match="behind 4 blocks no number"):
        most_within(lambda n: RankedModel(model, Ranking("norm", 4), n), model, wanted, 4)
    merged = RankedModel(model, Ranking("norm", 1), 120, merge=True)
    assert macs_of(model) - saved_macs(model, 120, 1, merge=True) == pytest.approx(macs_of(merged), rel=1e-3)
    assert macs_of(RankedModel(model, Ranking("whole"), 90)) == macs_of(dropped(90))  # its own pass is not counted


class Kept(Context):
    """A context whose long work lies in `folder`."""

    folder: Path

    @contextlib.contextmanager
    def place(self, kind: str, *key: object) -> Any:
        yield self.folder / str(abs(hash(key)))


def test_a_recovery_that_has_ended_is_not_run_again(model: HMRModel, tmp_path: Path) -> None:
    class Small(Noise):
        def read(self, indices: Any) -> tuple[Tensor, Tensor]:
            crops, masks = super().read(indices)
            return crops[..., :224, :168], masks[:, :224, :168]

    pictures: Any = Small(12)
    pictures.distance = DISTANCE
    context = Kept(model, memory={"pictures": pictures})
    context.folder = tmp_path
    answers, seen = Answers(model, pictures), []
    with torch.no_grad():
        whole = model(*pictures.read([9, 2]))
    torch.testing.assert_close(answers.of([9, 2])["features"], whole.features)
    student: Any = SmallerPicture(model, (12, 9))
    first, again = (recovered("one", student, answers, context, 2, lambda now: seen.append(now.step)) for _ in "12")
    assert seen == [1, 2]
    for (name, mine), other, old in zip(
        first.named_parameters(), again.parameters(), student.parameters(), strict=True
    ):
        assert torch.equal(mine, other) and ("token_embedding.weight" in name or not torch.equal(mine, old)), name
    assert isinstance(first.encode(CROPS), Tokens)
