"""What the synthetic people wear: one colour per vertex of the body, RGB 0..255.

Everyone has the cues that tell front from back and left from right on real people: face, hair, a print on the chest,
soles, a watch on one wrist. The subject of `synth` moreover wears a *kit* whose colours tell limbs and sides apart
(left warm, right cool): a model that learns from nothing on two cores has no other way to see that within hours.
`synth-shift` draws many of these colours at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hmr.body.model import JOINT_NAMES

Colours = NDArray[np.float32]

SKIN = np.array([[236, 190, 158], [214, 160, 122], [168, 112, 78], [116, 76, 52], [84, 56, 42]], np.float32)
# hue of each limb of the kit, 0..1; the torso is light in front and dark behind
KIT_HUE = {
    "left_shoulder": 0.00, "left_elbow": 0.09, "left_hip": 0.90, "left_knee": 0.80,
    "right_shoulder": 0.62, "right_elbow": 0.52, "right_hip": 0.36, "right_knee": 0.25,
    "left_foot": 0.04, "right_foot": 0.56,
}  # fmt: skip
LIMB = {"left_ankle": "left_foot", "right_ankle": "right_foot"}
TORSO = ("pelvis", "spine1", "spine2", "spine3", "left_collar", "right_collar", "neck")
HANDS = ("left_wrist", "left_hand", "right_wrist", "right_hand")


def hsv(hue: float, saturation: float, value: float) -> Colours:
    """One HSV colour (each 0..1, hue wraps) as RGB 0..255, shape (3,)."""
    wheel = np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    rgb = value * (1 - saturation + saturation * np.clip(wheel, 0, 1))
    return (255 * rgb).astype(np.float32)


@dataclass(frozen=True)
class Regions:
    """Vertex sets (V,) bool of a body in its rest pose: where each garment and feature lies."""

    joint: dict[str, NDArray[np.bool_]]
    front: NDArray[np.bool_]
    chest: NDArray[np.bool_]
    buttons: NDArray[np.bool_]
    hair: NDArray[np.bool_]
    eyes: NDArray[np.bool_]
    mouth: NDArray[np.bool_]
    soles: NDArray[np.bool_]
    watch: NDArray[np.bool_]
    height: NDArray[np.float32]


def regions(vertices: Colours, weights: Colours) -> Regions:
    """Find the regions on a rest-pose mesh, vertices (V,3) m facing +z, skin weights (V,24)."""
    label = weights.argmax(1)
    joint = {name: label == j for j, name in enumerate(JOINT_NAMES)}
    x, y, z = vertices.T
    torso = np.isin(label, [JOINT_NAMES.index(n) for n in TORSO])
    middle = np.median(z[torso])
    head = joint["head"]
    low, high, deep = y[head].min(), y[head].max(), np.quantile(z[head], 0.5)
    up = (y - low) / (high - low)
    front = torso & (z > middle + 0.01)
    chest_top = y[joint["spine3"]].max()
    feet = joint["left_foot"] | joint["right_foot"] | joint["left_ankle"] | joint["right_ankle"]
    wrist = joint["left_wrist"] & (np.abs(x - x[joint["left_wrist"]].min()) < 0.05)
    return Regions(
        joint=joint,
        front=front,
        chest=front & (np.abs(x) < 0.11) & (y < chest_top - 0.10) & (y > chest_top - 0.34),
        buttons=front & (np.abs(x) < 0.02),
        hair=head & (up > 0.35) & ((z < deep + 0.03) | (up > 0.88)),
        eyes=head & (z > deep + 0.06) & (np.abs(up - 0.55) < 0.05) & (np.abs(np.abs(x) - 0.033) < 0.014),
        mouth=head & (z > deep + 0.06) & (np.abs(up - 0.24) < 0.04) & (np.abs(x) < 0.026),
        soles=feet & (y < np.quantile(y[feet], 0.12)),
        watch=wrist,
        height=y.astype(np.float32),
    )


def dress(rng: np.random.Generator, where: Regions, kit: bool, hue_jitter: float) -> Colours:
    """Vertex colours (V,3) of one person: in the kit, hues off by `hue_jitter` (one sigma), or in any clothes."""
    out = np.empty((len(where.front), 3), np.float32)
    skin = SKIN[rng.integers(len(SKIN))] * np.float32(rng.uniform(0.85, 1.1))
    out[:] = skin
    limbs = kit_colours(rng, hue_jitter) if kit else street_colours(rng)
    for name, colour in limbs.items():
        out[where.joint[name]] = colour
    bare = skin if rng.random() < 0.25 and not kit else None  # short sleeves, shorts
    for name in ("left_elbow", "right_elbow") if rng.random() < 0.5 else ("left_knee", "right_knee"):
        if bare is not None:
            out[where.joint[name]] = bare
    shirt, back = torso_colours(rng, kit)
    for name in TORSO:
        out[where.joint[name]] = back
    out[where.front] = shirt
    out[where.chest] = 255 - shirt + rng.normal(0, 25, 3)
    out[where.buttons] = rng.uniform(0, 255, 3)
    out[where.joint["head"] | where.joint["neck"]] = skin
    out[where.hair] = hsv(rng.uniform(0.02, 0.12), rng.uniform(0.2, 0.9), rng.uniform(0.08, 0.5))
    out[where.eyes] = 20
    out[where.mouth] = (150, 40, 50)
    out[where.soles] = hsv(0.15, 0.35, 0.95) if kit else rng.uniform(0, 255, 3)
    out[where.watch] = 15
    stripes(rng, out, where)
    return np.clip(out, 0, 255)


def kit_colours(rng: np.random.Generator, jitter: float) -> dict[str, Colours]:
    # values leave room for a lamp near by, and spread little: brightness then tells how near a limb is
    draw, spread = rng.uniform, rng.normal
    limbs = {n: hsv(h + spread(0, jitter), draw(0.75, 1), draw(0.58, 0.66)) for n, h in KIT_HUE.items()}
    return limbs | {name: limbs[like] for name, like in LIMB.items()}


def street_colours(rng: np.random.Generator) -> dict[str, Colours]:
    sleeves, trousers, shoes = (rng.uniform(15, 240, 3).astype(np.float32) for _ in range(3))
    where = {"shoulder": sleeves, "elbow": sleeves, "hip": trousers, "knee": trousers, "ankle": shoes, "foot": shoes}
    return {f"{side}_{part}": colour for side in ("left", "right") for part, colour in where.items()}


def torso_colours(rng: np.random.Generator, kit: bool) -> tuple[Colours, Colours]:
    """Front and back of the shirt (3,): light and dark grey-ish in the kit, one colour otherwise."""
    if kit:
        front = hsv(rng.random(), rng.uniform(0, 0.2), rng.uniform(0.65, 0.75))
        return front, hsv(rng.random(), 0.3, rng.uniform(0.1, 0.3))
    colour = rng.uniform(20, 240, 3).astype(np.float32)
    return colour, colour * 0.9


def stripes(rng: np.random.Generator, colours: Colours, where: Regions) -> None:
    """Some shirts are striped: bands of 4-10 cm darkened in place."""
    if rng.random() < 0.3:
        band = np.sin(where.height * 2 * np.pi / rng.uniform(0.04, 0.1) + rng.uniform(0, 6)) > 0.3
        colours[where.front & band] *= 0.75
