"""Software rendering of posed meshes and textured rooms: numba kernels on plain arrays, deterministic, single-threaded.

Axes of every camera here: x right, y down, z forward, metres; pixel centres lie at +0.5. `focal` is in pixels of the
image being drawn and the principal point is the image centre.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

NO_FACE = -1


@numba.njit(cache=True)
def chain(rotations: Array, rest: Array, parents: NDArray[np.int64]) -> tuple[Array, Array]:
    """Forward kinematics: local rotations (J,3,3), rest joints (J,3) m -> global rotations (J,3,3), joints (J,3) m."""
    glob = np.empty_like(rotations)
    joints = np.empty_like(rest)
    glob[0], joints[0] = rotations[0], rest[0]
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
def skin(vertices: Array, glob: Array, joints: Array, rest: Array, index: NDArray[np.int64], weight: Array) -> Array:
    """Linear blend skinning with K influences a vertex: rest (V,3) m -> posed (V,3) m; index, weight (V,K)."""
    out = np.empty_like(vertices)
    for v in range(len(vertices)):
        x = y = z = np.float32(0.0)
        for k in range(index.shape[1]):
            w = weight[v, k]
            if w == 0.0:
                continue
            j = index[v, k]
            g = glob[j]
            a, b, c = vertices[v, 0] - rest[j, 0], vertices[v, 1] - rest[j, 1], vertices[v, 2] - rest[j, 2]
            x += w * (g[0, 0] * a + g[0, 1] * b + g[0, 2] * c + joints[j, 0])
            y += w * (g[1, 0] * a + g[1, 1] * b + g[1, 2] * c + joints[j, 1])
            z += w * (g[2, 0] * a + g[2, 1] * b + g[2, 2] * c + joints[j, 2])
        out[v, 0], out[v, 1], out[v, 2] = x, y, z
    return out


@numba.njit(cache=True, fastmath=True)
def vertex_normals(vertices: Array, faces: NDArray[np.int64]) -> Array:
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
        n = np.sqrt(out[v, 0] ** 2 + out[v, 1] ** 2 + out[v, 2] ** 2) + np.float32(1e-12)
        out[v, 0] /= n
        out[v, 1] /= n
        out[v, 2] /= n
    return out


@numba.njit(cache=True, fastmath=True)
def rasterise(
    vertices: Array,
    faces: NDArray[np.int64],
    focal: float,
    face_id: NDArray[np.int32],
    bary: Array,
    inverse_depth: Array,
    first: int,
) -> None:
    """Draw faces (F,3) of vertices (V,3) into a z-buffer that may hold other meshes already.

    `face_id` (H,W) gets `first` + the face's number, `bary` (H,W,3) its perspective-correct barycentric coordinates,
    `inverse_depth` (H,W) 1/z in 1/m (0: nothing). Faces that reach nearer than 5 cm are left out.
    """
    height, width = face_id.shape
    for t in range(len(faces)):
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        za, zb, zc = vertices[a, 2], vertices[b, 2], vertices[c, 2]
        if za < 0.05 or zb < 0.05 or zc < 0.05:
            continue
        x0, y0 = focal * vertices[a, 0] / za + width / 2, focal * vertices[a, 1] / za + height / 2
        x1, y1 = focal * vertices[b, 0] / zb + width / 2, focal * vertices[b, 1] / zb + height / 2
        x2, y2 = focal * vertices[c, 0] / zc + width / 2, focal * vertices[c, 1] / zc + height / 2
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < 1e-9:
            continue
        left, right = max(0, int(np.ceil(min(x0, x1, x2) - 0.5))), min(width - 1, int(np.floor(max(x0, x1, x2) - 0.5)))
        top, low = max(0, int(np.ceil(min(y0, y1, y2) - 0.5))), min(height - 1, int(np.floor(max(y0, y1, y2) - 0.5)))
        ia, ib, ic = 1 / za, 1 / zb, 1 / zc
        for y in range(top, low + 1):
            for x in range(left, right + 1):
                px, py = x + 0.5, y + 0.5
                w0 = ((x1 - px) * (y2 - py) - (x2 - px) * (y1 - py)) / area
                w1 = ((x2 - px) * (y0 - py) - (x0 - px) * (y2 - py)) / area
                w2 = 1 - w0 - w1
                if w0 < 0 or w1 < 0 or w2 < 0:
                    continue
                near = w0 * ia + w1 * ib + w2 * ic
                if near > inverse_depth[y, x]:
                    inverse_depth[y, x] = near
                    face_id[y, x] = first + t
                    bary[y, x, 0], bary[y, x, 1], bary[y, x, 2] = w0 * ia / near, w1 * ib / near, w2 * ic / near


@numba.njit(cache=True, fastmath=True)
def shade(
    image: Array,
    face_id: NDArray[np.int32],
    bary: Array,
    first: int,
    faces: NDArray[np.int64],
    normals: Array,
    colours: Array,
    light: Array,
    ambient: float,
) -> None:
    """Colour the pixels of one mesh (face ids from `first`): vertex colours (V,3) 0..255 under one light, Lambert."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            t = face_id[y, x] - first
            if t < 0 or t >= len(faces):
                continue
            lit = np.float32(0.0)
            r = g = b = np.float32(0.0)
            for k in range(3):
                v, w = faces[t, k], bary[y, x, k]
                lit += w * (normals[v, 0] * light[0] + normals[v, 1] * light[1] + normals[v, 2] * light[2])
                r += w * colours[v, 0]
                g += w * colours[v, 1]
                b += w * colours[v, 2]
            gain = ambient + (1 - ambient) * max(lit, np.float32(0.0))
            image[y, x, 0], image[y, x, 1], image[y, x, 2] = r * gain, g * gain, b * gain


