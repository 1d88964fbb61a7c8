"""The world's kernels against closed forms, brute force and the body model; its garments, light and cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import roma
import torch
from PIL import Image

from compress.errors import BadInput
from hmr.body.files import load_body
from hmr.world import backdrop, fabric, geometry, light, paint, people, poses, raster, scene, sensor, wardrobe

FRONT = np.array([0, 0, 3.0], np.float32)  # m, where a camera stands that looks along -z
LOOK = np.diag([1, -1, -1]).astype(np.float32)


def buffers(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size = (height, width)
    return np.full(size, -1, np.int32), np.zeros((*size, 2), np.float32), np.zeros(size, np.float32)


def on_screen(vertices: np.ndarray, focal: float, height: int, width: int) -> np.ndarray:
    """Vertices (V,3) in camera axes as `rasterise` takes them."""
    still = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)
    return geometry.project(vertices, *still, focal, width, height, np.zeros(len(vertices), np.float32))


def triangles(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    vertices = (rng.uniform(-1, 1, (3 * count, 3)) + np.array([0, 0, 3])).astype(np.float32)
    return vertices, rng.permutation(3 * count).reshape(count, 3).astype(np.int32)


def drawn(vertices: np.ndarray, faces: np.ndarray, focal: float, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    found = buffers(*size)
    screen, whole = on_screen(vertices, focal, *size), np.full(len(vertices), -1, np.float32)
    raster.rasterise(screen, whole, faces, np.zeros(len(faces), bool), *found)
    return found


def test_chain_and_skin_equal_the_body_model() -> None:
    model, naked = load_body(), wardrobe.body()
    rotations, betas = roma.random_rotmat(24), torch.randn(1, 10)
    wanted = model(rotations[None], betas)
    who = people.dressed(betas[0].numpy(), fabric.blank(paint.SKIN), [])
    glob, joints = geometry.chain(rotations.numpy(), who.joints, naked.parents)
    out = geometry.skin(who.vertices, glob, joints, who.joints, who.index, who.weight)
    np.testing.assert_allclose(joints, wanted.joints[0], atol=2e-5)
    np.testing.assert_allclose(out, wanted.vertices[0], atol=2e-5)


def test_rasterised_barycentrics_put_each_pixel_back_on_its_ray() -> None:
    """A pixel's interpolated point, projected, must be that pixel's centre; its depth must be the buffer's."""
    vertices, faces = triangles(np.random.default_rng(0), 10)
    face_id, bary, near = drawn(vertices, faces, 40.0, (64, 48))
    y, x = np.nonzero(face_id >= 0)
    assert len(y) > 200
    share = np.concatenate([bary[y, x], 1 - bary[y, x].sum(1, keepdims=True)], 1)
    points = np.einsum("pk,pkc->pc", share, vertices[faces[face_id[y, x]]])
    np.testing.assert_allclose(40 * points[:, 0] / points[:, 2] + 24, x + 0.5, atol=4e-3)
    np.testing.assert_allclose(40 * points[:, 1] / points[:, 2] + 32, y + 0.5, atol=4e-3)
    np.testing.assert_allclose(1 / points[:, 2], near[y, x], rtol=2e-4)


def test_the_nearest_of_all_faces_on_a_ray_is_seen() -> None:
    """Brute force: every face drawn alone; the buffer must hold the one with the largest inverse depth."""
    vertices, faces = triangles(np.random.default_rng(1), 8)
    face_id, _, near = drawn(vertices, faces, 30.0, (40, 40))
    depths = np.stack([drawn(vertices, face[None], 30.0, (40, 40))[2] for face in faces])
    np.testing.assert_array_equal(near, depths.max(0))
    np.testing.assert_array_equal(face_id[near > 0], depths.argmax(0)[near > 0])


def test_cloth_ends_where_it_is_cut() -> None:
    """A square cut at x = 0.25: what is left is what lies to the left of that, to the pixel."""
    vertices = np.array([[-1, -1, 2], [1, -1, 2], [1, 1, 2], [-1, 1, 2]], np.float32)
    faces, found = np.array([[0, 1, 2], [0, 2, 3]], np.int32), buffers(32, 32)
    cut = vertices[:, 0] - np.float32(0.25)
    raster.rasterise(on_screen(vertices, 32.0, 32, 32), cut, faces, np.zeros(2, bool), *found)
    left = (np.arange(32) + 0.5 - 16) / 16 <= 0.25
    np.testing.assert_array_equal(found[0] >= 0, np.broadcast_to(left, (32, 32)))


def test_normals_of_a_tetrahedron_point_outwards() -> None:
    vertices = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32)
    faces = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]], np.int32)
    np.testing.assert_allclose(geometry.vertex_normals(vertices, faces), vertices / np.sqrt(3), atol=1e-5)


