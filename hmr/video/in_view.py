"""What a run sees, frame by frame: who is there, under which number, and as what crop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from compress.errors import BadInput
from hmr.data.pictures import Photo, Segmenter
from hmr.media.boxes import Corners
from hmr.media.shot import Shot
from hmr.models.model import HMRModel
from hmr.people.finders import Finder, Mask, Person
from hmr.people.tracker import Tracker
from hmr.video.crops import AdapterCropper, FrameCropper, cropper_of
from hmr.video.network import View
from hmr.video.stages import Stages


@dataclass(frozen=True)
class Seen:
    """One person in one frame."""

    id: int
    box: Corners
    score: float
    view: View


class PeopleInView:
    """The people of a video, whose frames come in their order."""

    def __init__(
        self, model: HMRModel, finder: Finder, focal: float, stages: Stages, masks: Segmenter | None = None
    ) -> None:
        self.model, self.finder, self.focal, self.stages, self.masks = model, finder, focal, stages, masks
        self.tracker = Tracker()

    def look(self, shot: Shot) -> list[Seen]:
        """Those of a frame who are seen well enough. Raises BadInput where the model needs masks and there are none."""
        with self.stages.stage("detect"):
            people = self.finder.find(shot)
        with self.stages.stage("track"):
            ids = self.tracker.step(people, shot.time)
        cropper = cropper_of(self.model, self.focal, shot.image.shape[:2])
        found = [self._cut(cropper, shot, one, i) for i, one in zip(ids, people, strict=True) if i is not None]
        return [one for one in found if one is not None]

    def _cut(self, cropper: FrameCropper | AdapterCropper, shot: Shot, person: Person, number: int) -> Seen | None:
        """A person's crop; None where they have no mask and need one, or a box that cannot be cut."""
        mask = None
        if self.model.protect is not None:
            with self.stages.stage("mask"):
                mask = self._mask(shot, person)
            if mask is None or not mask.any():
                return None
        with self.stages.stage("crop"):
            try:
                crop, inside = cropper.cut(shot.image, mask, person.box)
            except BadInput:
                return None
            view = View(np.ascontiguousarray(crop), inside, cropper.condition(person.box))
        return Seen(number, person.box, person.score, view)

    def _mask(self, shot: Shot, person: Person) -> Mask | None:
        if person.mask is not None:
            return person.mask()
        if self.masks is None:
            raise BadInput(
                "this model's tokens were reduced around the person, and the file of boxes has no masks: name what "
                "finds them, as --masks blazepose"
            )
        return self.masks.mask(Photo(str(shot.number), shot.image), person.box)

    @property
    def state(self) -> Any:
        """What finder and tracker remember, as JSON values."""
        return {"finder": self.finder.state, "tracker": self.tracker.state}

    def restore(self, state: Any) -> None:
        """Go on from a `state`."""
        self.finder.restore(state["finder"])
        self.tracker.restore(state["tracker"])
