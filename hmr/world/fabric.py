"""What surfaces are made of, drawn at random: cloth with patterns and prints, skin, hair. Rows of `paint`'s materials.

Colours are sRGB 0..1 where they are chosen and linear in a material.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hmr.world import paint
from hmr.world.sensor import srgb_to_linear
from hmr.world.textures import faces, patterns, prints

Array = NDArray[np.float32]

SKIN = np.array(
    [[245, 210, 185], [234, 190, 160], [222, 172, 138], [198, 144, 108], [165, 112, 80], [124, 82, 58], [88, 58, 44]]
)
HAIR = np.array(
    [
        [24, 20, 18],
        [45, 32, 24],
        [80, 54, 36],
        [122, 86, 54],
        [176, 138, 92],
        [214, 186, 136],
        [110, 52, 30],
        [150, 146, 142],
    ]
)
HAIR_SHARE = (0.3, 0.2, 0.16, 0.1, 0.08, 0.05, 0.04, 0.07)


def hsv(hue: float, saturation: float, value: float) -> NDArray[np.float64]:
    """One HSV colour (each 0..1, hue wraps) as RGB 0..1, shape (3,)."""
    wheel = np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return np.asarray(value * (1 - saturation + saturation * np.clip(wheel, 0, 1)))


def colour(rng: np.random.Generator, neutral: float = 0.4) -> NDArray[np.float64]:
    """A colour (3,) as clothes have them: black, grey or white for a share of `neutral`, some navy and khaki, the rest
    of any hue, few of them vivid."""
    kind = rng.random()
    if kind < neutral:
        grey = (0.06, 0.12, 0.3, 0.6, 0.9)[int(rng.integers(5))]
        return np.clip(grey + rng.normal(0, 0.04) + rng.normal(0, 0.012, 3), 0.02, 1)
    kind = (kind - neutral) / (1 - neutral)
    if kind < 0.2:
        return hsv(rng.normal(0.61, 0.02), rng.uniform(0.35, 0.8), rng.uniform(0.15, 0.6))
    if kind < 0.4:
        return hsv(rng.normal(0.09, 0.03), rng.uniform(0.2, 0.6), rng.uniform(0.25, 0.85))
    if kind < 0.5:
        return hsv(rng.random(), rng.uniform(0.7, 0.95), rng.uniform(0.5, 0.95))
    hue = rng.normal(0.98, 0.06) if rng.random() < 0.4 else rng.random()
    return hsv(hue, rng.uniform(0.15, 0.7), rng.uniform(0.2, 0.85))


def blank(kind: int) -> Array:
    row = np.zeros(paint.COLUMNS, np.float32)
    row[paint.KIND] = kind
    row[[paint.PRINT, paint.PERIOD, paint.DUTY, paint.BAND_LOW, paint.BAND_HIGH]] = (-1, 0.1, 0.5, 1, -1)
    return row


def put(row: Array, place: int, value: NDArray[np.floating]) -> None:
    """Write a colour (3,) sRGB into a material; nothing reflects less than 1 % or more than 85 %."""
    row[place : place + 3] = np.clip(srgb_to_linear(np.asarray(value)), 0.01, 0.85)


def cloth(rng: np.random.Generator, plain: float = 0.55, neutral: float = 0.4) -> Array:
    """A fabric: plain for a share of `plain`, else striped, checked or printed all over; `neutral` as in `colour`."""
    row = blank(paint.CLOTH)
    for place in (paint.FIRST, paint.SECOND, paint.THIRD):
        put(row, place, colour(rng, neutral))
    row[paint.SHIFT_U : paint.SHIFT_V + 1] = rng.uniform(0, 4, 2)
    row[paint.WEAVE], row[paint.WEAR] = rng.uniform(0.0, 0.35), rng.exponential(0.12)
    row[paint.FOLDS] = rng.uniform(0.1, 0.75)
    if rng.random() < plain:
        return row
    row[paint.FIGURE] = rng.choice([paint.RINGS, paint.LINES, paint.CHECKS, paint.PATTERN], p=[0.3, 0.1, 0.2, 0.4])
    row[paint.PERIOD], row[paint.DUTY] = np.exp(rng.uniform(np.log(0.02), np.log(0.16))), rng.uniform(0.2, 0.7)
    if row[paint.FIGURE] == paint.PATTERN:
        row[paint.TILE_ID], row[paint.PERIOD] = rng.integers(len(patterns())), rng.uniform(0.02, 0.07)
    if rng.random() < 0.5:  # tone on tone
        row[paint.SECOND : paint.SECOND + 3] = np.clip(
            row[paint.FIRST : paint.FIRST + 3] * rng.uniform(0.3, 2.5), 0.01, 0.85
        )
    return row


def top_cloth(rng: np.random.Generator) -> Array:
    """A fabric that may have a print on chest or back, or a band across the chest."""
    row = cloth(rng)
    if rng.random() < 0.35:
        small = rng.random() < 0.4
        row[paint.PRINT] = rng.integers(len(prints()))
        row[paint.PRINT_SIZE] = rng.uniform(0.02, 0.04) if small else rng.uniform(0.07, 0.14)
        row[paint.PRINT_X], row[paint.PRINT_Y] = (0.08, 0.42) if small else (0.0, rng.uniform(0.28, 0.38))
        row[paint.PRINT_BACK] = not small and rng.random() < 0.3
    if rng.random() < 0.12:
        low = rng.uniform(0.2, 0.4)
        row[paint.BAND_LOW], row[paint.BAND_HIGH] = low, low + rng.uniform(0.03, 0.15)
    return row


def bottom_cloth(rng: np.random.Generator, waist: float) -> Array:
    """A fabric for legs: plain, denim or with a stripe down the side; a belt at `waist` m."""
    row = cloth(rng, 0.85, 0.55)
    if rng.random() < 0.35:
        put(row, paint.FIRST, hsv(rng.normal(0.6, 0.015), rng.uniform(0.3, 0.7), rng.uniform(0.15, 0.65)))
        row[paint.FIGURE], row[paint.WEAR], row[paint.WEAVE] = paint.PLAIN, rng.uniform(0.15, 0.5), 0.3
    if rng.random() < 0.12:
        row[paint.FIGURE], row[paint.PERIOD] = paint.SIDE_STRIPE, rng.uniform(0.04, 0.12)
    if rng.random() < 0.3:
        row[paint.BAND_LOW], row[paint.BAND_HIGH] = waist - 0.035, waist + 0.1
    return row


def matter(rng: np.random.Generator) -> Array:
    """What furniture is made of."""
    row = cloth(rng, 0.7, 0.3)
    for place in (paint.FIRST, paint.SECOND):
        row[place : place + 3] = 0.5 * row[place : place + 3] + 0.5 * row[place : place + 3].mean()
    row[paint.FOLDS] = 0
    return row


def leather(rng: np.random.Generator) -> Array:
    """What shoes and hats are made of."""
    row = cloth(rng, 1.0, 0.7)
    row[paint.FOLDS] = rng.uniform(0, 0.3)
    return row


def skin_and_hair(rng: np.random.Generator) -> tuple[Array, Array]:
    """Materials of somebody's skin and hair; some are bald."""
    skin, hair = blank(paint.SKIN), blank(paint.HAIR)
    at = rng.uniform(0, len(SKIN) - 1)
    low = min(int(at), len(SKIN) - 2)
    tone = SKIN[low] + (at - low) * (SKIN[low + 1] - SKIN[low])
    put(skin, paint.FIRST, np.clip(tone * rng.uniform(0.9, 1.06) + rng.normal(0, 4, 3), 0, 255) / 255)
    strand = HAIR[rng.choice(len(HAIR), p=HAIR_SHARE)] / 255 * rng.uniform(0.8, 1.2)
    if rng.random() < 0.03:
        strand = hsv(rng.random(), 0.7, 0.7)
    put(skin, paint.SECOND, np.clip(strand, 0, 1))
    put(hair, paint.FIRST, np.clip(strand, 0, 1))
    skin[paint.HAIRLINE] = 9 if rng.random() < 0.05 else rng.uniform(0.015, 0.04)
    skin[paint.FACE_ID], skin[paint.WEAVE] = rng.integers(len(faces())), rng.uniform(0.05, 0.25)
    for row in (skin, hair):
        row[paint.SHIFT_U : paint.SHIFT_V + 1] = rng.uniform(0, 4, 2)
    return skin, hair
