"""Frame in, people out: a model on a camera, which knows the past alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from compress.errors import BadInput
from hmr.animation.track import Track
from hmr.body.files import load_body
from hmr.data.pictures import Segmenter
from hmr.media.shot import Pixels, Shot
from hmr.people.finders import BlazePoseFinder, Finder
from hmr.people.tracker import PATIENCE
from hmr.video.crops import FrameCropper
from hmr.video.defaults import EVERY, PICTURES_FPS, STREAM_BATCH
from hmr.video.frames import STREAM
from hmr.video.in_view import PeopleInView, Seen
from hmr.video.lens import lens
from hmr.video.network import Network
from hmr.video.records import described, joined
from hmr.video.stages import Stages
from hmr.video.tracks import Arrays, track_of


class Stream:
    """The people of frames that come one after the other, each as a `Track` of the one frame.

    Nothing is known of what comes: `latency_frames` is 0. A person's shape is the mean so far; a motion decoder looks
    at the person's last clip and gives its last frame. Of a frame model, rotations are those of `fasthmr run`,
    and distances each frame's own, which `run` makes steady.

    finder: what finds people, BlazePose by default. focal, fov: of the camera, see `hmr.video.lens`. fps: of frames
    whose times are not given. masks: as `PeopleInView`. Raises BadInput for a model of hands.
    """

    latency_frames = 0

    def __init__(
        self,
        model: Any,
        finder: Finder | None = None,
        *,
        focal: float | None = None,
        fov: float | None = None,
        fps: float = PICTURES_FPS,
        masks: Segmenter | None = None,
        batch: int = STREAM_BATCH,
    ) -> None:
        if model.encoder.poses_hand:
            raise BadInput(f"{model.encoder.name} poses hands, and a stream follows whole people: name another model")
        self.model, self.finder, self.masks = model, finder or BlazePoseFinder(EVERY), masks
        self.focal, self.fov, self.fps = focal, fov, fps
        self.stages, self.body, self.batch = Stages(), load_body(), batch
        self.network = Network(model, batch, self.stages)
        self.clip = model.decoder.frames if model.takes_clips else 1  # frames of a person that count
        self.in_view: PeopleInView | None = None
        self.frames: list[int] = []  # of the last seconds
        self.times: list[float] = []
        self.seen = 0
        self.past: dict[int, list[Arrays]] = {}  # of each person, the last crops
        self.shapes: dict[int, tuple[Any, float]] = {}  # sum of a person's betas by score, and of scores

    def __call__(self, image: Pixels, time: float | None = None) -> list[Track]:
        """The people of the next frame (H, W, 3) RGB, at a time in seconds that grows."""
        shot = Shot(self.seen, self.seen / self.fps if time is None else time, image)
        if self.in_view is None:
            self.focal = lens(STREAM, image, self.focal, self.fov, self.model.encoder).focal
            self.in_view = PeopleInView(self.model.encoder, self.finder, self.focal, self.stages, self.masks)
        people = self.in_view.look(shot)
        self.frames.append(shot.number)
        self.times.append(shot.time)
        self.seen += 1
        for i in range(0, len(people), self.batch):
            self._remember(shot, people[i : i + self.batch])
        self._forget(shot.time)
        return [self._now(one.id, image.shape[:2]) for one in people]

    def _remember(self, shot: Shot, people: list[Seen]) -> None:
        """See some people, and add what is said of them to their past."""
        said = self.network([one.view for one in people])
        crops = described([(shot.number, one) for one in people], said)
        for i, one in enumerate(people):
            mine = {name: values[i : i + 1] for name, values in crops.items()}
            self.past[one.id] = [*self.past.get(one.id, []), mine][-self.clip :]
            total, weight = self.shapes.get(one.id, (0.0, 0.0))
            score = max(one.score, 1e-3)
            self.shapes[one.id] = total + score * mine["betas"][0], weight + score

    def _forget(self, time: float) -> None:
        """Drop those who will not come back, and frames that nobody's past needs."""
        assert self.in_view is not None
        known = {one.id for one in self.in_view.tracker.known} | set(self.in_view.tracker.names.values())
        for number in [number for number in self.past if number not in known]:
            del self.past[number], self.shapes[number]
        first = min((part[0]["moment"][0] for part in self.past.values()), default=self.seen)
        while self.frames and self.frames[0] < first and time - self.times[0] > PATIENCE:
            self.frames.pop(0)
            self.times.pop(0)

    def _now(self, number: int, size: tuple[int, int]) -> Track:
        """A person as they are in the frame that was seen last."""
        assert self.focal is not None
        crops = joined(self.past[number])
        moments = {"frame": np.array(self.frames), "time": np.array(self.times)}
        crops["moment"] = crops["moment"] - self.frames[0]
        total, weight = self.shapes[number]
        betas = torch.from_numpy((total / weight).astype(np.float32))
        cropper = FrameCropper(self.model.encoder, self.focal, size)
        whole = track_of(number, crops, moments, self.model, self.body, cropper, self.stages, betas)
        return whole.part(slice(-1, None))
