"""Weights on disk: ours, whose safetensors header names the model they belong to, and those of the models' authors.

Reading a file never runs any of it (`hmr.checkpoints.safe_torch`). Which network it holds, and how large, is
read off its keys and shapes; what shapes do not determine is in `hmr.models.families`, in the file's own
configuration, or is asked for.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.atomic import atomic_write
from compress.errors import BadInput
from compress.files.document import read_text
from compress.files.weights import safetensors
from hmr.checkpoints.safe_torch import entry
from hmr.checkpoints.source import Source, finite, read, some_of, unfit
from hmr.models.families import FAMILIES
from hmr.models.families.family import Family, SeparatePart
from hmr.models.model import HMRModel, build, family_of

log = logging.getLogger(__name__)

ANCHOR = "backbone.pos_embed"  # in every model that we know; what stands before it is a wrapper's
HEAD_HEADS = 8  # of the decoder, in all families


def save(model: HMRModel, path: Path, metadata: dict[str, str] | None = None, dtype: torch.dtype | None = None) -> Path:
    """Write the model's state, floats as `dtype` or as they are, with its architecture and sizes in the header.

    The file appears complete or not at all; returns `path`. Raises ValueError where a value does not fit into `dtype`.
    """
    state = {k: v.detach().cpu() for k, v in model.state_dict().items()}
    state = {k: v.to(dtype) if dtype and v.is_floating_point() else v for k, v in state.items()}
    unfit = [k for k, v in state.items() if not finite(v)]
    if unfit:
        raise ValueError(f"not finite as {dtype}: {', '.join(unfit[:5])}")
    return atomic_write(path, safetensors(state, header(model, metadata)))


def header(model: HMRModel, metadata: dict[str, str] | None = None) -> dict[str, str]:
    """The header of a file of ours."""
    return {"architecture": model.architecture, "sizes": model.sizes.model_dump_json(), **(metadata or {})}


def load(
    path: Path | str,
    architecture: str | None = None,
    *,
    heads: int | None = None,
    iterations: int | None = None,
    tokenizer: Path | str | None = None,
    cam_model: Path | str | None = None,
    **sizes: Any,
) -> HMRModel:
    """The model of a checkpoint, in float32 and evaluation mode; nothing in the file is run.

    path: a file of `save`, a Lightning .ckpt, a .pt or .pth, a .safetensors file, the index of a sharded one or the
    folder with either. tokenizer, cam_model: the files that TokenHMR and CameraHMR have beside it; without the latter
    there is no field-of-view network. `architecture`, `heads`, `iterations` and `sizes` replace what was found. Keys
    outside the model's prefixes are left out and logged. Tensors of float32 stay mapped, so the file is not copied.

    Raises BadInput for a file that is missing, broken, hostile or of no model we know, that holds a value that is not
    finite, or whose keys or shapes under the model's prefixes are not exactly the model's.
    """
    checkpoint = find(Path(path), architecture, {"tokenizer": tokenizer, "cam_model": cam_model})
    model = checkpoint.built({"heads": heads, "iterations": iterations, **sizes})
    checkpoint.report()
    return model


@dataclass(frozen=True)
class Checkpoint:
    """A model in a file, not built yet."""

    source: Source
    architecture: str
    state: dict[str, Tensor]  # under the model's prefixes
    ignored: tuple[str, ...]
    sizes: dict[str, Any]
    assumed: tuple[str, ...] = ()  # sizes in neither file nor configuration: the family's
    unread: str = ""  # why the configuration beside the file cannot be read

    def outline(self, sizes: Mapping[str, Any]) -> tuple[HMRModel, list[str], list[str]]:
        """The model on the meta device, the keys it misses, and those that are too many or of another shape."""
        given = {name: value for name, value in sizes.items() if value is not None}
        whole = {**self.sizes, **given}
        if "head_heads" in given and "head_dim_head" not in given and "head_heads" in self.sizes:
            inner = whole["head_dim_head"] * self.sizes["head_heads"]  # shapes determine this product
            whole["head_dim_head"] = int(inner / given["head_heads"])
        try:
            with torch.device("meta"):  # a file that asks for a giant is found out before it takes the memory
                model = build(self.architecture, whole)
        except (BadInput, RuntimeError, OverflowError) as error:
            what = "the sizes asked for make" if given else "its header or its shapes describe"
            raise BadInput(f"{self.source.path}: {what} no model: {error}") from error
        wanted = {key: value.shape for key, value in model.state_dict().items()}
        odd = [key for key, value in self.state.items() if wanted.get(key) != value.shape]
        return model, sorted(set(wanted) - set(self.state)), sorted(odd)

    def built(self, sizes: Mapping[str, Any]) -> HMRModel:
        """The model with its weights; raises BadInput as `load`."""
        model, missing, odd = self.outline(sizes)
        for part in model.family.parts:
            if part.needed and missing and all(key.startswith(part.prefix) for key in missing):
                option = part.argument.replace("_", "-")
                raise BadInput(
                    f"{self.source.path}: {part.needed}, which has a file of its own: name it ({part.argument}=FILE), "
                    f"or join both once by `fasthmr convert PATH --{option} FILE --out DIR`"
                )
        if missing or odd:
            both = ((missing, "missing"), (odd, "too many or of another shape"))
            words = ", ".join(f"{len(keys)} {what} (first {keys[0][:100]!r})" for keys, what in both if keys)
            raise BadInput(
                f"{self.source.path}: keys or shapes are not those of {self.architecture}: {words}{self.source.named}"
            )
        for key, wanted in model.state_dict().items():
            if wanted.is_floating_point() and not self.state[key].is_floating_point():
                raise BadInput(f"{self.source.path}: {key!r} holds {self.state[key].dtype}, which is no weight")
        self.require_heads(sizes)
        used: set[int] = set()
        state = {key: self.weight(key, value, used) for key, value in self.state.items()}
        model.load_state_dict(state, assign=True)
        return model.eval()

    def require_heads(self, sizes: Mapping[str, Any]) -> None:
        """Raise BadInput where nobody knows how many attention heads the backbone has, and print assumptions."""
        given = sizes.get("heads")
        if given is None and self.unread:
            raise BadInput(f"{self.unread}; or pass heads=N (--heads N)")
        if given is None and "heads" not in self.sizes:
            raise BadInput(
                f"{self.source.path}: shapes do not determine the backbone's attention heads: pass heads=N (--heads N)"
            )
        if self.unread:
            log.warning("%s; left out, for heads are given", self.unread)
        if given is None and "heads" in self.assumed:
            log.warning(
                "%s: assuming %d attention heads, as %s has at width %d; pass heads=N (--heads N) where that is wrong. "
                "With another number errors on synth:test are higher: `fasthmr evaluate ONE --against OTHER`",
                self.source.path, self.sizes["heads"], self.architecture, self.sizes["dim"],
            )  # fmt: skip
        if sizes.get("head_heads") is None and "head_heads" in self.assumed:
            log.warning(
                "%s: assuming %d attention heads in the decoder, as %s's authors have; pass head_heads=N to hmr.load "
                "where that is wrong", self.source.path, self.sizes["head_heads"], self.architecture,
            )  # fmt: skip

    def weight(self, key: str, value: Tensor, used: set[int]) -> Tensor:
        """A tensor as the model takes it: finite, in float32 where it is a float, on memory not in `used`."""
        if reason := unfit(value):
            raise BadInput(f"{self.source.path}: {key[:100]!r} is {reason}{self.source.named}")
        if not finite(value):
            raise BadInput(f"{self.source.path}: {key!r} holds a value that is not finite; get or train the file again")
        if value.is_floating_point():
            value = value.float()
        memory = value.untyped_storage()
        own = value.is_contiguous() and memory.nbytes() == value.nbytes and memory.data_ptr() not in used
        used.add(memory.data_ptr())
        return value if own else value.clone(memory_format=torch.contiguous_format)

    def report(self) -> None:
        """Log what of the file was left out."""
        if self.ignored:
            log.warning("%s: left out %d keys: %s", self.source.path, len(self.ignored), some_of(self.ignored))
        if self.source.stubbed:
            log.warning("%s: names code that was not run: %s", self.source.path, some_of(self.source.stubbed))


def find(path: Path, architecture: str | None, files: Mapping[str, Path | str | None]) -> Checkpoint:
    """Read a checkpoint, and the files of its parts, and find the model in it; raises BadInput as `load`."""
    source = read(path)
    names = source.unwrapped(ANCHOR)
    if not names:
        first = some_of(sorted(source.state)) or "none"
        raise BadInput(f"{path}: no model we know: no key ends in {ANCHOR!r}; its tensors are {first}{source.named}")
    name = architecture or source.header.get("architecture") or recognised(path, names)
    family = family_of(name)
    if unused := [word for word, file in files.items() if file and word not in {p.argument for p in family.parts}]:
        raise BadInput(f"{path}: {name} has no {unused[0]}")
    prefixes = (*family.prefixes, *(part.prefix for part in family.parts))
    names = {ours: theirs for ours, theirs in names.items() if ours not in family.unused}
    state = {ours: source.state[theirs] for ours, theirs in names.items() if ours.startswith(prefixes)}
    ignored = set(source.state) - {names[ours] for ours in state}
    for part in family.parts:
        if (file := files.get(part.argument)) is not None:
            other, keys = part_of(Path(file), part)
            state |= {f"{part.prefix}{ours}": other.state[theirs] for ours, theirs in keys.items()}
            ignored |= {f"{part.argument}:{key}" for key in set(other.state) - set(keys.values())}
    if "sizes" in source.header:
        return Checkpoint(source, name, state, tuple(sorted(ignored)), _sizes(path, source.header))
    sizes = sizes_of(source, name, family, state)
    beside, unread = heads_beside(path, sizes["dim"])
    known = {"heads", "head_heads"} & {*beside, *configured(source, family)}
    usual = {"heads": family.heads[sizes["dim"]]} if sizes["dim"] in family.heads else {}
    assumed = tuple({*usual, "head_heads"} - known)
    return Checkpoint(source, name, state, tuple(sorted(ignored)), {**usual, **sizes, **beside}, assumed, unread)


def part_of(file: Path, part: SeparatePart) -> tuple[Source, dict[str, str]]:
    """The file of a part, and its keys: as the part has them -> as the file has them."""
    source = read(file)
    names = {ours: theirs for ours, theirs in source.unwrapped(part.anchor).items() if ours.startswith(part.keys)}
    if not names:
        raise BadInput(f"{file}: no {part.argument}: no key ends in {part.anchor!r}{source.named}")
    return source, names


def recognised(path: Path, state: Iterable[str]) -> str:
    """The family that keys belong to; BadInput where it is none of ours."""
    for name, family in reversed(FAMILIES.items()):
        if family.mark in state:
            return name
    raise BadInput(f"{path}: a backbone without a head that we know ({', '.join(f.mark for f in FAMILIES.values())})")


def sizes_of(source: Source, name: str, family: Family, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes of a model from the shapes of its weights, its configuration and its family's table; BadInput where they do
    not tell."""
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    layers = f"{family.head_name}.transformer.transformer.layers."
    try:
        dim = shapes[ANCHOR][2]
        sizes: dict[str, Any] = {
            "dim": dim,
            "depth": _count(shapes, "backbone.blocks."),
            "token_dim": shapes[f"{family.head_name}.transformer.to_token_embedding.weight"][1],
            "head_dim": shapes[f"{family.head_name}.transformer.pos_embedding"][2],
            "head_depth": _count(shapes, layers),
            "head_mlp_dim": shapes[f"{layers}0.2.fn.net.0.weight"][0],
            **family.sizes_from(shapes),
        }
        inner = shapes[f"{layers}0.1.fn.to_q.weight"][0]
        if sizes["depth"]:
            sizes["mlp_dim"] = shapes["backbone.blocks.0.mlp.fc1.weight"][0]
    except BadInput:
        raise
    except (ValueError, ZeroDivisionError) as error:
        raise BadInput(f"{source.path}: not a complete {name}: shapes give no sizes ({error}){source.named}") from error
    except (KeyError, IndexError, TypeError) as error:
        raise BadInput(
            f"{source.path}: not a complete {name}: {error} is missing or of another shape{source.named}"
        ) from error
    configuration = {"head_heads": HEAD_HEADS, **configured(source, family)}
    return {**sizes, **configuration, "head_dim_head": max(1, inner // configuration["head_heads"])}


def configured(source: Source, family: Family) -> dict[str, int]:
    """What the configuration in a Lightning file has and shapes do not determine."""
    settings = ("hyper_parameters", "cfg", "MODEL", family.head_name.upper())
    given = {
        "iterations": entry(source.content, *settings, "IEF_ITERS"),
        "head_heads": entry(source.content, *settings, "TRANSFORMER_DECODER", "heads"),
    }
    return {name: value for name, value in given.items() if isinstance(value, int) and 0 < value < 1000}


def heads_beside(path: Path, dim: int) -> tuple[dict[str, int], str]:
    """The attention heads that the config.json of Hugging Face beside a file has for a backbone of this width, and why
    it cannot be read."""
    file = path.parent / "config.json"
    try:
        configuration = json.loads(read_text(file)) if file.is_file() else {}
    except (ValueError, RecursionError) as error:
        return {}, f"{file}: not a configuration in JSON ({error}); correct or remove it"
    if not isinstance(configuration, dict) or configuration.get("hidden_size") != dim:
        return {}, ""
    heads = configuration.get("num_attention_heads")
    return ({"heads": heads} if type(heads) is int and heads > 0 else {}), ""


def _count(shapes: Iterable[str], prefix: str) -> int:
    """How many different numbers stand after a prefix."""
    return len({match[1] for key in shapes if (match := re.match(rf"{re.escape(prefix)}(\d+)\.", key))})


def _sizes(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    try:
        sizes = json.loads(header["sizes"])
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: 'sizes' in its header is not JSON ({error})") from error
    if not isinstance(sizes, dict):
        raise BadInput(f"{path}: 'sizes' in its header is not a JSON object")
    return sizes


def inspect(
    path: Path, architecture: str | None = None, *, heads: int | None = None, **files: Path | str | None
) -> dict[str, Any]:
    """What a checkpoint holds, as `fasthmr inspect` prints it; arguments as `load`. Nothing is built.

    A file of a family that we do not know has `family` None. Raises BadInput where the file cannot be read.
    """
    source = read(path)
    names = source.unwrapped(ANCHOR)
    unknown: dict[str, Any] = {
        "family": None,
        "architecture": None,
        "sizes": {},
        "prefixes": sorted({key.split(".")[0] + "." for key in source.state}),
        "tokens": None,
        "head_needs": None,
        "unknown_globals": list(source.stubbed),
        "licence": None,
        "missing": [],
        "unexpected": [],
        "ignored_keys": sorted(source.state),
    }
    if not any(family.mark in names for family in FAMILIES.values()):
        return unknown
    checkpoint = find(path, architecture, files)
    model, missing, odd = checkpoint.outline({"heads": heads})
    sizes = model.sizes.model_dump(mode="json")
    if heads is None and "heads" not in checkpoint.sizes:
        sizes["heads"] = None  # not known
    return unknown | {
        "family": model.family.name,
        "architecture": checkpoint.architecture,
        "sizes": sizes,
        "prefixes": list(model.family.prefixes),
        "tokens": model.grid[0] * model.grid[1],
        "head_needs": model.head_needs,
        "unknown_globals": list(checkpoint.source.stubbed),
        "licence": model.family.licence,
        "missing": missing,
        "unexpected": odd,
        "ignored_keys": list(checkpoint.ignored),
    }
