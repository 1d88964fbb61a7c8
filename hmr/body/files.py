"""Body files: the open body of the package, and licensed files that were imported without running anything in them."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compress.atomic import atomic_write
from compress.choices import one_of
from compress.errors import BadInput
from hmr.body.model import BETAS, MANO, SMPL, BodyLayout, BodyModel, digest, layout_of
from hmr.checkpoints.safe_pickle import read_arrays
from hmr.home import fasthmr_home

OPEN_BODY = Path(__file__).parents[1] / "assets" / "open_body.npz"


def _word(letter: str, word: str) -> str:
    """A pattern of a word in any case and anywhere, as in SMPLMale, or of its letter standing alone, as in SMPL_M."""
    return rf"(?i:{word})|(?<![A-Za-z])(?i:{letter})(?![A-Za-z])"


KINDS = {  # of a layout's bodies: name -> pattern in the name of a file or folder
    "SMPL": {
        "smpl": _word("n", "neutral"),
        "smpl-female": _word("f", "female"),
        "smpl-male": _word("m", "(?<!fe)male"),
    },
    "MANO": {"mano": _word("r", "right"), "mano-left": _word("l", "left")},
}
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


def import_body(path: str | Path, name: str | None = None) -> Path:
    """Convert an official SMPL or MANO file (.pkl or .npz, chumpy and scipy arrays included) to plain arrays with a
    sha256.

    Nothing in the file is executed. The result, `$FASTHMR_HOME/bodies/<name>/body.npz`, is written whole or not at
    all; name is "smpl", "smpl-female" or "smpl-male", of a hand "mano" or "mano-left", and follows from the name of the
    file or else of its folder (`male/model.pkl`) where it is not given. Returns its path.

    Raises: BadInput where the file is missing, is neither (names the array and what is wrong), or wants to run code,
    and where no name shows which body it is.
    """
    path = Path(path).expanduser()
    arrays = check_body(read_arrays(path), path)
    called = _name_of(path, layout_of(arrays), name)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, sha256=np.array(digest(arrays)), **arrays)  # type: ignore[arg-type]  # numpy types ** as allow_pickle
    return atomic_write(_home_file(called), buffer.getvalue())


def _name_of(path: Path, layout: BodyLayout, name: str | None) -> str:
    """`name`, or the one in the names of the file and of its folder; raises BadInput as `import_body`."""
    kinds = KINDS[layout.name]
    if name is not None:
        return one_of(name, kinds, f"{layout.name} body")
    for text in (path.stem, path.absolute().parent.name):
        found = {called for called, pattern in kinds.items() if re.search(pattern, text)}
        if len(found) == 1:
            return found.pop()
        if found:
            break
    raise BadInput(f"{path}: its name does not show which body it is: pass {' or '.join(f'--name {k}' for k in kinds)}")


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


def check_body(arrays: Mapping[str, object], path: Path) -> dict[str, np.ndarray]:
    """The arrays of SMPL or MANO in `arrays`, float32 with the first ten betas; `path` is for the message.

    Raises: BadInput naming file, array and what is wrong with it.
    """
    layout = layout_of(arrays)
    vertices, joints = layout.vertices, len(layout.parents)
    missing = [key for key in ARRAYS if key not in arrays]
    if missing:
        raise BadInput(f"{path}: no {layout.name} body: {', '.join(missing)} missing (it holds: {_listed(arrays)})")
    shapes: dict[str, tuple[int, ...]] = {
        "v_template": (vertices, 3),
        "shapedirs": (vertices, 3, BETAS),
        "weights": (vertices, joints),
        "J_regressor": (joints, vertices),
        "kintree_table": (2, joints),
    }
    if "posedirs" in arrays:
        shapes["posedirs"] = (vertices, 3, 9 * (joints - 1))
    floats = {key: _floats(arrays[key], key, shape, path, layout) for key, shape in shapes.items()}
    kintree = floats.pop("kintree_table").astype(np.int64)
    if kintree[1].tolist() != list(range(joints)) or kintree[0, 1:].tolist() != list(layout.parents[1:]):
        raise BadInput(f"{path}: kintree_table is not {layout.name}'s tree of {joints} joints")
    _check_ranges(floats, path)
    return floats | {"kintree_table": kintree, "f": _faces(arrays["f"], path, vertices)}


def _listed(arrays: Mapping[str, object]) -> str:
    return ", ".join(sorted(arrays)[:20]) or "nothing"


def _floats(value: object, key: str, shape: tuple[int, ...], path: Path, layout: BodyLayout) -> np.ndarray:
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
