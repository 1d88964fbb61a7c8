"""Hostile checkpoints: `files(folder)` writes them."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hmr.checkpoints.safe_torch import LEGACY
from hmr.models.model import build

TINY = {"dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16, "head_dim": 16, "head_depth": 1, "head_mlp_dim": 16}
MARKER = "RAN"  # a file that each attack would write beside itself


class Call:
    """Pickles as a call of a global: module, name, arguments; with `state`, as an object that is given one."""

    def __init__(self, module: str, name: str, *arguments: Any, state: Any = None) -> None:
        self.module, self.name, self.arguments, self.state = module, name, arguments, state


_PYTHONS: Any = pickle._Pickler  # the standard library's types leave out what it offers


class _Global:
    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Pickler(_PYTHONS):
    """Writes calls by name, so that nothing hostile is imported or made here; tensors as torch does."""

    def __init__(self, stream: io.BytesIO, storages: list[bytes]) -> None:
        super().__init__(stream, 2)
        self.storages = storages

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, _Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
            return
        if isinstance(obj, Call):
            self.save(_Global(obj.module, obj.name))
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
            if obj.state is not None:
                self.save(obj.state)
                self.write(pickle.BUILD)
            return
        if isinstance(obj, Tensor):
            self.storages.append(obj.contiguous().numpy().tobytes())
            storage = ("storage", _Global("torch", "FloatStorage"), str(len(self.storages) - 1), "cpu", obj.numel())
            self.save(Call("torch._utils", "_rebuild_tensor_v2", Persistent(storage), 0, tuple(obj.shape),
                           tuple(obj.contiguous().stride()), False, OrderedDict()))  # fmt: skip
            return
        if isinstance(obj, Raw):
            self.write(obj.code)
            return
        if isinstance(obj, Persistent):
            self.save(obj.identity)
            self.write(pickle.BINPERSID)
            return
        super().save(obj, save_persistent_id)


class Raw:
    """Pickles as the bytes it holds."""

    def __init__(self, code: bytes) -> None:
        self.code = code


def doubling(times: int = 60) -> bytes:
    """Pickle code of (1,), a pair of it twice, a pair of that twice, and so on: short, and nobody can go through it."""
    grown = b"".join(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(100, 100 + times))
    return b"K\x01\x85q" + bytes([100]) + grown


class Persistent:
    def __init__(self, identity: Any) -> None:
        self.identity = identity


def pickled(content: Any) -> tuple[bytes, list[bytes]]:
    """data.pkl and storages of a torch file with `content`."""
    stream, storages = io.BytesIO(), []  # type: ignore[var-annotated]
    _Pickler(stream, storages).dump(content)
    return stream.getvalue(), storages


def archive(path: Path, content: Any, extra: Callable[[zipfile.ZipFile], None] | None = None, **how: Any) -> Path:
    """A torch file with `content`; `extra` may add records."""
    data, storages = content if isinstance(content, tuple) else pickled(content)
    with zipfile.ZipFile(path, "w", **how) as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/byteorder", "little")
        for i, storage in enumerate(storages):
            file.writestr(f"archive/data/{i}", storage)
        file.writestr("archive/version", "3\n")
        if extra:
            extra(file)
    return path


def weights() -> dict[str, Tensor]:
    """A small HMR2.0 that would load."""
    torch.manual_seed(0)
    return {key: value.clone() for key, value in build("hmr2", TINY).state_dict().items()}


def calls(marker: Path) -> dict[str, tuple[Any, str]]:
    """Objects that would do something when they are unpickled, and the name that a message has to give."""
    shell, python = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    opened = Call("builtins", "open", str(marker), "w")
    attribute = Call("builtins", "getattr", Call("builtins", "__import__", "os"), "system")
    nested = Call("functools", "partial", Call("functools", "partial", _Global("os", "system"), shell))
    return {
        "os_system": (Call("os", "system", shell), "os.system"),
        "posix_system": (Call("posix", "system", shell), "posix.system"),
        "nt_system": (Call("nt", "system", shell), "nt.system"),
        "os_popen": (Call("os", "popen", shell), "os.popen"),
        "os_execv": (Call("os", "execv", "/bin/sh", ["sh", "-c", shell]), "os.execv"),
        "os_fork": (Call("os", "fork"), "os.fork"),
        "os_remove": (Call("os", "remove", str(marker)), "os.remove"),
        "subprocess_popen": (Call("subprocess", "Popen", ["touch", str(marker)]), "subprocess.Popen"),
        "subprocess_output": (Call("subprocess", "check_output", ["touch", str(marker)]), "subprocess.check_output"),
        "pty_spawn": (Call("pty", "spawn", ["touch", str(marker)]), "pty.spawn"),
        "eval": (Call("builtins", "eval", python), "builtins.eval"),
        "exec": (Call("builtins", "exec", python), "builtins.exec"),
        "python2_eval": (Call("__builtin__", "eval", python), "__builtin__.eval"),
        "compile": (Call("builtins", "compile", python, "x", "exec"), "builtins.compile"),
        "import": (Call("builtins", "__import__", "antigravity"), "builtins.__import__"),
        "importlib": (Call("importlib", "import_module", "this"), "importlib.import_module"),
        "open": (opened, "builtins.open"),
        "io_open": (Call("io", "open", str(marker), "w"), "io.open"),
        "getattr_chain": (Call("builtins", "getattr", attribute, "__call__"), "builtins.getattr"),
        "attrgetter": (Call("operator", "attrgetter", "system"), "operator.attrgetter"),
        "methodcaller": (Call("operator", "methodcaller", "system", shell), "operator.methodcaller"),
        "nested_reduce": (nested, "functools.partial"),
        "map_of_calls": (
            Call("builtins", "list", Call("builtins", "map", _Global("os", "system"), [shell])),
            "os.system",
        ),
        "runpy": (Call("runpy", "_run_code", python, {}), "runpy._run_code"),
        "code_console": (Call("code", "InteractiveInterpreter", {}), "code.InteractiveInterpreter"),
        "socket": (Call("socket", "create_connection", ("127.0.0.1", 9)), "socket.create_connection"),
        "urlopen": (Call("urllib.request", "urlopen", "http://127.0.0.1:9/"), "urllib.request.urlopen"),
        "webbrowser": (Call("webbrowser", "open", "http://127.0.0.1:9/"), "webbrowser.open"),
        "ctypes": (Call("ctypes", "CDLL", "libc.so.6"), "ctypes.CDLL"),
        "shutil_rmtree": (Call("shutil", "rmtree", str(marker.parent)), "shutil.rmtree"),
        "torch_load": (Call("torch", "load", str(marker)), "torch.load"),
        "torch_hub": (Call("torch.hub", "load", "a/b", "c"), "torch.hub.load"),
        "torch_compile_source": (Call("torch.utils.cpp_extension", "load", "x", [str(marker)]), "cpp_extension.load"),
        "numpy_load": (Call("numpy", "load", str(marker)), "numpy.load"),
        "pickle_loads": (Call("pickle", "loads", b"cos\nsystem\n(Vtrue\ntR."), "pickle.loads"),
        "state_of_a_function": (Call("os", "system", shell, state={"__code__": 1}), "os.system"),
        "lambda": (Call("types", "FunctionType", Call("types", "CodeType", 0), {}), "types.FunctionType"),
    }


def old(content: bytes, storages: bytes = b"\x80\x02].") -> bytes:
    """A file as torch wrote it before version 1.6: its mark, its version, the machine, the content, its storages."""
    return LEGACY + b"\x80\x02M\xe9\x03." + pickled({})[0] + content + storages


def odd_pickles() -> dict[str, tuple[Any, str]]:
    """Pickles that break their reader: content for `archive`, and words of the message."""
    tensor = pickled({"backbone.pos_embed": torch.zeros(4)})
    number = pickle.LONG1 + b"\x08"
    same_hash = b"".join(number + struct.pack("<q", i * sys.hash_info.modulus) + b"N" for i in range(-4, 5))
    storage = [b"\0" * 4]
    claims = tensor[0].replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85")
    return {
        "cut_pickle": ((tensor[0][: len(tensor[0]) // 2], tensor[1]), "broken"),
        "empty_pickle": ((b"", []), "broken"),
        "deep": ((b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", []), "no dict"),
        "huge_memo": ((b"\x80\x02}r\xff\xff\xff\x7f.", []), "no tensors"),
        "claims_gigabytes": ((b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".", []), "broken"),
        "many_globals": ((b"\x80\x02" + b"".join(b"cm%d\nx\n0" % i for i in range(5000)) + b"N.", []), "globals"),
        "extension_code": ((b"\x80\x02\x82\x01.", []), "extension"),
        "tensor_beyond_storage": ((claims, tensor[1]), "reaches beyond"),
        "storage_not_there": ((tensor[0], []), "storage '0'"),
        "storage_too_short": ((tensor[0], [b"\0" * 4]), "shorter than declared"),
        "key_that_doubles": ((b"\x80\x02}" + doubling() + b"Ns.", []), "tuple as a key"),
        "keys_that_double": ((b"\x80\x02}(" + doubling() + b"Nu.", []), "tuple as a key"),
        "old_dict_of_doubling_keys": ((b"\x80\x02(" + doubling() + b"Nd.", []), "tuple as a key"),
        "ordered_dict_of_doubling_keys": (
            (b"\x80\x02ccollections\nOrderedDict\n]" + doubling() + b"N\x86a\x85R.", []),
            "tuple as a key",
        ),
        "set_of_what_doubles": ((b"\x80\x04\x8f(" + doubling() + b"\x90.", []), "tuple as a key"),
        "frozen_set_of_what_doubles": ((b"\x80\x04(" + doubling() + b"\x91.", []), "tuple as a key"),
        "old_set_of_what_doubles": ((b"\x80\x02cbuiltins\nset\n]" + doubling() + b"a\x85R.", []), "tuple as a key"),
        "counter_of_what_doubles": (
            (b"\x80\x02ccollections\nCounter\n]" + doubling() + b"a\x85R.", []),
            "collections.Counter",
        ),
        "bytes_that_are_only_claimed": (pickled({"a": Call("builtins", "bytearray", 1 << 40)}), "builtins.bytearray"),
        "keys_of_one_hash": ((b"\x80\x02}(" + same_hash + b"u.", []), "bits"),
        "storage_whose_name_doubles": (
            pickled({"a": Persistent(("storage", _Global("torch", "FloatStorage"), Raw(doubling()), "cpu", 1))}),
            "without a name",
        ),
        "shape_that_doubles": (
            (
                pickled(
                    {
                        "a": Call(
                            "torch._utils",
                            "_rebuild_tensor_v2",
                            Persistent(("storage", _Global("torch", "FloatStorage"), "0", "cpu", 1)),
                            Raw(doubling()),
                            (Raw(doubling()),),
                            (1,),
                            False,
                            {},
                        )
                    }
                )[0],
                storage,
            ),
            "impossible tensor",
        ),
        "filled_tensor": (
            (
                pickled(
                    Call(
                        "torch._utils",
                        "_rebuild_tensor_v2",
                        Persistent(("storage", _Global("torch", "FloatStorage"), "0", "cpu", 1)),
                        0,
                        (1 << 40,),
                        (0,),
                        False,
                        {},
                    )
                )[0][:-1]
                + b"\x88K\x01s.",
                storage,
            ),
            "entries for a Tensor",
        ),
    }


def mangled(folder: Path) -> dict[Path, str]:
    """Archives that are odd as archives, and words of the message."""
    made = {}

    def make(name: str, words: str, content: Any = None, extra: Any = None, **how: Any) -> Path:
        path = archive(folder / f"{name}.ckpt", weights() if content is None else content, extra, **how)
        made[path] = words
        return path

    make("zip_bomb", "compressed", extra=lambda f: f.writestr("archive/data/zeros", b"\0" * (50 << 20), 8))
    make("all_compressed", "compressed", compression=zipfile.ZIP_DEFLATED)
    make("zip_slip", "leads out", extra=lambda f: f.writestr("archive/../../slipped", b"x"))
    make("absolute_name", "leads out", extra=lambda f: f.writestr("/etc/slipped", b"x"))
    make("torchscript", "TorchScript", extra=lambda f: f.writestr("archive/code/__torch__.py", b"import os"))
    make("torchscript_constants", "TorchScript", extra=lambda f: f.writestr("archive/constants.pkl", b"\x80\x02)."))
    make("two_roots", "data.pkl", extra=lambda f: f.writestr("other/data.pkl", b"\x80\x02}."))
    link = zipfile.ZipInfo("archive/data/link")
    link.external_attr = 0o120777 << 16
    make("link_inside", "symbolic link", extra=lambda f: f.writestr(link, "/etc/passwd"))
    for name, cut in (("cut_in_half", 2), ("cut_at_the_end", 1)):
        path = make(name, "truncated")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // cut - 10])
    path = make("bytes_after_the_end", "after the end")
    path.write_bytes(path.read_bytes() + b"more of it")
    for name, target, words in (
        ("loop", "loop.ckpt", "leads to no file"),
        ("device", "/dev/zero", "not a regular file"),
    ):
        path = folder / f"{name}.ckpt"
        path.symlink_to(target)
        made[path] = words
    return made


def odd_weights() -> dict[str, tuple[Any, str]]:
    """Weights that are not a model's."""
    good = weights()
    key = "smpl_head.decpose.weight"
    nan, infinite = ({**good, key: torch.full_like(good[key], value)} for value in (float("nan"), float("inf")))
    return {
        "nan": (nan, key),
        "inf": (infinite, key),
        "wrong_shape": ({**good, key: torch.zeros(3, 3)}, key),
        "missing": ({k: v for k, v in good.items() if k != key}, "head"),
        "too_many": ({**good, "smpl_head.backdoor": torch.zeros(3)}, "smpl_head.backdoor"),
        "no_model": ({"weight": torch.zeros(3)}, "no model we know"),
        "a_list": ([torch.zeros(3)], "no dict"),
        "giant": ({**good, "backbone.blocks.900000.norm1.weight": torch.zeros(16)}, "blocks.900000"),
    }


