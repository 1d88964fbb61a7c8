"""`python -m experiments.paper.two_people`: two rendered people in one long video, through the whole of `fasthmr run`.

What they do is known, so that everything between the video and the files is measured: who is found, who is who, how far
joints are off, and, where the camera turns, how far they are off in the world and how much feet slide there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from compress.atomic import atomic_folder, atomic_write
from experiments.cli.main import ended
from experiments.cli.output import progress_bar, progress_callback
from hmr.evaluation.metrics import accel, mpjpe
from hmr.media.video import pyav
from hmr.motion.recordings import load_clips
from hmr.people.tracker import overlaps
from hmr.video.jobs.job import RunJob, do, network_of
from hmr.world import sensor, view
from hmr.world.people import Posed, posed
from hmr.world.scene import SYNTH, Scene, bystander, scene
from hmr.world.synthetic import FPS, Take, even_shares, generator, take
from hmr.world.wardrobe import body

SIZE = (360, 640)  # height and width of frames
APART = 1.8  # m, between the middles of their ways
STAYS = 1.2  # m, the longest way of a recording that is shown: in a minute of others people walk past the camera
SWING, PERIOD = 0.12, 6.0  # radians by which a moving camera turns to both sides, and seconds of a turn
FEET, STANDS = (7, 8, 10, 11), 0.01  # ankles and toes; m that a foot moves in a frame in which it stands
SEGMENT = 100  # frames that errors in the world are measured over at a time (Shin et al. 2024, WHAM, Sec. 4)
WORLD = ("world_mpjpe_mm", "aligned_world_mpjpe_mm", "sliding_mm")
FOUND = 0.3  # least overlap of a track's box with the person's
TRUTH, VIDEO, CAMERAS, BOXES = "truth.npz", "video.mp4", "cameras.npz", "people.csv"

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Staging:
    """A room, two people in it and what each does, and the camera's focal length in pixels."""

    room: Scene
    takes: tuple[Take, Take]
    rotation: Array  # (3, 3) world to camera, before it turns
    focal: float

    def people(self, frame: int) -> list[Posed]:
        """Both in a frame, APART from each other across the camera's view."""
        across = self.rotation[0] * np.array([1, 0, 1])
        offsets = (sign * APART / 2 * across / np.linalg.norm(across) for sign in (-1, 1))
        who = (self.room.subject, self.room.heading), (self.room.others[0].who, self.room.others[0].heading)
        return [
            posed(figure, t.rotations[frame], heading, offset.astype(np.float32), t.travel[frame])
            for (figure, heading), t, offset in zip(who, self.takes, offsets, strict=True)
        ]

    def camera(self, frame: int, moving: bool) -> Array:
        """Rotation (3, 3) of the camera in a frame."""
        angle = SWING * np.sin(2 * np.pi * frame / FPS / PERIOD) * moving
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        return np.asarray(turn @ self.rotation, np.float32)


def staged(frames: int, size: tuple[int, int], seed: int) -> Staging:
    """A room that nothing stands in, with two people of the test's motion, of that in which nobody walks away."""
    rng = generator("two people", "test", seed)
    room = replace(scene(rng, SYNTH, "test", (5.5, 6.0)), others=(bystander(rng, SYNTH, 6.0),))
    room = replace(room, props=view.cleared(room).props)
    clips = [clip for clip in load_clips("test", None) if np.ptp(clip.translation[:, [0, 2]], 0).max() <= STAYS]
    share = even_shares(clips)
    one, other = (take(rng, clips, share, frames) for _ in range(2))
    staging = Staging(room, (one, other), room.camera, 0.0)
    points = np.concatenate([p.vertices for i in np.linspace(0, frames - 1, 12).astype(int) for p in staging.people(i)])
    low, high = view.box_of((points - room.centre) @ room.camera.T)
    rotation = view.towards((low + high) / 2) @ room.camera
    low, high = view.box_of((points - room.centre) @ rotation.T)
    across = 2 * max(abs(low[0]), abs(high[0])) + 2 * SWING, 2 * max(abs(low[1]), abs(high[1]))
    focal = float(min(size[1] / across[0], size[0] / across[1]))
    return Staging(room, (one, other), rotation.astype(np.float32), focal)


