"""Body files: the open body of the package, and licensed files that were imported without running anything in them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compress.atomic import atomic_write
from compress.errors import BadInput
from hmr.body.model import BETAS, MANO, SMPL, BodyModel, Layout, digest, layout_of
from hmr.checkpoints.safe_pickle import read_arrays
from hmr.home import fasthmr_home

OPEN_BODY = Path(__file__).parents[1] / "assets" / "open_body.npz"
ARRAYS = ("v_template", "shapedirs", "weights", "J_regressor", "kintree_table", "f")


def load_body(name: str | Path = "open") -> BodyModel:
    """The body called `name`: "open" (shipped), a name given by `import_body` ("smpl", ...) or a path to such a file.

    Raises: BadInput as `body_arrays`.
    """
    arrays, called = body_arrays(name)
    return BodyModel(arrays, name=called)


def body_arrays(name: str | Path) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of the body called `name` as in `load_body`, and what it is called in reports.

    Raises: BadInput where no file is found (listing every place looked at), where it is not a body, or where its
    arrays are not those that were imported.
    """
    places = _places(name)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        looked = ", ".join(str(place) for place in places)
        layout = MANO if str(name).startswith("mano") else SMPL
        raise BadInput(
            f"body '{name}': no file found; looked at {looked}. Register at {layout.register_at}, download "
            f"{layout.name} and run: fasthmr body import PATH"
        )
    found = read_arrays(path)
    arrays = check_body(found, path)
    stored = str(found.get("sha256", ""))
    if path != OPEN_BODY and stored != digest(arrays):
        raise BadInput(f"{path}: its arrays do not match its sha256; import the body again: fasthmr body import PATH")
    return arrays, str(name) if path in (OPEN_BODY, _home_file(str(name))) else path.stem


def import_body(path: str | Path) -> Path:
    """Convert an official SMPL or MANO file (.pkl or .npz, chumpy and scipy arrays included) to plain arrays with a
    sha256.

    Nothing in the file is executed. The result, `$FASTHMR_HOME/bodies/<name>/body.npz`, is written whole or not at
    all; name is "smpl", "smpl-female" or "smpl-male", of a hand "mano" or "mano-left", told from the file's name.
    Returns its path.

    Raises: BadInput where the file is missing, is neither (names the array and what is wrong), or wants to run code.
    """
    path = Path(path).expanduser()
    arrays = check_body(read_arrays(path), path)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, sha256=np.array(digest(arrays)), **arrays)  # type: ignore[arg-type]  # numpy types ** as allow_pickle
    return atomic_write(_home_file(_name_of(path, layout_of(arrays))), buffer.getvalue())


def _name_of(path: Path, layout: Layout) -> str:
    words = set(path.stem.lower().replace("-", "_").split("_"))
    if layout is MANO:
        return "mano-left" if words & {"l", "left"} else "mano"
    if words & {"f", "female"}:
        return "smpl-female"
    return "smpl-male" if words & {"m", "male"} else "smpl"


def _home_file(name: str) -> Path:
    return fasthmr_home() / "bodies" / name / "body.npz"


def _places(name: str | Path) -> list[Path]:
    """Where a body of that name or path may lie, in order."""
    if isinstance(name, str) and name == "open":
        return [OPEN_BODY]
    path = Path(name).expanduser()
    if isinstance(name, Path) or os.sep in name or path.suffix:
        return [path, path / "body.npz"]
    return [_home_file(name)]


def check_body(found: Mapping[str, object], path: Path) -> dict[str, np.ndarray]:
    """The arrays of SMPL or MANO in `found`, float32 with the first ten betas; `path` is for the message.

    Raises: BadInput naming file, array and what is wrong with it.
    """
    layout = layout_of(found)
    vertices, joints = layout.vertices, len(layout.parents)
    missing = [key for key in ARRAYS if key not in found]
    if missing:
        raise BadInput(f"{path}: no {layout.name} body: {', '.join(missing)} missing (it holds: {_listed(found)})")
    shapes: dict[str, tuple[int, ...]] = {
        "v_template": (vertices, 3),
        "shapedirs": (vertices, 3, BETAS),
        "weights": (vertices, joints),
        "J_regressor": (joints, vertices),
        "kintree_table": (2, joints),
    }
    if "posedirs" in found:
        shapes["posedirs"] = (vertices, 3, 9 * (joints - 1))
    floats = {key: _floats(found[key], key, shape, path, layout) for key, shape in shapes.items()}
    kintree = floats.pop("kintree_table").astype(np.int64)
    if kintree[1].tolist() != list(range(joints)) or kintree[0, 1:].tolist() != list(layout.parents[1:]):
        raise BadInput(f"{path}: kintree_table is not {layout.name}'s tree of {joints} joints")
    _check_ranges(floats, path)
    return floats | {"kintree_table": kintree, "f": _faces(found["f"], path, vertices)}


def _listed(found: Mapping[str, object]) -> str:
    return ", ".join(sorted(found)[:20]) or "nothing"


def _floats(value: object, key: str, shape: tuple[int, ...], path: Path, layout: Layout) -> np.ndarray:
    """`value` as a finite array of that shape; more than ten betas are cut."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise BadInput(f"{path}: {key} is not an array of numbers")
    if key == "shapedirs" and value.ndim == 3:
        value = value[..., :BETAS]
    if value.shape != shape:
        raise BadInput(f"{path}: {key} has shape {value.shape}, {layout.name}'s is {shape}")
    if not (np.abs(value) < 1e30).all():  # false for NaN too
        raise BadInput(f"{path}: {key} holds values that are not finite or absurdly large")
    # kintree_table stays as it is: its root is 2**32 - 1, which float32 would round
    return value if key == "kintree_table" else np.ascontiguousarray(value, np.float32)


def _check_ranges(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    for key, total in (("weights", arrays["weights"].sum(1)), ("J_regressor", arrays["J_regressor"].sum(1))):
        if np.abs(total - 1).max() > 1e-2:
            raise BadInput(f"{path}: rows of {key} do not sum to one")
    if np.ptp(arrays["v_template"], axis=0).max() > 10:
        raise BadInput(f"{path}: v_template is larger than 10 m; its unit is the metre")


def _faces(value: object, path: Path, vertices: int) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu" or value.ndim != 2 or value.shape[1] != 3:
        raise BadInput(f"{path}: f is not an array of vertex numbers (F, 3)")
    faces = value.astype(np.int64)
    if not len(faces) or faces.min() < 0 or faces.max() >= vertices:
        raise BadInput(f"{path}: f names vertices outside 0..{vertices - 1}")
    return faces
