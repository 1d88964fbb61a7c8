"""What an exported file says of itself: its inputs and outputs with their units, and where it comes from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationError

from compress.artefact import canonical, reason
from compress.errors import BadInput
from compress.policy import FrozenModel
from hmr.data.crop import IMAGE_MEAN, IMAGE_STD

KEY = "fasthmr"  # under which it stands in a file's metadata
Precision = Literal["float32", "float16", "int8"]
BATCH = "batch"  # the first number of a shape where any number of frames goes

MEANINGS = {
    "crops": "RGB of one person, a share of 1: (value - mean) / std with the `normalisation` of this file",
    "masks": "share of each pixel of the crop that is the person's, 0..1",
    "condition": "where the crop lies in its picture: offset x and y and size, each over the focal length",
    "global_orient": "rotation matrix of the root; axes x right, y down, z forward",
    "body_pose": "rotation matrices of the other joints, each in its parent's axes",
    "betas": "body shape, in standard deviations",
    "camera": "weak perspective: scale, and shift x and y, of the crop",
    "features": "query token before the linear heads",
    "joints": "joints, m, in the order of `joint_names`; of the posed body, where there is one",
    "vertices": "vertices of the posed body, m",
    "reading": "what the motion decoder reads of a frame: features, and the pose as numbers",
    "seen": "which frames of a clip are there; the others are found from those around them",
    "rotations": "rotation matrices of the joints, the root's first; as global_orient and body_pose",
    "source": "which token holds each patch of the grid in the end; -1 where it was dropped",
}


class Port(FrozenModel):
    """An input or output of the network."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str


class Normalisation(FrozenModel):
    """Of crops whose values are shares of 1."""

    mean: tuple[float, float, float] = IMAGE_MEAN
    std: tuple[float, float, float] = IMAGE_STD


class Interface(FrozenModel):
    """What a file says of itself."""

    kind: Literal["fasthmr.export/1"] = "fasthmr.export/1"
    name: str  # of the model that was exported
    architecture: str
    precision: Precision
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    normalisation: Normalisation = Normalisation()
    macs: int  # multiply-accumulates of a frame before any are rounded, every product counted
    coverage: float | None  # a patch is the person's above this share of its mask; None: no mask is looked at
    joint_names: tuple[str, ...]
    licence: dict[str, str]  # of the weights and of the body
    hashes: dict[str, str]  # sha256 of the model that was exported, of its body, and of the graph with its weights
    commit: str
    versions: dict[str, str]
    decoded_by: str | None = None  # the policy whose motion decoder lies beside it, in the file `decoder`
    own_crops: bool = False  # whether pictures are cut by code of an adapter, which is not in the file
    look_ahead: int | None = None  # of a motion decoder: how many frames after a frame its pose depends on

    @property
    def batch(self) -> int | None:
        """How many frames go in at once; None: any number."""
        first = self.inputs[0].shape[0]
        return None if isinstance(first, str) else first

    def text(self) -> str:
        """As it stands in a file."""
        return canonical(self.model_dump(mode="json")).decode()


def interface_of(text: str | None, path: Any) -> Interface:
    """What a file says of itself; raises BadInput where that is nothing, or nothing that `fasthmr export` says."""
    if not text:
        raise BadInput(f"{path}: it was not written by `fasthmr export`, so what goes in and comes out is unknown")
    try:
        return Interface.model_validate_json(text)
    except (ValidationError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: what it says of itself is not `fasthmr export`'s ({reason(error)})") from error
