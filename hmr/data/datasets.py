"""DATA as users write it, `name[:split][@root]`, and the data sets behind it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from compress.choices import one_of
from compress.errors import BadInput
from compress.provenance import SEED
from hmr.adapters.adapted import AdaptedModel
from hmr.data.annotated.readers import READERS, read
from hmr.data.annotated.recordings import open_annotated
from hmr.data.dataset import DataSpec, Frames, refuse_choosing_split, refuse_test_only
from hmr.data.masks import segmenter
from hmr.data.pictures import Focal, open_pictures
from hmr.data.real_people.dataset import open_real
from hmr.data.real_people.importing import DEMOS
from hmr.media.listing import PARTS
from hmr.models.families.family import Box
from hmr.models.model import HMRModel, family_of
from hmr.world.synthetic import WORLDS, open_world

SPLITS = ("train", "calib", "val", "test")


def parse(text: str, label_free: bool = False, masks: str | None = None) -> DataSpec:
    """`name[:split][@root]` as a DataSpec; the split is `test` where none is given.

    Raises BadInput for a name or split that does not exist (with the nearest that does), for a root that the data set
    has no use for, and for pictures that have no labels unless `label_free`.
    """
    head, at, root = text.partition("@")
    name, colon, split = head.partition(":")
    one_of(name, (*WORLDS, *DEMOS, *READERS, "frames"), "data set")
    if name == "frames":
        if not root:
            raise BadInput(f"'{text}': name the folder of pictures or the video: frames@PATH")
        if not label_free:
            raise BadInput(
                "frames has pictures and no labels: only compress, evaluate and search take it, with --label-free"
            )
        return DataSpec(name, one_of(split, tuple(PARTS), "split of frames") if colon else "test", Path(root), masks)
    if name in READERS:
        if not root:
            raise BadInput(f"'{text}': name the folder that {name} lies in: {name}@FOLDER")
        return DataSpec(name, one_of(split, SPLITS, f"split of {name}") if colon else "test", Path(root), masks)
    if name in DEMOS:
        return real_spec(text, name, split, root, masks)
    if masks is not None:
        raise BadInput(f"--masks {masks}: {name} has exact masks of its own; --masks is for frames@PATH")
    if at:
        raise BadInput(f"'{text}': {name} is rendered, not read from files: leave '@{root}' out")
    return DataSpec(name, one_of(split, SPLITS, f"split of {name}") if colon else "test")


def real_spec(text: str, name: str, split: str, root: str, masks: str | None) -> DataSpec:
    """`real` or `real-avatar`, which have one split. Raises BadInput for another, for a root and for masks."""
    if split not in ("", "test"):
        raise BadInput(f"'{text}': {name} has one split, test: no choices are made on real people")
    if root:
        raise BadInput(f"'{text}': {name} lies where fasthmr data import put it: leave '@{root}' out")
    if masks is not None:
        raise BadInput(f"--masks {masks}: {name} comes with BlazePose's masks")
    return DataSpec(name)


def reporting(text: str, label_free: bool = False, masks: str | None = None) -> str:
    """DATA that results of a compression are reported on, as it is; raises BadInput as `parse`, for a split that
    choices are made on, and for data without such a split."""
    spec = parse(text, label_free, masks)
    refuse_test_only(spec)
    refuse_choosing_split(spec)
    return text


def choosing(text: str) -> str:
    """DATA that choices are made on, with its split, `calib` where none is given; raises BadInput as `parse`, and for
    `test`, which results are reported on."""
    spec = parse(text)
    if ":" not in text.partition("@")[0]:
        return with_split(text, "calib")
    if spec.split == "test":
        raise BadInput(f"{text}: results are reported on this split; choices are made on {spec.name}:calib or :val")
    return text


def with_split(text: str, split: str) -> str:
    """DATA with another split: `synth:test` -> `synth:calib`."""
    head, at, root = text.partition("@")
    return f"{head.partition(':')[0]}:{split}{at}{root}"


def open_data(
    spec: DataSpec,
    frames: int | None = None,
    mocap: Path | None = None,
    size: tuple[int, int] | None = None,
    model: HMRModel | AdaptedModel | None = None,
) -> Frames:
    """The data set of `spec`, at most `frames` long, in crops of `size` (height, width); without one, of the size that
    `model` sees, or else `reference`.

    `mocap` is a folder of more motion to train on. Raises BadInput where that holds none. A user's own pictures are cut
    as `model` has to see them; BadInput where it cannot see them, or poses a hand and the data shows bodies.
    """
    if isinstance(model, AdaptedModel):
        return open_for_adapter(spec, frames, mocap, size, model)
    if model and model.poses_hand and spec.name != "frames":
        raise BadInput(
            f"{model.architecture} poses {model.family.head.joints} joints of a hand, and {spec.name} shows bodies: "
            "name pictures of right hands, frames@PATH, with --label-free"
        )
    size = size or (model.family if model else family_of("reference")).crop
    finder = segmenter(spec.masks) if spec.masks else None
    side = model.family.box.side if model else Box().side
    if spec.name in READERS and spec.root:
        annotations = read(spec.name, spec.split, spec.root)
        knows = annotations.cameras_known and not hasattr(model, "fov_net")
        network = None if model is None or knows else focal_of(model)
        opened = open_annotated(annotations, spec.split, frames, side, finder, size, network)
    elif spec.name == "frames" and spec.root:
        focal = focal_of(model) if model else None
        opened = open_pictures(spec.root, spec.split, frames, side, size, finder, focal)
    elif spec.name in DEMOS:
        opened = open_real(spec, frames, side, size)
    else:
        opened = open_world(spec.name, spec.split, frames=frames, seed=SEED, mocap=mocap, size=size)
    return replace(opened, spec=spec)


def open_for_adapter(
    spec: DataSpec, frames: int | None, mocap: Path | None, size: tuple[int, int] | None, model: AdaptedModel
) -> Frames:
    """As `open_data`, in crops of an adapter's. Raises BadInput for data whose crops are cut as families do it."""
    if spec.name == "frames" and spec.root:
        finder, size = segmenter(spec.masks) if spec.masks else None, model.crop_size
        cutter = model.adapter.crops
        found = open_pictures(spec.root, spec.split, frames, Box().side, size, finder, cutter=cutter)
        return replace(found, spec=spec)
    if spec.name not in WORLDS:
        raise BadInput(f"{spec.name} is cut for models of known families: with {model.name}, name frames@PATH or synth")
    return open_data(spec, frames, mocap, size or model.crop_size)


def focal_of(model: HMRModel) -> Focal | None:
    """How a model finds the focal length of whole pictures; None where it does not ask. Raises BadInput where it asks
    and has no network for that."""
    if not model.needs_condition:
        return None
    if (network := getattr(model, "fov_net", None)) is None:
        raise BadInput(
            f"{model.architecture} has to know each picture's focal length, and this one came without its network for "
            "that: join both once by `fasthmr convert PATH --cam-model FILE --out DIR`"
        )
    return cast(Focal, network.focal_of)