def test_a_solid_mesh_in_flat_light_has_its_colour() -> None:
    vertices = np.array([[-9, -9, 2], [9, -9, 2], [0, 20, 2]], np.float32)
    image, colours = np.zeros((16, 16, 3), np.float32), np.tile(np.array([[10, 100, 200]], np.float32), (3, 1))
    away = np.array([0, 0, 1], np.float32)
    raster.draw_solid(image, vertices, np.array([[0, 1, 2]], np.int32), 16.0, colours, away, 0.3)
    np.testing.assert_allclose(image, np.broadcast_to([10, 100, 200], (16, 16, 3)), rtol=1e-5)


def test_a_shadow_falls_behind_what_a_lamp_meets_and_nowhere_else() -> None:
    """A disc one metre towards the lamp shades a point on its axis, not one beside it, nor one nearer to the lamp."""
    rng = np.random.default_rng(0)
    disc = np.concatenate([rng.uniform(-0.3, 0.3, (20000, 2)), np.ones((20000, 1))], 1).astype(np.float32)
    axes = np.eye(3, dtype=np.float32)
    cells = geometry.shadow_map(disc, axes, np.zeros(3, np.float32), geometry.LAMP_CELLS)
    assert geometry.shaded(0.0, 0.0, 0.0, cells, axes, 0.05) == pytest.approx(1)
    assert geometry.shaded(0.6, 0.0, 0.0, cells, axes, 0.05) == 0
    assert geometry.shaded(0.0, 0.0, 1.2, cells, axes, 0.05) == 0


