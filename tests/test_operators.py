"""How a run of blocks becomes one: operators by hand."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compress.errors import BadInput
from compress.layers.operators import OPERATORS, drop, mean, merged_block, slm
from hmr.models.vit import ViT


def state(*values: float) -> dict[str, Tensor]:
    return {"w": torch.tensor(values), "count": torch.tensor(len(values))}


numbers = st.floats(-1e3, 1e3, width=32)


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=6))
def test_operators_are_their_formulas(values: list[tuple[float, float]]) -> None:
    run = [state(*pair) for pair in values]
    for c in range(2):
        column = [pair[c] for pair in values]
        assert slm(run)["w"][c].item() == pytest.approx(
            column[0] + sum(x - column[0] for x in column[1:]), abs=1e-2, rel=1e-5
        )
        assert mean(run)["w"][c].item() == pytest.approx(sum(column) / len(column), abs=1e-4, rel=1e-5)
        assert drop(run)["w"][c].item() == column[0]
    assert all(OPERATORS[name](run)["count"] == 2 for name in OPERATORS)  # an integer is nobody's mean


@given(numbers, numbers)
def test_slm_of_a_pair_is_the_upper_block_to_the_bit(low: float, high: float) -> None:
    assert slm([state(low), state(high)])["w"].item() == torch.tensor(high).item()


@pytest.mark.parametrize("name", ["slm", "mean", "drop"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_blocks_merge_to_themselves(name: Literal["slm", "mean", "drop"], dtype: torch.dtype) -> None:
    """slm included: all differences are zero. The operands stay as they were."""
    block = ViT(16, 1, 2, 32, 0.0).blocks[0].to(dtype)
    before = copy.deepcopy(block.state_dict())
    merged = merged_block([block] * 4, name)
    assert merged is not block and merged.state_dict().keys() == before.keys()
    for key, value in merged.state_dict().items():
        assert value.dtype == dtype and torch.equal(value, before[key]) and torch.equal(block.state_dict()[key], value)


def test_blocks_of_unlike_shape_are_refused() -> None:
    with pytest.raises(BadInput, match=r"\(w\) cannot be merged: put merge_layers before prune_width"):
        slm([{"w": torch.zeros(3)}, {"w": torch.zeros(4)}])
    with pytest.raises(BadInput, match="b is not in all of them"):
        mean([{"w": torch.zeros(3)}, {"w": torch.zeros(3), "b": torch.zeros(3)}])
    with pytest.raises(BadInput, match="put merge_layers before precision"):
        slm([{"w": torch.zeros(3, dtype=torch.int8)}] * 2)
