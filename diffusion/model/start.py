"""Where a decoder starts: all that has a closed form, before a network corrects it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.model.representation import JOINTS, WIDTH, nearest_rotation
from diffusion.model.sizes import DecoderSizes
from diffusion.model.transformer import silent

# Of the ridge regression on features, which have deviation 1; the best on `val`. Infinity leaves them out.
SHRINKS = (math.inf, 300.0, 30.0, 3.0, 0.3)
SURE = 1e-4  # of regressions whose every unknown is well known
REACH = 2  # frames before and after whose features are read
BESIDE = 1  # tokens before and after whose frames make a latent token
STILL = 1e-6  # m², the square of how little a number moves that is left as it is
SMOOTH = 13  # frames before and after by which the head's own pose is calmed


class Start(nn.Module):
    """What the encoder's head says of a clip, calmed by filters over time, and what is linear in the features beside
    it; a network finds what that leaves. Nothing of it is trained further.

    NOTE: without it, a network learns first what the pose head knows already: 2,400 steps led to 123 mm behind a head
    at 70 mm. And a map that was fitted to true poses, even from each to itself, errs on poses that a head says: it cost
    6 mm where this costs nothing.
    """

    taps: Tensor  # (3, 2 SMOOTH + 1), how much a frame has of itself and of its neighbours; they sum up to 1

    def __init__(self, sizes: DecoderSizes, latent: bool = False) -> None:
        """latent: whether it has to say the latent of a VAE. Where tokens have no frames of their own, it says 0."""
        super().__init__()
        own = sizes.frames // sizes.tokens if latent and sizes.frames % sizes.tokens == 0 else 0
        self.says_latent, self.shape, self.own = latent, (sizes.tokens, sizes.dim), own
        fan = (2 * BESIDE + 1) * own * sizes.width
        self.latent = silent(nn.Linear(fan, sizes.dim)).requires_grad_(False) if own else None
        self.register_buffer("taps", (torch.arange(2 * SMOOTH + 1) == SMOOTH).float().repeat(3, 1))
        other = sizes.width != WIDTH  # another representation than the head's pose is told in
        self.pose = nn.Linear(WIDTH, sizes.width).requires_grad_(False) if other else nn.Identity()
        self.linear = silent(nn.Linear((2 * REACH + 1) * sizes.features, sizes.width)).requires_grad_(False)

    def forward(self, said: Tensor, normal: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """The head's pose (B, F, 133) and normalised features (B, F, W) -> what is to be found: the pose's numbers
        (B, F, P), at the mean and deviation of a VAE (P,), or its latent (B, T, D)."""
        return self.found(self.numbers(said, normal, mean, deviation))

    def numbers(self, said: Tensor, normal: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """As `forward`, and always the numbers."""
        return (self.pose(calmed(said, self.taps)) - mean) / deviation + self.linear(around(normal, REACH))

    def of_tokens(self, numbers: Tensor) -> Tensor:
        """Numbers (B, F, P) -> those of a token's frames and of its neighbours' (B, T, (2 BESIDE + 1) F / T P)."""
        return around(numbers.unflatten(1, (-1, self.own)).flatten(2), BESIDE)

    def found(self, numbers: Tensor) -> Tensor:
        """Numbers (B, F, P), normalised -> themselves or the latent (B, T, D), as far as it is linear in them."""
        if not self.says_latent:
            return numbers
        return self.latent(self.of_tokens(numbers)) if self.latent else numbers.new_zeros(numbers.shape[0], *self.shape)

    @torch.no_grad()
    def fit_latent(self, numbers: Tensor, latent: Tensor) -> None:
        """Fit what becomes of numbers (B, F, P), normalised, to the latent (B, T, D) that a VAE has for them.

        NOTE: of the head's poses. A map that was fitted to true ones erred on those by 6 mm more.
        """
        if self.latent is not None:
            fit_linear(self.latent, self.of_tokens(numbers), latent)

    @torch.no_grad()
    def fit(self, said: Tensor, true: Tensor, numbers: Tensor) -> None:
        """Fit the filters, to the true poses (B, F, 133), and what makes them `numbers` (B, F, P)."""
        pairs = zip(apart(said), apart(true), strict=True)
        self.taps.copy_(torch.stack([filter_of(mine, theirs) for mine, theirs in pairs]))
        if isinstance(self.pose, nn.Linear):
            fit_linear(self.pose, true, numbers)

    @torch.no_grad()
    def fit_features(self, normal: Tensor, wrong: Tensor, error: Callable[[], float]) -> float:
        """Ridge regression of what the head's pose leaves (B, F, P) on normalised features (B, F, W).

        Returns how far it shrinks: of SHRINKS the one at which `error` is least, of equals the first.
        NOTE: an encoder sees the motion that it was trained on with other eyes, so folds of that choose wrongly.
        """
        clips = (around(clip[None], REACH)[0] for clip in normal)
        weights = [torch.zeros_like(self.linear.weight.mT), *ridge(clips, wrong, SHRINKS[1:])]
        errors = []
        for weight in weights:
            self.linear.weight.copy_(weight.mT)
            errors.append(error())
        best = errors.index(min(errors))
        self.linear.weight.copy_(weights[best].mT)
        return SHRINKS[best]


def around(values: Tensor, reach: int) -> Tensor:
    """Values (B, N, W) -> those of each place and of its neighbours, `reach` on each side (B, N, (2 reach + 1) W)."""
    wide = F.pad(values.mT, (reach, reach), mode="replicate").mT
    return torch.cat([wide[:, i : i + values.shape[1]] for i in range(2 * reach + 1)], 2)


def apart(numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers (..., 133) of a pose -> the axes of its hips (..., 9), its joints in those (..., 87) m, and its twists
    (..., 46): a head that is unsure of where somebody faces may know what they do."""
    joints = numbers[..., : 3 * JOINTS].unflatten(-1, (JOINTS, 3))
    left, right, spine = (joints[..., i, :] for i in (1, 2, 3))
    x = F.normalize(left - right, dim=-1)
    up = spine - (left + right) / 2
    y = F.normalize(up - (up * x).sum(-1, keepdim=True) * x, dim=-1)
    axes = torch.stack((x, y, torch.linalg.cross(x, y)), -1)  # (..., 3, 3)
    return axes.flatten(-2), (joints @ axes).flatten(-2), numbers[..., 3 * JOINTS :]