def test_harmonics_give_back_a_cosine_light_and_turn_with_their_place() -> None:
    """Irradiance of a sky that is 1 + y bright is pi (1 + 2 y / 3) (Ramamoorthi and Hanrahan 2001, Eq. 7)."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    basis = light.harmonics(vectors)
    grey = np.ones(3)
    sky = np.zeros((9, 3), np.float32)
    sky[0], sky[1] = grey / 0.282095, grey * 2 / 3 / 0.488603
    np.testing.assert_allclose(basis @ sky, (1 + 2 / 3 * vectors[:, 1:2]) * grey, atol=1e-4)
    some, turn = rng.normal(size=(9, 3)).astype(np.float32), light.yaw(0.7)
    turned = light.turned_harmonics(some, turn)
    np.testing.assert_allclose(light.harmonics(vectors @ turn.T) @ turned, basis @ some, atol=1e-4)


def test_every_garment_follows_the_body_in_shape_and_pose() -> None:
    """In any shape a garment stays as near to the skin as it was made; weights and shares sum to one."""
    naked = wardrobe.body()
    moved = (naked.shapes @ np.full(10, 2, np.float32)).reshape(-1, 3)
    assert {g.kind for g in wardrobe.garments()} >= {"top", "long_top", "trousers", "shorts", "skirt", "shoes", "hair"}
    for garment in wardrobe.garments():
        np.testing.assert_allclose(garment.weight.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(garment.shares.sum(1), 1, atol=1e-5)
        out = np.empty_like(garment.vertices)
        geometry.anchored(out, 0, garment.vertices, moved, garment.corners, garment.shares)
        below = (garment.shares[..., None] * naked.vertices[garment.corners]).sum(1)
        shaped = below + (garment.shares[..., None] * moved[garment.corners]).sum(1)
        np.testing.assert_allclose(out - shaped, garment.vertices - below, atol=1e-5)
        assert garment.faces.max() < len(garment.vertices) and np.isfinite(garment.vertices).all()


def test_clothes_hide_the_skin_below_them() -> None:
    """From all around, hardly any skin of trunk and legs is seen of somebody in a suit; naked, all of it is."""
    suit = next(g for g in wardrobe.garments() if g.kind == "suit")
    row = fabric.blank(paint.CLOTH)
    naked = people.dressed(np.zeros(10, np.float32), fabric.blank(paint.SKIN), [])
    clad = people.dressed(np.zeros(10, np.float32), fabric.blank(paint.SKIN), [wardrobe.worn(suit, row, row)])
    still = np.tile(np.eye(3, dtype=np.float32), (24, 1, 1))
    for angle in np.linspace(0, 2 * np.pi, 6):
        seen = []
        for who in (naked, clad):
            at = people.posed(who, still, angle, np.zeros(3, np.float32), None).vertices
            middle = np.array([0, 0.9, 3], np.float32)
            screen = geometry.project(at, LOOK, middle, 120.0, 96, 128, who.bias)
            found = buffers(128, 96)
            raster.rasterise(screen, who.cut, who.faces, who.culled, *found)
            faces = who.faces[found[0][found[0] >= 0]]
            height = who.paint[faces].mean(1)[:, 1]
            trunk = (height > -0.75) & (height < 0.35)
            seen.append((who.material[found[0][found[0] >= 0]][trunk] == 0).mean())
        assert seen[0] == 1 and seen[1] < 0.02


def test_a_cut_sleeve_shows_the_arm_and_ends_at_its_length() -> None:
    jumper = next(g for g in wardrobe.garments() if g.kind == "long_top")
    row = fabric.blank(paint.CLOTH)
    whole, short = wardrobe.worn(jumper, row, row), wardrobe.worn(jumper, row, row, sleeve=0.4)
    arm = np.abs(wardrobe.body().vertices[:, 0]) > 0.4
    assert whole.hides[arm].any() and not short.hides[arm].any()
    np.testing.assert_array_equal(short.cut > 0, np.abs(jumper.vertices[:, 0]) > 0.4)


def test_what_the_shifted_world_wears_and_where_it_stands_is_not_in_the_other() -> None:
    seen = {g.name for kind in wardrobe.stock(False).values() for g in kind}
    held = {g.name for kind in wardrobe.stock(True).values() for g in kind} - seen
    assert len(held) >= 6 and {g.kind for g in wardrobe.garments() if g.name in held} >= {"hair", "shoes", "hat"}
    assert not {p.name for p in light.places_of(False)} & {p.name for p in light.places_of(True)}
    assert all(wardrobe.stock(False)[kind] for kind in ("top", "long_top", "trousers", "skirt", "hair", "shoes", "hat"))


def test_cameras_look_from_all_sides_and_heights_that_are_promised() -> None:
    rng = np.random.default_rng(0)
    pitch, roll = [], []
    for _ in range(400):
        rotation, _ = scene.place_camera(rng, scene.SYNTH, 4.0)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
        pitch.append(np.degrees(np.arcsin(-rotation[2, 1])))
        roll.append(np.degrees(np.arctan2(rotation[0, 1], -rotation[1, 1])))
    assert min(pitch) > -10.5 and max(pitch) < 40.5 and np.ptp(pitch) > 40
    assert max(map(abs, roll)) < 30.5 and np.ptp(roll) > 50


def test_limbs_through_the_trunk_are_refused_and_a_t_pose_is_not() -> None:
    still = np.tile(np.eye(3, dtype=np.float32), (24, 1, 1))
    assert not poses.penetrates(still)
    folded = still.copy()
    folded[poses.J["left_shoulder"]] = poses.rotation_vectors(np.array([[0, np.pi, 0]]))[0]  # the arm through the chest
    assert poses.penetrates(folded)


def test_gap_between_segments_is_that_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    t = np.linspace(0, 1, 201)
    for _ in range(30):
        a, b, c, d = rng.normal(size=(4, 3))
        one, other = a + t[:, None] * (b - a), c + t[:, None] * (d - c)
        brute = np.linalg.norm(one[:, None] - other[None], axis=-1).min()
        assert poses.gap(a, b, c, d) == pytest.approx(brute, abs=0.02)


def test_a_slerp_halfway_is_as_far_from_both_ends() -> None:
    start, end = roma.random_rotmat(24).numpy(), roma.random_rotmat(24).numpy()
    turn = roma.rotmat_to_rotvec(torch.from_numpy(start.swapaxes(-1, -2) @ end)).norm(dim=-1).numpy()
    middle = poses.slerped(start, end, 0.5)
    half = roma.rotmat_to_rotvec(torch.from_numpy(start.swapaxes(-1, -2) @ middle)).norm(dim=-1).numpy()
    clear = turn < 2.9
    assert clear.sum() > 10
    np.testing.assert_allclose(half[clear], turn[clear] / 2, atol=1e-3)


def test_a_sensor_keeps_what_is_flat_and_blur_keeps_the_sum() -> None:
    rng = np.random.default_rng(0)
    plain = sensor.Sensor(np.ones(3, np.float32), 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0)
    grey = np.full((32, 32, 3), sensor.srgb_to_linear(np.array(100 / 255)), np.float32)
    assert np.abs(sensor.developed(rng, grey, plain).astype(int) - 100).max() <= 3  # the shoulder takes a little
    dot = np.zeros((33, 33, 3), np.float32)
    dot[16, 16] = 1
    for out in (sensor.blurred(dot, 1.5), sensor.smeared(dot, 6.0, 0.4)):
        assert out.sum() == pytest.approx(3, rel=1e-3) and out[16, 16, 0] < 0.5
    assert sensor.blurred(dot, 1.5)[16, 18, 0] == pytest.approx(sensor.blurred(dot, 1.5)[18, 16, 0])


def test_backgrounds_are_as_they_show(tmp_path) -> None:
    """A phone's photograph lies in its file; grey of 16 bits is no white."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), (200, 0, 0)).save(tmp_path / "10.jpg", exif=exif)
    Image.fromarray(np.full((20, 40), 128 * 257, np.uint16)).save(tmp_path / "2.png")
    (tmp_path / "._2.png").write_bytes(b"resources")
    paths = backdrop.folder_photos(str(tmp_path))
    assert [Path(path).name for path in paths] == ["2.png", "10.jpg"]
    grey, phone = map(backdrop.photo, paths)
    assert grey.shape == (20, 40, 3) and (grey == 128).all() and phone.shape == (40, 20, 3)


def test_a_folder_without_pictures_is_named(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(BadInput, match=r"no pictures .* check --backgrounds"):
        backdrop.folder_photos(str(tmp_path))
    broken = tmp_path / "a.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"a\.jpg"):
        backdrop.photo(str(broken))
