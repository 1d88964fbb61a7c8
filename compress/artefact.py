"""A compressed model as a folder that comes back anywhere: no data, no search, no pickle, every hash checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save_file
from torch import Tensor, nn

from compress.atomic import atomic_folder, occupied, refuse_unwritable, writing
from compress.errors import BadInput
from compress.files.weights import digest
from compress.policy import FrozenModel, Plan
from compress.registry import plan_of

Build = Callable[[str, dict[str, Any]], nn.Module]  # (architecture, sizes) -> model with any weights

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
NEEDED = ("recipe.yaml", "plan.json", WEIGHTS, "card.md")


class Base(FrozenModel):
    """The model that was compressed."""

    name: str
    architecture: str
    sizes: dict[str, Any]
    sha256: str  # of its weights


class Origin(FrozenModel):
    """Where an artefact comes from."""

    base: Base
    seed: int
    commit: str
    versions: dict[str, str]


class Manifest(FrozenModel):
    """The content of manifest.json. Its own hash is in it too, so that no byte of the folder goes unchecked."""

    schema_version: Literal[1] = 1
    id: str
    origin: Origin
    files: dict[str, str]  # name -> sha256

    def to_bytes(self) -> bytes:
        """The file: its canonical JSON, with the hash of all the rest under `sha256`."""
        content = self.model_dump(mode="json")
        return canonical({**content, "sha256": sha256(canonical(content))})


def canonical(value: Any) -> bytes:
    """JSON in the one way that hashes are taken of."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def artefact_id(base: str, plans: Sequence[Plan], weights: str) -> str:
    """sha256 over the hash of the base weights, the plans without what was measured, and the hash of final weights."""
    return sha256(canonical([base, [plan.decided() for plan in plans], weights]))


