"""Weights of a network of hmr.published: a file of its authors, read as weights alone and put in whole."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from compress.errors import BadInput
from hmr.checkpoints.source import Source, finite, read, some_of
from hmr.home import fasthmr_home

log = logging.getLogger(__name__)
Network = TypeVar("Network", bound=nn.Module)


def found(name: str, where: str, attribute: str) -> Path:
    """A file by its path, or by its name in `$FASTHMR_HOME/checkpoints`. Raises BadInput that lists the places looked
    at, `where` the authors give it out, and which attribute of an adapter names it."""
    places = [Path(name).expanduser(), fasthmr_home() / "checkpoints" / name]
    if (path := next((place for place in places if place.exists()), None)) is None:
        looked = ", ".join(map(str, places))
        raise BadInput(f"no file {name}; looked at {looked}. Get it from {where}, or set `{attribute}` of the adapter")
    return path


def checkpoint(name: str, where: str) -> Source:
    """The tensors of a file that is found so; raises BadInput as `found`."""
    return read(found(name, where, "checkpoint"))


def state_of(source: Source, anchor: str) -> dict[str, Tensor]:
    """The tensors under the network's own keys, of which `anchor` is one; raises BadInput where the file has it not."""
    if not (names := source.unwrapped(anchor)):
        raise BadInput(f"{source.path}: no weights of this network: no key ends in {anchor!r}{source.named}")
    return {ours: source.state[theirs] for ours, theirs in names.items()}


def count(state: Mapping[str, Tensor], blocks: str) -> int:
    """How many blocks there are whose keys begin with `blocks` and a number."""
    return len({key.removeprefix(f"{blocks}.").split(".")[0] for key in state if key.startswith(f"{blocks}.")})


def filled(network: Network, state: Mapping[str, Tensor], path: Path, unused: Sequence[str] = ()) -> Network:
    """The network in evaluation mode with those weights, in float32. Keys of parts that it does not have are left out
    and listed, and so are those that begin as in `unused`. Raises BadInput for what is missing, too much or odd."""
    wanted = network.state_dict()
    parts = {key.split(".")[0] for key in wanted}
    odd = {
        "is missing": [key for key in wanted if key not in state],
        "has another shape": [key for key in wanted if key in state and state[key].shape != wanted[key].shape],
        "is too much": [
            key
            for key in state
            if key not in wanted and key.split(".")[0] in parts and not key.startswith(tuple(unused))
        ],
        "is not finite": [key for key in wanted if key in state and not finite(state[key])],
    }
    for what, keys in odd.items():
        if keys:
            raise BadInput(f"{path}: not the weights of {type(network).__name__}: {keys[0]!r} {what}")
    if left := sorted(set(state) - set(wanted)):
        log.info("%s: left out %d keys: %s", path, len(left), some_of(left))
    network.load_state_dict({key: state[key].to(value.dtype) for key, value in wanted.items()})
    return network.eval()
