"""Body files of strangers: what would run, lie or blow up is refused in a sentence, and nothing is run or written."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from compress.atomic import atomic_write
from compress.errors import BadInput
from hmr.body.files import check_body
from hmr.checkpoints.safe_pickle import read_arrays, read_pickle
from tests.body_files import official


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def changed(**entries: object) -> bytes:
    return pickle.dumps({**official(), **entries}, protocol=2)


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def npz(**arrays: object) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def npy_header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def bomb() -> bytes:
    """A zip whose directory promises 2 GiB."""
    content = bytearray(zipped(v_template=bytes(1000)))
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 2**31)
    return bytes(content)


def spoiled(key: str, value: float) -> bytes:
    arrays = official(posedirs=key == "posedirs")
    arrays[key].ravel()[7] = value
    return pickle.dumps(arrays, protocol=4)


def hostile(mark: Path) -> dict[str, tuple[bytes, str]]:
    """File name -> (content, what the refusal has to say). `mark` is what some of them would create."""
    touch = f"touch {mark}"
    sparse = scipy.sparse.csc_matrix(np.eye(24, 6890))
    sparse.indices = sparse.indices + 2**20
    endless = scipy.sparse.csc_matrix(np.eye(24, 6890))
    endless.indptr = np.arange(len(endless.indptr), dtype=np.int32) * 2**17
    good = official()
    return {
        "system.pkl": (changed(v_template=Calls(os.system, touch)), "system"),
        "bare_system.pkl": (pickle.dumps(Calls(os.system, touch)), "system"),
        "old_system.pkl": (b"cos\nsystem\n(S'" + touch.encode() + b"'\ntR.", "os.system"),
        "inst_system.pkl": (b"(S'" + touch.encode() + b"'\nios\nsystem\n.", "os.system"),
        "nested.pkl": (changed(bs_style=[{"a": (Calls(os.system, touch),)}]), "system"),
        "eval.pkl": (changed(J=Calls(eval, f"open({str(mark)!r}, 'w')")), "eval"),
        "exec.pkl": (changed(J=Calls(exec, f"open({str(mark)!r}, 'w')")), "exec"),
        "getattr.pkl": (changed(J=Calls(getattr, "x", "format")), "getattr"),
        "import.pkl": (changed(J=Calls(__import__, "antigravity")), "__import__"),
        "popen.pkl": (changed(J=Calls(subprocess.Popen, ["touch", str(mark)])), "Popen"),
        "open.pkl": (changed(J=Calls(open, str(mark), "w")), "open"),
        "numpy_load.pkl": (changed(J=Calls(np.load, str(mark))), "numpy.load"),
        "numpy_runstring.pkl": (b"cnumpy.testing._private.utils\nrunstring\n(S'1'\n}tR.", "runstring"),
        "dotted.pkl": (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "numpy.ndarray.tofile"),
        "dotted_chumpy.pkl": (b"\x80\x04\x8c\x06chumpy\x8c\x09os.system\x93\x8c\x01x\x85R.", "no dict"),
        "persistent.pkl": (b"P0\n.", "outside the file"),
        "extension.pkl": (b"\x80\x02\x82\x01.", "broken"),
        "reconstructor.pkl": (b"ccopy_reg\n_reconstructor\n(cnumpy\ndtype\nc__builtin__\nobject\nNtR.", "broken"),
        "object_dtype.pkl": (changed(J_regressor=np.array([Calls(os.system, touch), 1], dtype=object)), "system"),
        "object.npz": (npz(**{**good, "J": np.array(Calls(os.system, touch), dtype=object)}), "system"),
        "two_objects.npz": (npz(**{**good, "weights": np.array([{}, {}], dtype=object)}), "weights"),
        "memo.pkl": (b"\x80\x02Nr\xff\xff\xff\x7f0.", "broken"),  # asks the C unpickler for 32 GB
        "bytearray.pkl": (b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b".", "broken"),
        "zeros.pkl": (
            changed(J=Calls(np.float64(1).__reduce__()[0], np.dtype("f8"), 1 << 33)),
            "broken",
        ),
        "doubling_key.pkl": (b"\x80\x02})" + b"2\x86" * 60 + b"Ns.", "tuple as a key"),
        "doubling_type.pkl": (b"\x80\x02cnumpy\ndtype\n)" + b"2\x86" * 60 + b"\x85R.", "no dict"),
        "endless_rows.pkl": (changed(J_regressor=endless), "broken"),
        "frame.pkl": (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.", "no dict"),
        "truncated.pkl": (changed()[:-200_000], "truncated"),
        "truncated.npz": (npz(**good)[:-200_000], "truncated"),
        "one_byte.pkl": (b"\x80", "truncated"),
        "empty.pkl": (b"", "not a file"),
        "text.pkl": (b"<html>Please sign in</html>", "truncated"),
        "list.pkl": (pickle.dumps([1, 2]), "no dict"),
        "lacking.pkl": (pickle.dumps({"v_template": good["v_template"]}), "shapedirs"),
        "mano.pkl": (changed(v_template=np.zeros((778, 3))), "v_template has shape (778, 3)"),
        "few_betas.pkl": (changed(shapedirs=np.zeros((6890, 3, 4))), "shapedirs has shape"),
        "posedirs.pkl": (changed(posedirs=np.zeros((6890, 3, 45))), "posedirs has shape"),
        "nan.pkl": (spoiled("v_template", np.nan), "v_template holds values that are not finite"),
        "infinite.pkl": (spoiled("posedirs", np.inf), "posedirs holds values that are not finite"),
        "too_large.pkl": (spoiled("posedirs", 1e300), "absurdly large"),
        "nan.npz": (npz(**{**good, "shapedirs": np.full((6890, 3, 10), np.nan)}), "shapedirs"),
        "millimetres.pkl": (changed(v_template=good["v_template"] * 1000), "metre"),
        "tree.pkl": (changed(kintree_table=np.zeros((2, 24), np.uint32)), "kintree_table"),
        "faces.pkl": (changed(f=np.full((13776, 3), 6890, np.uint32)), "f names vertices outside"),
        "float_faces.pkl": (changed(f=np.zeros((13776, 3))), "f is not"),
        "weights.pkl": (changed(weights=np.zeros((6890, 24))), "rows of weights"),
        "strings.pkl": (changed(weights="yes"), "weights is not an array"),
        "sparse.pkl": (changed(J_regressor=sparse), "broken"),
        "short_array.npz": (zipped(v_template=npy_header((10**9, 10**3))), "shorter than declared"),
        "bomb.npz": (bomb(), "unpacks to more"),
        "encrypted.npz": (npz(v_template=np.zeros(3)).replace(b"PK\x01\x02", b"PK\x01\x03"), "broken"),
    }


def test_no_room_is_made_for_what_a_file_only_claims(tmp_path):
    path = tmp_path / "bytearray.pkl"
    path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 2**30) + b".")
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match="fewer bytes than declared"):
            read_arrays(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_lists_that_double_are_not_written_out(tmp_path):
    path, shared = tmp_path / "lists.pkl", [1.0, 2.0]
    doubled: list[Any] = [1.0]
    for _ in range(30):
        doubled = [doubled, doubled]
    path.write_bytes(pickle.dumps({"poses": doubled}, protocol=2))
    with pytest.raises(BadInput, match="lists in lists"):
        read_pickle(path)
    wide: list[Any] = [1.0]
    for _ in range(4):
        wide = [wide] * 1000
    path.write_bytes(pickle.dumps({"poses": wide}, protocol=2))
    with pytest.raises(BadInput, match="lists in lists"):
        read_pickle(path)
    path.write_bytes(pickle.dumps({"poses": [shared, shared]}, protocol=2))
    assert read_pickle(path) == {"poses": [shared, shared]}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory) -> tuple[dict[str, list[Any]], dict[str, str], Path, Path]:
    """Outcomes by file name, what each should say, the home that should stay empty, the file nobody should create."""
    folder = tmp_path_factory.mktemp("hostile")
    mark, home = folder / "mark", folder / "home"
    files = hostile(mark)
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    script = Path(__file__).with_name("hostile_bodies.py")
    paths = [str(folder / name) for name in files]
    root = Path(__file__).parents[1]
    environment = {**os.environ, "FASTHMR_HOME": str(home), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], input=json.dumps(paths), capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    outcomes = {Path(path).name: outcome for path, outcome in json.loads(done.stdout).items()}
    return outcomes, {name: reason for name, (_, reason) in files.items()}, home, mark


def test_hostile_and_broken_files_are_refused(refusals):
    outcomes, reasons, home, mark = refusals
    wrong = {}
    for name, (code, message, events) in outcomes.items():
        one_sentence = message.count("\n") == 1 and "Traceback" not in message
        if not (code == 2 and name in message and reasons[name] in message and one_sentence and events == []):
            wrong[name] = (reasons[name], code, message, events)
    assert not wrong
    assert len(outcomes) == len(reasons) > 40
    assert not mark.exists() and not home.exists()  # nothing run, nothing written


def test_the_hook_would_have_seen_it(tmp_path):
    """The same watch on the ordinary unpickler does see the call, or its silence above would mean nothing."""
    (tmp_path / "system.pkl").write_bytes(pickle.dumps(Calls(os.system, "true")))
    script = "import sys, pickle; sys.path[:0] = [sys.argv[1]]; import hostile_bodies as h; sys.addaudithook(h.watch)\n"
    script += "h.watching = True\n"
    script += "try: pickle.load(open(sys.argv[2], 'rb'))\nexcept RuntimeError: sys.stdout.write(h.seen[0])"
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "system.pkl")],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.stdout.startswith("os.system"), done.stderr


def test_stand_ins_do_not_outlive_their_file(tmp_path):
    """A pickle may set attributes on what it is handed; the next file must not find them."""
    (tmp_path / "a.pkl").write_bytes(b"cnumpy\ndtype\n(N}S'poison'\nI1\nstb0(dS'x'\nI1\ns.")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"x": np.arange(3.0)}))
    read_arrays(tmp_path / "a.pkl")
    np.testing.assert_array_equal(read_arrays(tmp_path / "b.pkl")["x"], [0, 1, 2])


def test_arrays_of_any_order_and_type_come_back(tmp_path):
    draw = np.random.default_rng(0)
    held = {"fortran": np.asfortranarray(draw.random((3, 4))), "big": np.arange(5, dtype=">i4"),
            "half": draw.random(3).astype(np.float16), "scalar": np.float64(2.5), "flags": np.array([True, False]),
            "view": draw.random((4, 6))[::2, ::3], "zero": np.zeros((0, 3))}  # fmt: skip
    for protocol in range(6):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(held, protocol=protocol))
        found = read_arrays(tmp_path / "a.pkl")
        for key, value in held.items():
            np.testing.assert_array_equal(found[key], value)


def test_body_without_pose_directions_is_complete(tmp_path):
    assert "posedirs" not in check_body(official(), tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    atomic_write(tmp_path / "deep" / "file", b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "no space left")))
    with pytest.raises(OSError, match=r"file: cannot be written \(no space left\)"):
        atomic_write(tmp_path / "deep" / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "deep").iterdir()] == [("file", b"old")]
