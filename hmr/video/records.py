"""What a run has seen: a line for each crop, and one for each frame that was looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hmr.video.in_view import Seen
from hmr.video.run_folder import RunFolder
from hmr.video.tracks import Arrays


class Records:
    """Crops and frames so far, of which some are on the disk already."""

    def __init__(self, folder: RunFolder | None = None) -> None:
        """Go on from what the run's folder has. Raises BadInput where that is damaged."""
        self.folder = folder
        self.state: Any = None
        self.crops: list[Arrays] = []
        self.frames: list[int] = []
        self.times: list[float] = []
        for crops, moments, state in folder.parts() if folder else []:
            self.crops += [crops] if crops else []
            self.frames += moments["frame"].tolist()
            self.times += moments["time"].tolist()
            self.state = state
        self.kept = len(self.frames), len(self.crops)

    def add_frame(self, number: int, time: float, state: Any) -> int:
        """Add a frame, after which `PeopleInView` remembers `state`; returns how many there were."""
        self.frames.append(number)
        self.times.append(time)
        self.state = state
        return len(self.frames) - 1

    def add_crops(self, crops: Sequence[tuple[int, Seen]], said: Arrays) -> None:
        """Add crops of a few moments and what a network says of them."""
        self.crops.append(described(crops, said))

    @property
    def new(self) -> int:
        """Frames that are not on the disk."""
        return len(self.frames) - self.kept[0]

    def keep(self) -> None:
        """Write what is new to the run's folder, if there is one."""
        first, crop = self.kept
        if self.folder and self.new:
            moments = {"frame": np.array(self.frames[first:]), "time": np.array(self.times[first:])}
            self.folder.add(first, joined(self.crops[crop:]), moments, self.state)
            self.kept = len(self.frames), len(self.crops)

    @property
    def whole(self) -> tuple[Arrays, Arrays]:
        """All crops (N, ...) by the names of what is known of them, and frame (M,) and time (M,) of all frames."""
        return joined(self.crops), {"frame": np.array(self.frames), "time": np.array(self.times)}


def described(crops: Sequence[tuple[int, Seen]], said: Arrays) -> Arrays:
    """What is known of B crops of a few moments, and what a network says of them, as arrays (B, ...)."""
    return {
        "id": np.array([one.id for _, one in crops]),
        "moment": np.array([moment for moment, _ in crops]),
        "box": np.array([one.box for _, one in crops]),
        "score": np.array([one.score for _, one in crops], np.float32),
        **said,
    }


def joined(parts: Sequence[Arrays]) -> Arrays:
    """Arrays by name, one part behind the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