def write_weights(model: nn.Module, path: Path) -> str:
    """Write the state as a safetensors file, the same bytes for the same state, straight from where it is; what two
    parts share is in it twice. Returns its sha256. Raises OSError where it cannot be written."""
    found: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, value in model.state_dict().items():
        here = value.detach().cpu().contiguous()
        place = here.untyped_storage().data_ptr()
        found[name] = here.clone() if place in places else here
        places.add(place)
    path.touch()
    mode = path.stat().st_mode  # the umask's: safetensors' own file would be nobody else's to read
    try:
        save_file(found, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(mode)
    return digest(path)


def weights_id(model: nn.Module) -> str:
    """sha256 of the file that `write_weights` writes, through one on the disk: in memory it would be there twice.
    Raises Unwritable."""
    with TemporaryDirectory() as place, writing(path := Path(place) / WEIGHTS):
        return write_weights(model, path)


def save(
    folder: Path,
    model: nn.Module,
    plans: Sequence[Plan],
    origin: Origin,
    recipe: str,
    card: str,
    more: Callable[[str], Mapping[str, bytes]] = lambda made: {},
    replace: bool = False,
) -> str:
    """Write `model`, which is `origin.base` after `plans`, to `folder`, whole or not at all; returns the artefact's id.

    recipe: YAML. card: Markdown. more(id): other files by name, as a report, which are hashed too. replace: an
    artefact that is there stays until the new one is whole. Raises BadInput where the folder has something in it that
    is not to be replaced, and Unwritable.
    """
    if not replace:
        refuse_taken(folder)
    with atomic_folder(folder, replace) as unfinished:
        weights = write_weights(model, unfinished / WEIGHTS)
        made = artefact_id(origin.base.sha256, plans, weights)
        contents = {
            "recipe.yaml": recipe.encode(),
            "plan.json": canonical([plan.model_dump(mode="json") for plan in plans]),
            "card.md": card.encode(),
            **more(made),
        }
        hashes = {WEIGHTS: weights, **{name: sha256(content) for name, content in contents.items()}}
        manifest = Manifest(id=made, origin=origin, files=hashes)
        for name, content in {**contents, MANIFEST: manifest.to_bytes()}.items():
            (unfinished / name).write_bytes(content)
    return made


def refuse_taken(folder: Path) -> None:
    """Raise BadInput where there is a file, or a folder with something in it, or nothing could be written."""
    if occupied(folder):
        raise BadInput(f"{folder}: already exists and is not empty; name another folder")
    refuse_unwritable(folder)


def load(folder: Path | str, build: Build | nn.Module) -> nn.Module:
    """The model that `save` wrote, in evaluation mode, with equal outputs.

    `build(architecture, sizes)` makes the base model, with any weights; a base model itself may stand in its place and
    becomes the compressed one. Raises BadInput for a folder that is incomplete, changed by as little as a byte, or made
    from another model, and for plans of a policy that is not installed.
    """
    folder = Path(folder)
    manifest, plans, contents = checked(folder)
    try:
        state = from_bytes(contents.pop(WEIGHTS))
    except SafetensorError as error:
        raise BadInput(f"{folder / WEIGHTS}: not a safetensors file ({error})") from error
    if not isinstance(build, nn.Module):
        with torch.device("meta"):  # sizes that ask for a giant are found out before they take the memory
            require_state(folder, shaped(built(folder, build, manifest.origin), plans), state)
        build = built(folder, build, manifest.origin)
    model = shaped(build, plans)
    require_state(folder, model, state)
    model.load_state_dict(state)
    for plan in plans:
        plan.verify(model)
    return model.eval()


def built(folder: Path, build: Build, origin: Origin) -> nn.Module:
    """The base model with any weights; raises BadInput, naming the version that knew it, for one unknown here."""
    try:
        return build(origin.base.architecture, origin.base.sizes)
    except BadInput as error:
        raise BadInput(
            f"{folder}: made by fasthmr at {origin.commit} from a model that this version does not build ({error}): "
            "compress it again, or install that version"
        ) from error


def checked(folder: Path) -> tuple[Manifest, tuple[Plan, ...], dict[str, bytes]]:
    """The manifest, the plans and the files of an artefact, every hash checked; raises BadInput as `load`."""
    manifest = read_manifest(folder)
    contents = {}
    for name in (*NEEDED, *sorted(set(manifest.files) - set(NEEDED))):
        if name not in manifest.files or Path(name).name != name:
            raise BadInput(f"{folder / MANIFEST}: not the file list of an artefact: {name!r}")
        contents[name] = read(folder / name)
        if sha256(contents[name]) != manifest.files[name]:
            raise BadInput(f"{folder / name}: its hash is not the one in {MANIFEST}: the file was damaged or changed")
    plans = read_plans(folder, contents["plan.json"])
    if manifest.id != artefact_id(manifest.origin.base.sha256, plans, manifest.files[WEIGHTS]):
        raise BadInput(f"{folder / MANIFEST}: the id does not match the plans and weights: the file was changed")
    return manifest, plans, contents


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artefact, its own hash checked; raises BadInput."""
    path = folder / MANIFEST
    content = read(path)
    try:
        found = json.loads(content)
        found.pop("sha256", None)
        manifest = Manifest.model_validate_json(json.dumps(found))
    except (ValueError, AttributeError, RecursionError) as error:
        raise BadInput(f"{path}: not the manifest of an artefact ({reason(error)})") from error
    if manifest.to_bytes() != content:
        raise BadInput(f"{path}: its hash does not match its content: the file was damaged or changed")
    return manifest


def read_plans(folder: Path, content: bytes) -> tuple[Plan, ...]:
    try:
        found = json.loads(content)
        if not isinstance(found, list):
            raise ValueError("it is no list")
        return tuple(map(plan_of, found))
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput(f"{folder / 'plan.json'}: not a list of plans ({reason(error)})") from error


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read, so this artefact is incomplete ({error.strerror})") from error


def shaped(model: Any, plans: Sequence[Plan]) -> Any:
    """`model` in the structure that plans give it, one after the other."""
    for plan in plans:
        model = plan.shape(model)
    return model


def require_state(folder: Path, model: nn.Module, state: dict[str, Tensor]) -> None:
    """Raise BadInput where keys, shapes or types of `state` are not exactly the model's."""
    wanted = {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    given = {name: (value.shape, value.dtype) for name, value in state.items()}
    odd = [name for name in sorted({*wanted, *given}) if wanted.get(name) != given.get(name)]
    if odd:
        raise BadInput(f"{folder}: {len(odd)} weights do not fit this model, first {odd[0]!r}")


def reason(error: Exception) -> str:
    """What is wrong, in a line."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
