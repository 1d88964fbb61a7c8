"""HRNet (Wang et al. 2019) as CameraHMR's field-of-view network has it: four resolutions side by side, then one vector
map at the lowest. Keys are those of CameraHMR's `FLNet.backbone`, including the `final_layer` that nothing reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = (1, 4, 3)  # modules in stages 2, 3 and 4
BLOCKS = 4  # of each branch of a module


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(x + y)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, four times as wide outside."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, 4 * inner, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * inner)
        self.downsample = None if inputs == 4 * inner else _norm_of(nn.Conv2d(inputs, 4 * inner, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Exchange(nn.Module):
    """Branches of blocks at their own resolutions; then each takes the sum of all, resampled to its own."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(width) for _ in range(BLOCKS))) for width in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_resampling(widths, j, i) if i != j else None for j in range(len(widths)))  # type: ignore[misc]  # torch takes None, its types do not
            for i in range(len(widths))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for i, layers in enumerate(self.fuse_layers):
            terms = [x if j == i else layers[j](x) for j, x in enumerate(maps)]  # type: ignore[index]  # a ModuleList
            total = terms[0]
            for term in terms[1:]:
                total = total + term
            fused.append(F.relu(total))
        return fused


class HRNet(nn.Module):
    """Image (B, 3, H, W) -> map (B, 15 * width, H/32, W/32)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(4)]
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Bottleneck(64, 64), *(Bottleneck(256, 64) for _ in range(3)))
        self.transition1 = _transition([256], widths[:2])
        self.stage2 = _stage(STAGES[0], widths[:2])
        self.transition2 = _transition(widths[:2], widths[:3])
        self.stage3 = _stage(STAGES[1], widths[:3])
        self.transition3 = _transition(widths[:3], widths)
        self.stage4 = _stage(STAGES[2], widths)
        self.final_layer = nn.Conv2d(width, 24, 1)
        for i in range(3):
            setattr(self, f"downsample_stage_{i + 1}", nn.Sequential(*_halvings(widths[i], 3 - i)))

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(image)))
        maps = [self.layer1(F.relu(self.bn2(self.conv2(x))))]
        for i in (2, 3, 4):
            transition = getattr(self, f"transition{i - 1}")
            given = [*maps, *[maps[-1]] * (len(transition) - len(maps))]  # the new, lowest branch starts from the last
            maps = [x if step is None else step(x) for step, x in zip(transition, given, strict=True)]
            maps = getattr(self, f"stage{i}")(maps)
        lowered = [getattr(self, f"downsample_stage_{i + 1}")(maps[i]) for i in range(3)]
        return torch.cat((*lowered, maps[3]), 1)


def _stage(modules: int, widths: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(*(Exchange(widths) for _ in range(modules)))


def _norm_of(conv: nn.Conv2d, *after: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), *after)


def _halving(inputs: int, outputs: int, *after: nn.Module) -> nn.Sequential:
    return _norm_of(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), *after)


def _halvings(width: int, times: int) -> list[nn.Module]:
    """All layers of `times` halvings in one row."""
    return [layer for _ in range(times) for layer in _halving(width, width, nn.ReLU())]


def _transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    """What gives each branch of a stage its width; None where it has it already."""
    steps: list[nn.Module | None] = []
    for i, width in enumerate(after):
        if i >= len(before):
            steps.append(nn.Sequential(_halving(before[-1], width, nn.ReLU())))
        elif width == before[i]:
            steps.append(None)
        else:
            steps.append(_norm_of(nn.Conv2d(before[i], width, 3, padding=1, bias=False), nn.ReLU()))
    return nn.ModuleList(steps)  # type: ignore[arg-type]  # torch takes None, its types do not


def _resampling(widths: Sequence[int], source: int, target: int) -> nn.Sequential:
    """From one branch's resolution and width to another's."""
    if source > target:
        conv = nn.Conv2d(widths[source], widths[target], 1, bias=False)
        return _norm_of(conv, nn.Upsample(scale_factor=2 ** (source - target), mode="nearest"))
    steps = [_halving(widths[source], widths[source], nn.ReLU()) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, _halving(widths[source], widths[target]))
