"""Meshes posed and lit: numba kernels on plain arrays, deterministic, single-threaded.

World axes: x right, y up, z towards the camera, metres. Camera axes: x right, y down, z forward.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Faces = NDArray[np.int32]
Scalar = float | np.floating  # what a kernel calls float32 where it is one number

LAMP_CELLS, SKY_CELLS = 80, 40  # of a shadow map's side
SHADOW_SIDE = 2.8  # m that a shadow map spans
FAR = np.float32(-1e9)


@numba.njit(cache=True)
def chain(rotations: Array, rest: Array, parents: NDArray[np.int64]) -> tuple[Array, Array]:
    """Forward kinematics: local rotations (J,3,3), rest joints (J,3) m -> global rotations (J,3,3), joints (J,3) m."""
    glob = np.empty_like(rotations)
    joints = np.empty_like(rest)
    for a in range(3):  # not as a slice: a fifth of all that numba compiles here would be the words of its error
        joints[0, a] = rest[0, a]
        for b in range(3):
            glob[0, a, b] = rotations[0, a, b]
    for j in range(1, len(parents)):
        p = parents[j]
        for a in range(3):
            joints[j, a] = joints[p, a]
            for k in range(3):
                joints[j, a] += glob[p, a, k] * (rest[j, k] - rest[p, k])
            for b in range(3):
                glob[j, a, b] = 0.0
                for k in range(3):
                    glob[j, a, b] += glob[p, a, k] * rotations[j, k, b]
    return glob, joints


@numba.njit(cache=True, fastmath=True)
def anchored(out: Array, start: int, vertices: Array, moved: Array, corners: Faces, shares: Array) -> None:
    """Shape a garment as the body below it: out[start + v] = vertices[v] + the mix of `moved` (B,3) at its anchor.

    corners (V,3) are body vertices and shares (V,3) their weights.
    """
    for v in range(len(vertices)):
        for a in range(3):
            out[start + v, a] = (
                vertices[v, a]
                + shares[v, 0] * moved[corners[v, 0], a]
                + shares[v, 1] * moved[corners[v, 1], a]
                + shares[v, 2] * moved[corners[v, 2], a]
            )


@numba.njit(cache=True)
def uncovered(faces: Faces, hidden: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Numbers of the faces (F,3) that have a vertex which is not hidden (V,)."""
    out, count = np.empty(len(faces), np.int64), 0
    for f in range(len(faces)):
        if not (hidden[faces[f, 0]] and hidden[faces[f, 1]] and hidden[faces[f, 2]]):
            out[count] = f
            count += 1
    return out[:count]


@numba.njit(cache=True, fastmath=True)
def skin(vertices: Array, glob: Array, joints: Array, rest: Array, index: NDArray[np.uint8], weight: Array) -> Array:
    """Linear blend skinning with K influences a vertex: rest (V,3) m -> posed (V,3) m; index, weight (V,K)."""
    count = len(glob)
    shift = np.empty((count, 3), np.float32)
    for j in range(count):
        for a in range(3):
            shift[j, a] = joints[j, a] - (
                glob[j, a, 0] * rest[j, 0] + glob[j, a, 1] * rest[j, 1] + glob[j, a, 2] * rest[j, 2]
            )
    out = np.empty_like(vertices)
    for v in range(len(vertices)):
        a, b, c = vertices[v, 0], vertices[v, 1], vertices[v, 2]
        x = y = z = np.float32(0.0)
        for k in range(index.shape[1]):
            w = weight[v, k]
            if w == 0.0:
                continue
            j = index[v, k]
            x += w * (glob[j, 0, 0] * a + glob[j, 0, 1] * b + glob[j, 0, 2] * c + shift[j, 0])
            y += w * (glob[j, 1, 0] * a + glob[j, 1, 1] * b + glob[j, 1, 2] * c + shift[j, 1])
            z += w * (glob[j, 2, 0] * a + glob[j, 2, 1] * b + glob[j, 2, 2] * c + shift[j, 2])
        out[v, 0], out[v, 1], out[v, 2] = x, y, z
    return out


@numba.njit(cache=True, fastmath=True)
def vertex_normals(vertices: Array, faces: Faces) -> Array:
    """Area-weighted unit normals (V,3) of vertices (V,3) and faces (F,3)."""
    out = np.zeros_like(vertices)
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for i in (a, b, c):
            out[i, 0] += nx
            out[i, 1] += ny
            out[i, 2] += nz
    for v in range(len(out)):
        n = np.float32(1.0) / np.sqrt(out[v, 0] ** 2 + out[v, 1] ** 2 + out[v, 2] ** 2 + np.float32(1e-20))
        out[v, 0] *= n
        out[v, 1] *= n
        out[v, 2] *= n
    return out


@numba.njit(cache=True, fastmath=True)
def project(
    vertices: Array, rotation: Array, centre: Array, focal: float, width: int, height: int, bias: Array
) -> Array:
    """World vertices (V,3) -> x, y in pixels and 1 / depth (V,3); `bias` (V,) m pushes a vertex away from the camera.

    1 / depth is 0 for what is nearer than 10 cm.
    """
    out = np.empty_like(vertices)
    for v in range(len(vertices)):
        dx, dy, dz = vertices[v, 0] - centre[0], vertices[v, 1] - centre[1], vertices[v, 2] - centre[2]
        x = rotation[0, 0] * dx + rotation[0, 1] * dy + rotation[0, 2] * dz
        y = rotation[1, 0] * dx + rotation[1, 1] * dy + rotation[1, 2] * dz
        z = rotation[2, 0] * dx + rotation[2, 1] * dy + rotation[2, 2] * dz
        if z < 0.1:
            out[v, 0], out[v, 1], out[v, 2] = 0.0, 0.0, 0.0
            continue
        out[v, 0] = focal * x / z + width / np.float32(2)
        out[v, 1] = focal * y / z + height / np.float32(2)
        out[v, 2] = np.float32(1) / (z + bias[v])
    return out