def together(axes: Tensor, joints: Tensor, twists: Tensor) -> Tensor:
    """What `apart` gives -> numbers (..., 133); axes become the nearest ones that are some."""
    turn = nearest_rotation(axes.unflatten(-1, (3, 3)))
    return torch.cat(((joints.unflatten(-1, (JOINTS, 3)) @ turn.mT).flatten(-2), twists), -1)


def calmed(numbers: Tensor, taps: Tensor) -> Tensor:
    """The poses (B, F, 133) of clips, the three parts of each filtered over time by taps (3, 2 SMOOTH + 1)."""
    return together(*(filtered(part, each) for part, each in zip(apart(numbers), taps, strict=True)))


def filtered(numbers: Tensor, taps: Tensor) -> Tensor:
    """Numbers (B, F, P) over time, filtered by taps (2 SMOOTH + 1); ends are held."""
    wide = F.pad(numbers.mT, (SMOOTH, SMOOTH), mode="replicate")  # (B, P, F + 2 SMOOTH)
    return F.conv1d(wide, taps.to(wide).expand(wide.shape[1], 1, -1), groups=wide.shape[1]).mT


def filter_of(said: Tensor, true: Tensor) -> Tensor:
    """The filter (2 SMOOTH + 1) over time that brings numbers said (B, F, P) nearest to the true ones; it changes
    nothing of what stands still.

    NOTE: one for each number is learned by heart: on other videos it erred by 2 mm more.
    """
    wide = F.pad(said.mT, (SMOOTH, SMOOTH), mode="replicate").double()  # (B, P, F + 2 SMOOTH)
    windows = [row.unfold(1, 2 * SMOOTH + 1, 1).flatten(0, 1) for row in wide]  # each (P F, 2 SMOOTH + 1)
    middle = [x[:, SMOOTH, None] for x in windows]
    beside = (x - own for x, own in zip(windows, middle, strict=True))  # so that whatever is found sums up to 1
    aims = (y.mT.flatten()[:, None] - own for y, own in zip(true, middle, strict=True))
    taps = ridge(beside, aims, (STILL,))[0][:, 0]
    taps[SMOOTH] += 1 - taps.sum()
    return taps.to(said)


@torch.no_grad()
def fit_linear(linear: nn.Linear, x: Tensor, y: Tensor) -> None:
    """Give a layer the weights with which it says of x (B, N, P) nearly y (B, N, Q)."""
    x, y = x.flatten(0, 1).double(), y.flatten(0, 1).double()
    weight = ridge([x - x.mean(0)], [y - y.mean(0)], (SURE,))[0]
    linear.weight.copy_(weight.mT)
    linear.bias.copy_(y.mean(0) - x.mean(0) @ weight)


def ridge(x: Iterable[Tensor], y: Iterable[Tensor], shrinks: Sequence[float]) -> list[Tensor]:
    """W (P, Q) for which x (N, P) W is nearest to y (N, Q), with each of `shrinks` times |W|^2 per row added, in
    float64; x and y come in parts, so that no copy is made of the whole."""
    gram: Any = 0.0
    wanted: Any = 0.0
    count = 0
    for part, aim in zip(x, y, strict=True):
        rows = part.double()
        gram, wanted, count = gram + rows.mT @ rows, wanted + rows.mT @ aim.double(), count + len(rows)
    one = torch.eye(len(gram)).to(gram)
    return [torch.linalg.solve(gram + shrink * count * one, wanted) for shrink in shrinks]
