"""How alike the layers of a stack are: linear CKA (Kornblith et al., arXiv:1905.00414), as FastHMR's Fig. 2 shows it.

For centred features X, Y (n, C) of two layers over the same n tokens,
CKA = |X^T Y|^2 / (|X^T X| |Y^T Y|) in Frobenius norms. It equals the closed Gram form, HSIC(XX^T, YY^T) normalised,
but needs matrices of C x C numbers where that takes n x n, so the tokens may stream by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from compress.errors import BadInput
from compress.stack import Stack, through

MEMORY = 3 * 1024**3  # bytes: the tokens of six of HMR2.0's blocks for 512 frames
Pair = tuple[int, int]


def layer_similarity(
    stack: Stack, crops: Sequence[Tensor], *, band: int | None = None, embedding: bool = False
) -> Tensor:
    """Linear CKA (L, L), float64, between the outputs of all L blocks over all tokens of crops, each (B, 3, H, W).

    With `embedding`, what goes into the first block is one more layer, before them: (L + 1, L + 1). With a `band`, only
    layers at most so many apart are compared (1: neighbours), and the rest is NaN. Where the covariances, 8 C^2 bytes
    for each pair of layers, do not fit in MEMORY bytes, the crops run through the stack as often as it takes. The stack
    has to be in evaluation mode. Raises BadInput as `cka`.
    """
    layers = len(stack.blocks) + embedding
    return cka(lambda: (outputs(stack, crop, embedding) for crop in crops), layers, band=band)


@torch.no_grad()
def outputs(stack: Stack, crop: Tensor, embedding: bool = False) -> Iterator[Tensor]:
    """The tokens of a crop (B, 3, H, W) after each block, without prefix tokens: (B * N, C) each. With `embedding`,
    those before the first block come first."""
    tokens = stack.embed(crop)
    if embedding:
        yield tokens.x[:, tokens.prefix :].flatten(0, 1)
    for block in stack.blocks:
        tokens = through(stack, [block], tokens)
        yield tokens.x[:, tokens.prefix :].flatten(0, 1)


def cka(
    batches: Callable[[], Iterable[Iterable[Tensor]]], layers: int, *, band: int | None = None, memory: int = MEMORY
) -> Tensor:
    """Linear CKA (layers, layers), float64, of features that `batches()` yields: per batch, one (n, C) for each layer.

    `batches` is called once for each lot of pairs that fits in `memory` bytes. Layers further apart than `band` are
    NaN; a layer whose features are all the same is like none but itself. Raises BadInput without any features and
    where not even one pair fits.
    """
    pairs = [(i, j) for i in range(layers) for j in range(i, layers) if band is None or j - i <= band]
    norms: dict[Pair, Tensor] = {}
    while left := [pair for pair in pairs if pair not in norms]:
        norms |= covariance_norms(batches(), left, memory)
    out = torch.full((layers, layers), torch.nan, dtype=torch.float64)
    for i, j in pairs:
        scale = (norms[i, i] * norms[j, j]).sqrt()
        out[i, j] = out[j, i] = 1.0 if i == j else norms[i, j] / scale if scale > 0 else 0.0
    return out


@torch.no_grad()
def covariance_norms(batches: Iterable[Iterable[Tensor]], pairs: Sequence[Pair], memory: int) -> dict[Pair, Tensor]:
    """Squared Frobenius norm of X_i^T X_j, both centred, for the first of the `pairs` (i, j) that fit in `memory`.

    Sums are taken of features less the first batch's mean, and the rest of the mean goes at the end: a mean much larger
    than the spread (a transformer has such channels) would otherwise cost digits.
    """
    shift: list[Tensor] = []
    products: dict[Pair, Tensor] = {}
    sums: list[Tensor] = []
    count = 0
    for batch in batches:
        features = [x.double() for x in batch]
        if not shift:
            shift = [x.mean(0) for x in features]
            sums = [torch.zeros_like(mean) for mean in shift]
            products = {pair: features[0].new_zeros(0) for pair in fitting(pairs, features, memory)}
        centred = [x - mean for x, mean in zip(features, shift, strict=True)]
        count += len(centred[0])
        sums = [total + x.sum(0) for total, x in zip(sums, centred, strict=True)]
        for i, j in products:
            product = centred[i].T @ centred[j]  # (C_i, C_j)
            products[i, j] = products[i, j].add_(product) if len(products[i, j]) else product
    if not count:
        raise BadInput("similarity of layers needs frames: there are none")
    return {(i, j): (p - torch.outer(sums[i], sums[j]) / count).square().sum() for (i, j), p in products.items()}


def fitting(pairs: Sequence[Pair], features: Sequence[Tensor], memory: int) -> list[Pair]:
    """The first pairs whose covariances (C_i, C_j), float64, take at most `memory` bytes together."""
    taken, out = 0, []
    for i, j in pairs:
        taken += 8 * features[i].shape[1] * features[j].shape[1]
        if taken > memory:
            break
        out.append((i, j))
    if not out:
        raise BadInput(f"similarity of layers takes {taken} bytes for two layers alone: allow more than {memory} bytes")
    return out