@numba.njit(cache=True, fastmath=True)
def shadow_map(vertices: Array, axes: Array, middle: Array, cells: int) -> Array:
    """How far towards a lamp the foremost vertex (V,3) of each cell lies, (C,C) m along axes[2] from `middle` (3,).

    axes (3,3): two across the lamp's direction, and that direction. Vertices are denser than cells.
    """
    out = np.full((cells, cells), FAR, np.float32)
    scale, half = np.float32(cells / SHADOW_SIDE), np.float32(cells / 2)
    for v in range(len(vertices)):
        x, y, z = vertices[v, 0] - middle[0], vertices[v, 1] - middle[1], vertices[v, 2] - middle[2]
        i = int((axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z) * scale + half)
        j = int((axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z) * scale + half)
        if 0 <= i < cells and 0 <= j < cells:
            depth = axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z
            if depth > out[j, i]:
                out[j, i] = depth
    return out


@numba.njit(cache=True, fastmath=True)
def shaded(x: Scalar, y: Scalar, z: Scalar, cells: Array, axes: Array, gap: Scalar) -> Scalar:
    """Share 0..1 of a shadow map that lies in front of a point, which `middle` was taken from, by over `gap` m: the
    mean of 3 x 3 cells around it, moved smoothly."""
    count = len(cells)
    scale, half = np.float32(count / SHADOW_SIDE), np.float32(count / 2 - 0.5)
    u = (axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z) * scale + half
    v = (axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z) * scale + half
    if u < 1 or v < 1 or u >= count - 2 or v >= count - 2:
        return np.float32(0.0)
    depth = axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z + gap
    i, j = int(u), int(v)
    fu, fv = np.float32(u - i), np.float32(v - j)
    total = np.float32(0.0)
    for b in range(-1, 3):
        row = np.float32(0.0)
        if cells[j + b, i - 1] > depth:
            row += 1 - fu
        if cells[j + b, i] > depth:
            row += 1
        if cells[j + b, i + 1] > depth:
            row += 1
        if cells[j + b, i + 2] > depth:
            row += fu
        total += row * ((1 - fv) if b == -1 else fv if b == 2 else np.float32(1.0))
    return total / np.float32(9)


@numba.njit(cache=True, fastmath=True)
def vertex_light(
    vertices: Array,
    normals: Array,
    gloss: Array,
    harmonics: Array,
    aims: Array,
    lamps: Array,
    eye: Array,
    sky: Array,
    maps: Array,
    axes: Array,
    middle: Array,
) -> Array:
    """Light (V,4) on world vertices (V,3): irradiance / pi, RGB, and what shines of the lamps.

    harmonics (9,3); aims, lamps (L,3); `sky` (C,C) and maps (L,C,C) are shadow maps from above and from each lamp,
    axes (1 + L,3,3) theirs around `middle` (3,). gloss (V,) is how much a vertex shines; eye (3,) m. What faces away
    from the eye by far is not worked out.
    """
    out = np.empty((len(vertices), 4), np.float32)
    for v in range(len(vertices)):
        x, y, z = normals[v, 0], normals[v, 1], normals[v, 2]
        px, py, pz = vertices[v, 0] - middle[0], vertices[v, 1] - middle[1], vertices[v, 2] - middle[2]
        ex, ey, ez = eye[0] - vertices[v, 0], eye[1] - vertices[v, 1], eye[2] - vertices[v, 2]
        away = np.float32(1.0) / np.sqrt(ex * ex + ey * ey + ez * ez)
        if (ex * x + ey * y + ez * z) * away < np.float32(-0.5):
            for c in range(4):
                out[v, c] = np.float32(0.08) * harmonics[0, c] if c < 3 else np.float32(0)
            continue
        open_sky = np.float32(1.0) - np.float32(0.55) * shaded(px, py, pz, sky, axes[0], np.float32(0.10))
        for c in range(3):
            value = (
                np.float32(0.282095) * harmonics[0, c]
                + np.float32(0.488603) * (harmonics[1, c] * y + harmonics[2, c] * z + harmonics[3, c] * x)
                + np.float32(1.092548) * (harmonics[4, c] * x * y + harmonics[5, c] * y * z + harmonics[7, c] * x * z)
                + np.float32(0.315392) * harmonics[6, c] * (3 * z * z - 1)
                + np.float32(0.546274) * harmonics[8, c] * (x * x - y * y)
            )
            out[v, c] = max(value, np.float32(0.02)) * open_sky
        out[v, 3] = 0.0
        for lamp in range(len(aims)):
            facing = x * aims[lamp, 0] + y * aims[lamp, 1] + z * aims[lamp, 2]
            if facing <= 0:
                continue
            shadow = shaded(px, py, pz, maps[lamp], axes[1 + lamp], np.float32(0.07))
            strength = facing * (1 - shadow)
            for c in range(3):
                out[v, c] += strength * lamps[lamp, c]
            if gloss[v] > 0:
                hx, hy, hz = ex * away + aims[lamp, 0], ey * away + aims[lamp, 1], ez * away + aims[lamp, 2]
                n = np.float32(1.0) / np.sqrt(hx * hx + hy * hy + hz * hz + np.float32(1e-9))
                s = max((hx * x + hy * y + hz * z) * n, np.float32(0.0))
                s = s * s
                s = s * s
                s = s * s
                s = s * s
                out[v, 3] += gloss[v] * s * (1 - shadow) * lamps[lamp, 1]
    return out
