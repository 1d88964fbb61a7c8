"""The kernels against closed forms, brute force and smplx's own posing."""

from __future__ import annotations

import numpy as np
import roma
import torch

from hmr.body.files import load_body
from hmr.world import render
from hmr.world.scene import mesh


def buffers(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size = (height, width)
    return np.full(size, -1, np.int32), np.zeros((*size, 3), np.float32), np.zeros(size, np.float32)


def test_chain_and_skin_equal_the_body_model() -> None:
    body, arrays = load_body(), mesh()
    rotations = roma.random_rotmat(24)
    betas = torch.randn(1, 10)
    wanted = body(rotations[None], betas)
    vertices = arrays.vertices + (arrays.shapes @ betas[0].numpy()).reshape(-1, 3)
    rest = arrays.joints + arrays.joint_shapes @ betas[0].numpy()
    glob, joints = render.chain(rotations.numpy(), rest, arrays.parents)
    out = render.skin(vertices, glob, joints, rest, arrays.index, arrays.weight)
    np.testing.assert_allclose(joints, wanted.joints[0], atol=2e-5)
    np.testing.assert_allclose(out, wanted.vertices[0], atol=2e-5)


def test_rasterised_barycentrics_put_each_pixel_back_on_its_ray() -> None:
    """A pixel's interpolated point, projected, must be that pixel's centre; its depth must be the buffer's."""
    rng = np.random.default_rng(0)
    vertices = (rng.uniform(-1, 1, (30, 3)) + np.array([0, 0, 3])).astype(np.float32)
    faces = rng.permutation(30).reshape(10, 3).astype(np.int64)
    face_id, bary, near = buffers(64, 48)
    render.rasterise(vertices, faces, 40.0, face_id, bary, near, 5)
    y, x = np.nonzero(face_id >= 0)
    assert len(y) > 200
    points = np.einsum("pk,pkc->pc", bary[y, x], vertices[faces[face_id[y, x] - 5]])
    np.testing.assert_allclose(40 * points[:, 0] / points[:, 2] + 24, x + 0.5, atol=2e-3)
    np.testing.assert_allclose(40 * points[:, 1] / points[:, 2] + 32, y + 0.5, atol=2e-3)
    np.testing.assert_allclose(1 / points[:, 2], near[y, x], rtol=1e-4)


def test_the_nearest_of_all_faces_on_a_ray_is_seen() -> None:
    """Brute force: every face drawn alone; the buffer must hold the one with the largest inverse depth."""
    rng = np.random.default_rng(1)
    vertices = (rng.uniform(-1, 1, (24, 3)) + np.array([0, 0, 3])).astype(np.float32)
    faces = rng.permutation(24).reshape(8, 3).astype(np.int64)
    face_id, bary, near = buffers(40, 40)
    render.rasterise(vertices, faces, 30.0, face_id, bary, near, 0)
    alone = []
    for face in faces:
        one = buffers(40, 40)
        render.rasterise(vertices, face[None], 30.0, *one, 0)
        alone.append(one[2])
    depths = np.stack(alone)
    np.testing.assert_array_equal(near, depths.max(0))
    np.testing.assert_array_equal(face_id[near > 0], depths.argmax(0)[near > 0])


def test_normals_of_a_tetrahedron_point_outwards() -> None:
    vertices = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32)
    faces = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]], np.int64)
    np.testing.assert_allclose(render.vertex_normals(vertices, faces), vertices / np.sqrt(3), atol=1e-5)


def test_flat_light_reproduces_colour() -> None:
    vertices = np.array([[-9, -9, 2], [9, -9, 2], [0, 20, 2]], np.float32)
    faces = np.array([[0, 1, 2]], np.int64)
    face_id, bary, near = buffers(16, 16)
    render.rasterise(vertices, faces, 16.0, face_id, bary, near, 0)
    image = np.zeros((16, 16, 3), np.float32)
    normals = np.tile(np.array([[0, 0, -1]], np.float32), (3, 1))
    colours = np.tile(np.array([[10, 100, 200]], np.float32), (3, 1))
    render.shade(image, face_id, bary, 0, faces, normals, colours, np.array([0, 0, -1], np.float32), 0.3)
    np.testing.assert_allclose(image, np.broadcast_to([10, 100, 200], (16, 16, 3)), rtol=1e-5)


def test_blur_keeps_a_constant_and_the_mean_of_noise() -> None:
    grain = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    flat = np.full((32, 32, 3), 100, np.float32)
    assert (render.develop(flat, 1.0, np.ones(3, np.float32), 0.0, grain, 0) == 100).all()
    noisy = render.develop(flat, 0.0, np.ones(3, np.float32), 5.0, grain, 17).astype(float)
    assert abs(noisy.mean() - 99.5) < 0.5  # truncation to whole levels takes half a level
    assert abs(noisy.std() - 5) < 0.5
