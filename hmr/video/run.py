"""A video to moving people: decode, find, follow, cut and see them, each stage beside the next.

One thread decodes, one finds and cuts people, and the network runs in the caller's: it waits for no frame that could
have been decoded meanwhile, and no more than a few frames are ever in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from compress.context import Observer, silent
from compress.errors import BadInput
from hmr.animation.world import CameraPath
from hmr.data.pictures import Segmenter
from hmr.media.shot import Shot
from hmr.people.finders import Finder
from hmr.video.ahead import Ahead
from hmr.video.defaults import BATCH
from hmr.video.frames import Film, watched
from hmr.video.in_view import PeopleInView, Seen
from hmr.video.lens import Lens, lens
from hmr.video.network import Network
from hmr.video.records import Records
from hmr.video.run_folder import RunFolder
from hmr.video.stages import Stages, trim_memory

PART = 128  # frames from one part on the disk to the next
DEPTH = 4  # frames between threads
TRIMMED = 4  # frames from one time that freed memory is given back to the next; it takes about 4 ms


class Moment(NamedTuple):
    """What is seen in one frame, and what finder and tracker remember after it, as JSON values."""

    frame: int
    time: float
    seen: list[Seen]
    state: Any


@dataclass
class Run:
    """One video, seen by a model. focal: pixels; fov: vertical, degrees; see `hmr.video.lens`."""

    model: Any
    film: Film
    finder: Finder
    masks: Segmenter | None = None
    focal: float | None = None
    fov: float | None = None
    cameras: CameraPath | None = None  # where the camera is
    batch: int = BATCH
    observer: Observer = silent
    stages: Stages = field(default_factory=Stages)
    lens: Lens | None = None  # known once a frame was seen
    size: tuple[int, int] = (0, 0)  # height and width of frames

    def see(self, folder: RunFolder | None = None) -> Records:
        """Everybody in the video, from where the run of this folder was stopped, which is kept up to date.

        Raises BadInput for a model that poses no whole person, frames that change their size, and as its parts do.
        """
        if self.model.encoder.poses_hand:
            raise BadInput(f"{self.model.encoder.name} poses hands, and a run follows whole people: name another model")
        self.records, self.pending = Records(folder), list[tuple[int, Seen]]()
        if state := self.records.state:
            self.lens, self.size = Lens(*state["lens"]), (state["size"][0], state["size"][1])
        after = self.records.frames[-1] if self.records.frames else -1
        self.network = Network(self.model, self.batch, self.stages)
        with (
            Ahead(watched(self.film, self.stages, after), DEPTH, "decode") as shots,
            Ahead(self._looked(shots), DEPTH, "people") as moments,
        ):
            try:
                self._through(moments)
            finally:  # after a signal too: what was seen is worth keeping
                self._keep()
        return self.records

    def _looked(self, shots: Iterable[Shot]) -> Iterator[Moment]:
        """What is seen frame by frame, in the thread that finds people."""
        in_view: PeopleInView | None = None
        for shot in shots:
            in_view = in_view or self._in_view(shot)
            if shot.image.shape[:2] != self.size:
                height, width = self.size
                raise BadInput(f"{self.film.path}: frame {shot.number} is no longer of {width} x {height} pixels")
            yield Moment(shot.number, shot.time, in_view.look(shot), in_view.state)

    def _in_view(self, shot: Shot) -> PeopleInView:
        """Who looks for people, once the first frame says how large pictures are."""
        if self.lens is None:
            self.lens = lens(self.film.path, shot.image, self.focal, self.fov, self.model.encoder)
            self.size = (shot.image.shape[0], shot.image.shape[1])
        in_view = PeopleInView(self.model.encoder, self.finder, self.lens.focal, self.stages, self.masks)
        if self.records.state:
            in_view.restore(self.records.state["in_view"])
        return in_view

    def _through(self, moments: Iterable[Moment]) -> None:
        """Run the network on what is seen, a batch whenever there are enough crops."""
        for moment in moments:
            assert self.lens is not None
            state = {"in_view": moment.state, "lens": [self.lens.focal, self.lens.source], "size": self.size}
            place = self.records.add_frame(moment.frame, moment.time, state)
            self.pending += [(place, one) for one in moment.seen]
            while len(self.pending) >= self.batch:
                self._batch()
            if self.records.new >= PART:
                self._keep()
            if not len(self.records.frames) % TRIMMED:
                trim_memory()
            total = max(moment.frame + 1, self.film.announced)
            self.observer(f"people of {self.film.path.name}", "", moment.frame + 1, total)

    def _batch(self) -> None:
        """See the crops that have waited longest."""
        some = self.pending[: self.batch]
        said = self.network([one.view for _, one in some])
        self.records.add_crops(some, said)
        del self.pending[: len(some)]

    def _keep(self) -> None:
        """See the crops that wait, and keep what is new."""
        while self.pending:
            self._batch()
        self.records.keep()
