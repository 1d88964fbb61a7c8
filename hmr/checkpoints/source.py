"""What lies in a file of weights, read without running any of it: safetensors, sharded or not, and files of torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from compress.errors import BadInput
from hmr.checkpoints.archive import ZIP
from hmr.checkpoints.safe_torch import LEGACY, read_torch

EMA = ("state_dict_ema", "ema_state_dict", "model_ema", "params_ema", "ema")  # averaged weights are those to use
CONTAINERS = (*EMA, "state_dict", "model_state_dict", "network", "net", "model", "module", "params", "weights")
WRAPPERS = {"module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
MAX_INDEX = 64 << 20  # bytes
MAX_HEADER = 100_000_000  # bytes; the format's own limit
OTHERS = {  # how files begin that people have in the place of weights
    b"\x80": "a plain pickle, which is not read; save the model's state_dict with torch.save",
    b"version https://git-lfs": "a pointer of Git LFS in the place of the weights; get them by `git lfs pull`",
    b"<!doctype html": "a web page, not weights; sign in where they are given out and download them again",
    b"<html": "a web page, not weights; sign in where they are given out and download them again",
}


@dataclass(frozen=True)
class Source:
    """The tensors of a file, its header, and what in it was not trusted."""

    path: Path
    state: Mapping[str, Tensor]
    header: Mapping[str, str] = field(default_factory=dict)
    content: Any = None  # of a file of torch, with its configuration
    stubbed: tuple[str, ...] = ()

    def unwrapped(self, anchor: str) -> dict[str, str]:
        """Keys as the model has them -> keys in the file: without the names of wrappers, wherever these stand, and
        without what is put before all of them (`model.`), as one key, the anchor, shows.

        Averaged weights go first where there are several sets; empty where no key fits. Raises BadInput where two
        tensors have one key.
        """
        bare = {key: without_wrappers(key) for key in self.state}
        starts = {key.removesuffix(anchor) for key in bare.values() if key == anchor or key.endswith(f".{anchor}")}
        start = min(starts, key=lambda start: ("ema" not in start, len(start), start), default=None)
        names: dict[str, str] = {}
        for theirs, key in bare.items() if start is not None else ():
            if not key.startswith(start or ""):
                continue
            ours = key.removeprefix(start or "")
            if ours in names:
                both = f"{names[ours][:100]!r} and {theirs[:100]!r}"
                raise BadInput(f"{self.path}: holds two sets of weights, as {both} show; save the one to use alone")
            names[ours] = theirs
        return names

    @property
    def named(self) -> str:
        """Words that name the globals that were not run, for the end of a message."""
        return f"; it names {', '.join(self.stubbed[:5])}, which was not run" if self.stubbed else ""


def without_wrappers(key: str) -> str:
    """A key without the names that data parallelism, compilation, activation checkpointing and FSDP put into it."""
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def finite(value: Tensor) -> bool:
    """Whether all numbers are; takes no memory of its own."""
    if not value.numel() or not value.is_floating_point():
        return True
    low, high = value.detach().aminmax()
    return bool(low.isfinite() and high.isfinite())


def some_of(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(name[:100] for name in listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")


def read(path: Path) -> Source:
    """The tensors of a checkpoint in any format that we read, mapped where it can be; raises BadInput as `load`."""
    if path.is_dir():
        index = path / INDEX
        return read(index if index.is_file() else path / WEIGHTS)
    try:
        if not path.is_file():  # links, as hub caches are made of, are followed
            raise BadInput(f"{path}: {missing(path)}")
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
    if begins_safetensors(start):
        return of_safetensors(path)
    if start.startswith((ZIP, LEGACY)):
        return of_torch(path)
    if start.lstrip().startswith(b"{"):
        return sharded(path)
    for begins, what in OTHERS.items():
        if start.lstrip().lower().startswith(begins):
            raise BadInput(f"{path}: {what}")
    if not start:
        raise BadInput(f"{path}: the file is empty; get it again")
    return of_safetensors(path)


def missing(path: Path) -> str:
    """Why there is no file of weights at `path`."""
    if path.exists():
        return "not a regular file"
    return (
        f"a symbolic link that leads to no file ({path.readlink()})"
        if path.is_symlink()
        else "there is no such file of weights"
    )


def begins_safetensors(start: bytes) -> bool:
    """Whether a file begins as the format has it: the length of a JSON object, in 8 bytes, and that object.

    The length alone may begin as a pickle (0x80), a zip file or text does.
    """
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER


def of_torch(path: Path) -> Source:
    loaded = read_torch(path)
    source = Source(path, {}, content=loaded.content, stubbed=loaded.stubbed)
    if not isinstance(loaded.content, dict):
        raise BadInput(f"{path}: holds no dict of tensors; save a model's state_dict{source.named}")
    weights = weights_in(loaded.content)
    state = {key: value for key, value in weights.items() if isinstance(key, str) and isinstance(value, Tensor)}
    memory = [value.untyped_storage() for value in state.values() if value.layout == torch.strided]
    stored = {storage.data_ptr(): storage.nbytes() for storage in memory}
    if sum(stored.values()) > path.stat().st_size:  # torch grows a storage where a tensor's shape asks for more
        raise BadInput(f"{path}: tensors of more bytes than the file has{source.named}")
    if not state:
        under = f" under {some_of(key for key in loaded.content if isinstance(key, str))}" if loaded.content else ""
        raise BadInput(f"{path}: holds no tensors{under}; save a model's state_dict{source.named}")
    return Source(path, state, content=loaded.content, stubbed=loaded.stubbed)


def weights_in(content: dict[Any, Any], depth: int = 3) -> dict[Any, Any]:
    """The dict of tensors in what a training script saved: averaged weights first, then by names that are in use."""
    for name in CONTAINERS if depth else ():
        inner = content.get(name)
        if isinstance(inner, dict) and (weights := weights_in(inner, depth - 1)):
            return weights
    return content if any(isinstance(value, Tensor) for value in content.values()) else {}


def unfit(value: Tensor) -> str:
    """Why a tensor is no plain array of numbers within its file, or nothing."""
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        return f"no plain tensor ({value.layout}, {value.device})"
    if value.dtype not in FLOATS and (value.is_floating_point() or value.is_complex()):
        return f"of type {value.dtype}, which is not read"
    if value.nbytes > value.untyped_storage().nbytes():
        return f"a tensor of shape {tuple(value.shape)} on fewer bytes than it has numbers"
    return ""


def of_safetensors(path: Path, keys: Iterable[str] | None = None) -> Source:
    """The file's tensors, or those asked for."""
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            header = file.metadata() or {}
            if lacking := sorted(set(keys or ()) - names):
                raise BadInput(f"{path}: has no {lacking[0]!r}, which the index looks for in it")
            state = {key: file.get_tensor(key) for key in sorted(names if keys is None else keys)}
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path}: not a readable file of torch.save or safetensors ({error})") from error
    return Source(path, state, header)


def sharded(path: Path) -> Source:
    """All shards of an index, which lie beside it."""
    try:
        if path.stat().st_size > MAX_INDEX:
            raise BadInput(f"{path}: an index of more than {MAX_INDEX >> 20} MiB; not read")
        places = json.loads(path.read_bytes())["weight_map"]
        shards: dict[str, list[str]] = {}
        for key, name in places.items():
            if not isinstance(name, str):
                raise TypeError(f"{key[:100]!r} lies in no file")
            shards.setdefault(name, []).append(key)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(
            f"{path}: not the index of a sharded safetensors file ({type(error).__name__}: {error})"
        ) from error
    state: dict[str, Tensor] = {}
    for name, keys in sorted(shards.items()):
        shard = path.parent / name
        if Path(name).name != name or not shard.is_file():
            raise BadInput(f"{path}: shard {name[:100]!r} is no file beside the index")
        state |= of_safetensors(shard, keys).state
    return Source(path, state)