def plain_files(folder: Path) -> dict[Path, str]:
    """Files that are no archives of torch, and words of the message."""
    raw = {
        "bare.pt": (pickled(Call("os", "system", "true"))[0], "plain pickle"),
        "before_1_6.pt": (old(pickled(Call("os", "system", "true"))[0]), "os.system"),
        "before_1_6_doubling_storages.pt": (
            old(pickled({"a": 1})[0], b"\x80\x02}" + doubling() + b"Ns."),
            "tuple as a key",
        ),
        "before_1_6_doubling.pt": (old(b"\x80\x02}" + doubling() + b"Ns."), "tuple as a key"),
        "noise.ckpt": (b"\x93noise" * 100, "not a readable file"),
        "empty.pt": (b"", "the file is empty"),
        "giant_header.safetensors": (struct.pack("<Q", 1 << 62) + b"{}", "not a readable file"),
        "beyond.safetensors": (_safetensors({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}), "not a"),
        "overlap.safetensors": (_safetensors({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"},
                                             4), "not a"),
        "slip.index.json": (b'{"weight_map": {"backbone.pos_embed": "../../etc/passwd"}}', "passwd"),
        "list.index.json": (b"[1]", "index"),
        "deep.index.json": (b"[" * 100_000, "index"),
    }  # fmt: skip
    for name, (content, _) in raw.items():
        (folder / name).write_bytes(content)
    bad = weights()
    bad["smpl_head.decpose.bias"][0] = float("nan")
    save_file(bad, folder / "nan.safetensors")
    return {folder / name: words for name, (_, words) in raw.items()} | {folder / "nan.safetensors": "decpose.bias"}


def _safetensors(header: dict[str, Any], size: int = 0) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * size


def files(folder: Path) -> dict[Path, str]:
    """All hostile files, written to `folder`, with the words that the message about each has to hold."""
    marker = folder / MARKER
    made = mangled(folder) | plain_files(folder)
    for name, (call, words) in calls(marker).items():
        made[archive(folder / f"call_{name}.ckpt", {"state_dict": {}, "hyper_parameters": call})] = words
    for name, (content, words) in (odd_pickles() | odd_weights()).items():
        made[archive(folder / f"odd_{name}.ckpt", content)] = words
    call, words = calls(marker)["os_system"]  # beside weights that are fine
    made[archive(folder / "with_weights.ckpt", {"state_dict": weights(), "callbacks": call})] = words
    return made
