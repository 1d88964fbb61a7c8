"""Who is who in several views at once, and where each goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from hmr.data.blazepose import Detector, LandmarkNetwork, Landmarks, Pixels, Square, square_of
from hmr.data.real_people.camera import Camera
from hmr.data.real_people.offsets import LIMB_LANDMARKS
from hmr.data.real_people.triangulation import Views, robust, triangulated

SCALE = 60.0  # pixels of 1,920: cameras are not refined yet, and another person is farther off
LEAST = 3  # views that have to see a person: two agree too easily
SAME = 0.2  # disagreement from which on what several views see is not one person
UNSEEN = 0.25  # of disagreement that one more view is worth
LOST = 0.1  # of a square's side, from which on a view has left its person
HIPS, SHOULDERS = (23, 24), (11, 12)  # of all 33 landmarks

Seen = Sequence[Landmarks | None]  # one person in V views


def people_in(
    images: Sequence[Pixels], cameras: Camera, detector: Detector, network: LandmarkNetwork
) -> list[list[Square]]:
    """Where V cameras, in pictures of one moment, see each person that at least three of them see: V squares of each,
    people on whom views agree best first."""
    candidates = [
        [network.see(image, network.see(image, square).next) for square in detector.people(image, least=0.3)]
        for image in images
    ]
    return [filled(one, cameras) for one in matched(candidates, cameras)]


def matched(candidates: Sequence[Sequence[Landmarks]], cameras: Camera) -> list[list[Landmarks | None]]:
    """People of whom several views agree where they are, from all whom each of V views sees: None where a view does not
    see them. Each candidate is one person's at most; those on whom most views agree best come first."""
    left: list[list[Landmarks | None]] = [[None, *each] for each in candidates]
    found: list[list[Landmarks | None]] = []
    while True:
        people = [list(one) for one in product(*left) if sum(each is not None for each in one) >= LEAST]
        costs = {i: disagreement(one, cameras) for i, one in enumerate(people)}
        agreed = {i: cost + UNSEEN * people[i].count(None) for i, cost in costs.items() if cost < SAME}
        if not agreed:
            return found
        best = people[min(agreed, key=lambda i: agreed[i])]
        found.append(best)
        left = [
            [each for each in view if each is None or each is not taken] for view, taken in zip(left, best, strict=True)
        ]


def disagreement(one: Seen, cameras: Camera) -> float:
    """How far the views that see a person are from seeing one and the same, 0..1."""
    views = limbs(one, cameras)
    return robust(views.residuals(triangulated(views, SCALE)), SCALE).mean().item()


def limbs(one: Seen, cameras: Camera) -> Views:
    """The landmarks of arms and legs in the views that see a person."""
    seeing = [view for view, each in enumerate(one) if each is not None]
    pixels = np.stack([each.pixels[LIMB_LANDMARKS] for each in one if each is not None])
    return Views(cameras[seeing], torch.from_numpy(pixels), torch.ones(pixels.shape[:2], dtype=torch.float64))


def filled(one: Seen, cameras: Camera) -> list[Square]:
    """Where V views see a person: each by itself, or where the others put them."""
    points = triangulated(all_landmarks(one, cameras), SCALE)
    return [each.next if each else around(cameras[view].project(points)) for view, each in enumerate(one)]


def all_landmarks(one: Seen, cameras: Camera) -> Views:
    """All landmarks in the views that see a person."""
    seeing = [view for view, each in enumerate(one) if each is not None]
    pixels = np.stack([each.pixels for each in one if each is not None])
    weight = np.stack([each.visibility for each in one if each is not None])
    return Views(cameras[seeing], torch.from_numpy(pixels), torch.from_numpy(weight))


def around(pixels: Tensor) -> Square:
    """A square around landmarks (33, 2), upright on the trunk."""
    places = pixels.numpy()
    hips, shoulders = places[list(HIPS)].mean(0), places[list(SHOULDERS)].mean(0)
    up = (shoulders - hips) / np.linalg.norm(shoulders - hips)
    return square_of(hips, hips + up * np.linalg.norm(places - hips, axis=1).max())


def followed(
    moments: Iterable[Sequence[Pixels]], cameras: Camera, squares: Sequence[Square], network: LandmarkNetwork
) -> Iterator[list[Landmarks]]:
    """One person through videos of V cameras, from V squares of the first moment. A view that has left its person, for
    another or for nobody, looks again where the others see them."""
    for images in moments:
        one = [network.see(image, square) for image, square in zip(images, squares, strict=True)]
        for view in range(len(one)):
            others: Seen = [None if other == view else each for other, each in enumerate(one)]
            points = triangulated(all_landmarks(others, cameras), SCALE)
            expected = cameras[view].project(points)
            square = around(expected)
            if (here := distance(one[view], expected)) > LOST * square.side:
                again = network.see(images[view], square)
                one[view] = again if distance(again, expected) < here else one[view]
        squares = [each.next for each in one]
        yield one


def distance(seen: Landmarks, expected: Tensor) -> float:
    """Median pixels between the landmarks of limbs and where they are expected, of 33, (33, 2)."""
    return float(np.median(np.linalg.norm(seen.pixels - expected.numpy(), axis=1)[LIMB_LANDMARKS]))