@numba.njit(cache=True, fastmath=True)
def draw_room(
    image: Array,
    focal: float,
    rotation: Array,
    centre: Array,
    wall: Array,
    wall_texture: NDArray[np.uint8],
    floor_texture: NDArray[np.uint8],
    scale: Array,
    offset: Array,
    gain: Array,
    contacts: Array,
) -> None:
    """Fill image (H,W,3) with a floor (world y = 0) and one vertical wall, seen from a camera in the world.

    rotation (3,3) world -> camera, centre (3,) m; wall = (normal x, normal z, distance): points with n.p = -distance;
    textures (h,w,3) u8, scale = texels per metre (wall, floor), offset = four texel offsets, gain = brightness (wall,
    floor); contacts (C,4): x, z, radius m, strength of soft shadows on the floor.
    """
    height, width = image.shape[:2]
    for y in range(height):
        for x in range(width):
            cx, cy = (x + 0.5 - width / 2) / focal, (y + 0.5 - height / 2) / focal
            dx = rotation[0, 0] * cx + rotation[1, 0] * cy + rotation[2, 0]
            dy = rotation[0, 1] * cx + rotation[1, 1] * cy + rotation[2, 1]
            dz = rotation[0, 2] * cx + rotation[1, 2] * cy + rotation[2, 2]
            facing = dx * wall[0] + dz * wall[1]
            t_wall = 1e9
            if abs(facing) > 1e-6:
                t = -(wall[2] + centre[0] * wall[0] + centre[2] * wall[1]) / facing
                if t > 0:
                    t_wall = t
            t_floor = -centre[1] / dy if dy < -1e-6 else 1e9
            if t_floor < t_wall:
                t_floor = min(t_floor, 60.0)
                px, pz = centre[0] + t_floor * dx, centre[2] + t_floor * dz
                u, v = int(px * scale[1] + offset[2]), int(pz * scale[1] + offset[3])
                shadow = np.float32(1.0)
                for c in range(len(contacts)):
                    q = ((px - contacts[c, 0]) ** 2 + (pz - contacts[c, 1]) ** 2) / contacts[c, 2] ** 2
                    shadow *= 1 - contacts[c, 3] / (1 + q * q)
                texel = floor_texture[v % floor_texture.shape[0], u % floor_texture.shape[1]]
                k = gain[1] * shadow
            else:
                t_wall = min(t_wall, 60.0)
                px, py, pz = centre[0] + t_wall * dx, centre[1] + t_wall * dy, centre[2] + t_wall * dz
                u, v = int((pz * wall[0] - px * wall[1]) * scale[0] + offset[0]), int(-py * scale[0] + offset[1])
                texel = wall_texture[v % wall_texture.shape[0], u % wall_texture.shape[1]]
                k = gain[0]
            for c in range(3):
                image[y, x, c] = texel[c] * k


@numba.njit(cache=True, fastmath=True)
def develop(image: Array, blur: float, gain: Array, noise: float, grain: Array, start: int) -> NDArray[np.uint8]:
    """Lens and sensor: (H,W,3) 0..255 -> u8. A 3x3 binomial-like blur of weight `blur` 0..1, white balance `gain` (3,),
    additive noise of deviation `noise` read from the table `grain` (G,) at `start`."""
    height, width = image.shape[:2]
    out = np.empty((height, width, 3), np.uint8)
    side = np.float32(blur / 3)
    middle = np.float32(1 - 2 * blur / 3)
    rows = np.empty_like(image)
    for y in range(height):
        up, down = max(y - 1, 0), min(y + 1, height - 1)
        for x in range(width):
            for c in range(3):
                rows[y, x, c] = middle * image[y, x, c] + side * (image[up, x, c] + image[down, x, c])
    n = start
    for y in range(height):
        for x in range(width):
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            for c in range(3):
                value = (middle * rows[y, x, c] + side * (rows[y, left, c] + rows[y, right, c])) * gain[c]
                value += noise * grain[n % len(grain)]
                n += 1
                out[y, x, c] = np.uint8(min(max(value, np.float32(0.0)), np.float32(255.0)))
    return out