def pictures(staging: Staging, frames: int, moving: bool, size: tuple[int, int], seed: int) -> Iterator[dict[str, Any]]:
    """Each frame's picture (H, W, 3), camera, and both people's joints (2, 24, 3) m in the world and boxes (2, 4)."""
    middle = np.array(size[::-1]) / 2
    for frame in range(frames):
        people, rotation = staging.people(frame), staging.camera(frame, moving)
        light, _ = view.exposure(staging.room, people, rotation, staging.focal, size)
        boxes = []
        for each in people:
            low, high = view.box_of((each.vertices[: len(body().vertices)] - staging.room.centre) @ rotation.T)
            boxes.append([*(staging.focal * low + middle), *(staging.focal * high + middle)])
        yield {
            "picture": sensor.developed(generator("two people", "noise", seed, frame), light, staging.room.sensor),
            "rotation": rotation,
            "joints": np.stack([each.joints for each in people]),
            "boxes": np.array(boxes),
        }


def render(out: Path, frames: int, moving: bool, size: tuple[int, int], seed: int, observer: Any) -> None:
    """Write the video and all that is known of it to a folder, whole or not at all."""
    staging, known = staged(frames, size, seed), []
    with atomic_folder(out) as folder, pyav().open(str(folder / VIDEO), "w") as file:
        stream = file.add_stream("libx264", rate=round(FPS), options={"crf": "12", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for number, one in enumerate(pictures(staging, frames, moving, size, seed)):
            frame = pyav().VideoFrame.from_ndarray(one.pop("picture"), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, round(FPS))
            file.mux(stream.encode(frame))
            known.append(one)
            observer("rendering two people", "", number + 1, frames)
        file.mux(stream.encode())
        truth: dict[str, Any] = {name: np.stack([one[name] for one in known]) for name in known[0]}
        back = -np.einsum("tab,b->ta", truth["rotation"], staging.room.centre)
        np.savez(folder / TRUTH, **truth, translation=back, focal=staging.focal)
        np.savez(folder / CAMERAS, rotation=truth["rotation"], translation=back)
        lines = [f"{t},{p},{','.join(map(str, truth['boxes'][t, p].round(2)))}" for t in range(frames) for p in (0, 1)]
        (folder / BOXES).write_text("\n".join(["frame,id,x1,y1,x2,y2", *lines, ""]))


def measured(truth: dict[str, Array], tracks: Sequence[dict[str, Array]]) -> dict[str, Any]:
    """What became of both people of a video, whose truth has joints (T, 2, 24, 3) m in the world, boxes (T, 2, 4), and
    the camera's rotation (T, 3, 3) and translation (T, 3).

    found_percent: of people and frames, those that a track was seen in; switches: how often a person goes on as another
    track. Errors are over frames with a track, in mm: `world_mpjpe_mm` after the first two frames of each SEGMENT are
    laid on the truth's (W-MPJPE), `aligned_world_mpjpe_mm` after all of them are (WA-MPJPE), `sliding_mm` how far feet
    that stand move in a frame.
    """
    seen, rows = 0, []
    for person in (0, 1):
        chosen = np.full(len(truth["boxes"]), -1)
        for number, track in enumerate(tracks):
            mine, other = (shared(track, truth["boxes"][:, one]) for one in (person, 1 - person))
            here = (mine >= FOUND) & (mine >= other)
            chosen[track["frame"][here]] = number
            seen += int((here & ~track["interpolated"].astype(bool)).sum())
        rows.append(person_row(truth, tracks, person, chosen))
    keys = [key for key in rows[0] if key != "switches"]
    means = {key: mean([row[key] for row in rows if row[key] is not None]) for key in keys}
    return {"found_percent": 50 * seen / len(truth["boxes"]), "switches": sum(row["switches"] for row in rows), **means}


def shared(track: dict[str, Array], boxes: Array) -> Array:
    """Overlap (T,) of a track's boxes with those of a person (all frames, 4) in the same frames."""
    pairs = zip(track["box_px"].astype(float), boxes[track["frame"]].astype(float), strict=True)
    return np.array([overlaps(one[None], other[None])[0, 0] for one, other in pairs])


def person_row(
    truth: dict[str, Array], tracks: Sequence[dict[str, Array]], person: int, chosen: NDArray[np.int64]
) -> dict[str, Any]:
    """Errors of one person, who is track chosen[t] in frame t, or nobody (-1)."""
    here, joints = chosen[chosen >= 0], truth["joints"][:, person]
    seen = np.einsum("tab,tjb->tja", truth["rotation"], joints) + truth["translation"][:, None]
    found: dict[str, list[float]] = {name: [] for name in ("mpjpe_mm", "accel_mm_per_frame2", *WORLD)}
    for number in np.unique(here):
        frames, track = np.flatnonzero(chosen == number), tracks[int(number)]
        rows = np.searchsorted(track["frame"], frames)
        mine, theirs = doubles(track["joints_m"][rows]), doubles(seen[frames])
        found["mpjpe_mm"] += mpjpe(mine, theirs).tolist()
        if len(frames) > 2:
            found["accel_mm_per_frame2"] += accel(mine, theirs).flatten().tolist()
            for name, values in in_world(doubles(track["world_joints_m"][rows]), doubles(joints[frames])).items():
                found[name] += values
    return {"switches": int((np.diff(here) != 0).sum()), **{name: mean(values) for name, values in found.items()}}


def in_world(mine: Tensor, known: Tensor) -> dict[str, list[float]]:
    """Errors in mm of joints (T, 24, 3) m in the world, and how far feet that stand move."""
    parts = list(zip(mine.split(SEGMENT), known.split(SEGMENT), strict=True))
    off = torch.cat([1000 * (laid(one, other, 2) - other).norm(dim=-1).mean(1) for one, other in parts])
    aligned = torch.cat([1000 * (laid(one, other) - other).norm(dim=-1).mean(1) for one, other in parts])
    stands = (known[1:, FEET] - known[:-1, FEET]).norm(dim=-1) < STANDS
    moved = (mine[1:, FEET] - mine[:-1, FEET]).norm(dim=-1)
    return dict(zip(WORLD, (off.tolist(), aligned.tolist(), (1000 * moved[stands]).tolist()), strict=True))


def doubles(values: Array) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float64))


def mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def laid(mine: Tensor, known: Tensor, frames: int | None = None) -> Tensor:
    """Joints (T, J, 3) m turned and moved, not scaled, so that those of the first `frames`, or all, lie on the known
    ones."""
    start, aim = mine[:frames].flatten(0, 1), known[:frames].flatten(0, 1)  # (frames J, 3)
    a, b = start - start.mean(0), aim - aim.mean(0)
    u, _, v = torch.linalg.svd(a.mT @ b)
    sign = torch.diag(torch.tensor([1.0, 1.0, torch.det(u @ v).sign().item()], dtype=mine.dtype))
    turn = u @ sign @ v
    return (mine - start.mean(0)) @ turn + aim.mean(0)


def main(
    out: Annotated[Path, typer.Option(help="The folder to write: video, truth, tracks, and what was measured.")],
    model: Annotated[str, typer.Option(help="MODEL, as elsewhere.")] = "reference",
    recipe: Annotated[str | None, typer.Option(help="Compress it on the way.")] = None,
    people: Annotated[str, typer.Option(help="blazepose, or boxes: where they are known to be.")] = "boxes",
    frames: Annotated[int, typer.Option(min=3, help="Of the video, at 30 a second.")] = 1800,
    moving: Annotated[bool, typer.Option("--moving", help="The camera turns.")] = False,
    seed: Annotated[int, typer.Option(help="Of room, people, motion and noise.")] = 0,
) -> None:
    """Render two people, run, and measure what came of them."""
    with progress_bar() as bar:
        observer = progress_callback(bar)
        if not (out / "scene" / TRUTH).is_file():
            render(out / "scene", frames, moving, SIZE, seed, observer)
        with np.load(out / "scene" / TRUTH) as file:
            truth = {name: file[name] for name in file.files}
        where = str(out / "scene" / BOXES) if people == "boxes" else people
        masks = "blazepose" if people == "boxes" and recipe else None
        facts: dict[str, Any] = {"focal": float(truth["focal"]), "camera": str(out / "scene" / CAMERAS), "masks": masks}
        job = RunJob(model=model, recipe=recipe, people=where, **facts)
        result = do(job, network_of(job), out / "scene" / VIDEO, out / f"run-{people}", observer)
    tracks = []
    for row in result["tracks"]:
        with np.load(out / f"run-{people}" / row["file"]) as file:
            tracks.append({name: file[name] for name in file.files})
    row = {"people": people, "moving": moving, **measured(truth, tracks)}
    table = {"rows": [row], "provenance": result["provenance"]}
    atomic_write(out / f"two-people-{people}.json", json.dumps(table, indent=1).encode())
    typer.echo(json.dumps(row))


if __name__ == "__main__":
    ended(lambda: typer.run(main))
