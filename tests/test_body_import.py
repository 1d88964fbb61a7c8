"""Importing body files: official ones give back their arrays, hostile and broken ones are refused and run nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tracemalloc
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from compress.atomic import atomic_write
from compress.errors import BadInput
from hmr.body.files import check_body, import_body, load_body
from hmr.body.model import PARENTS
from hmr.checkpoints.safe_pickle import read_arrays, read_pickle
from hmr.home import fasthmr_home


def official(betas: int = 10, posedirs: bool = False) -> dict[str, Any]:
    """Arrays of the layout and number types of an official SMPL file; the values are random."""
    draw = np.random.default_rng(0)
    regressor = np.zeros((24, 6890))
    for joint in range(24):
        regressor[joint, draw.choice(6890, 30, replace=False)] = 1 / 30
    weights = draw.random((6890, 24)) ** 8
    parents = np.array([[2**32 - 1, *PARENTS[1:]], range(24)], dtype=np.uint32)
    bends = {"posedirs": draw.normal(0, 0.001, (6890, 3, 207))} if posedirs else {}  # most of a real file's size
    return bends | {
        "v_template": draw.normal(0, 0.3, (6890, 3)),
        "shapedirs": draw.normal(0, 0.01, (6890, 3, betas)),
        "J_regressor": regressor,
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": parents,
        "f": draw.integers(0, 6890, (13776, 3)).astype(np.uint32),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
        "J": draw.normal(size=(24, 3)),
    }


class Ch:
    """What pickles as chumpy.ch.Ch does: its value is in `x`, among much else."""

    def __init__(self, x: object) -> None:
        self.x = x

    def __getstate__(self) -> dict[str, object]:
        return {"x": self.x, "_itr": None, "_status": "new", "maker": [self.__class__]}


class Select(Ch):
    """What pickles as chumpy.reordering.Select: entries `idxs` of `a`, reshaped."""

    def __init__(self, a: object, idxs: object, shape: object) -> None:
        self.state = {"a": a, "idxs": idxs, "preferred_shape": shape}

    def __getstate__(self) -> dict[str, object]:
        return self.state


def chumpy_pickle(value: object, protocol: int) -> bytes:
    """`value` pickled with Ch and Select under chumpy's names, in modules that are gone afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
        for name, kind in (("chumpy.ch", Ch), ("chumpy.reordering", Select)):
            module = types.ModuleType(name)
            setattr(module, kind.__name__, kind)
            patch.setitem(sys.modules, name, module)
            patch.setattr(kind, "__module__", name)
        return pickle.dumps(value, protocol=protocol)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def python2_array(array: np.ndarray) -> bytes:
    """The opcodes numpy 1 wrote under Python 2: a BINSTRING payload, which Python 3 can no longer write."""
    code = array.dtype.str[1:].encode()
    shape = b"(" + b"".join(b"J" + struct.pack("<i", length) for length in array.shape) + b"t"
    data = array.tobytes()
    dtype = (
        b"cnumpy\ndtype\n(U" + bytes([len(code)]) + code + b"K\x00K\x01tR"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    payload = b"T" + struct.pack("<i", len(data)) + data
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    return start + b"(K\x01" + shape + dtype + b"\x89" + payload + b"tb"


def python2_object(module: bytes, name: bytes, state: dict[str, bytes]) -> bytes:
    """An old-style instance: copy_reg._reconstructor(cls, object, None) and its state as a dict."""
    made = b"ccopy_reg\n_reconstructor\n(c" + module + b"\n" + name + b"\nc__builtin__\nobject\nNtR"
    return made + python2_dict(state) + b"b"


def python2_dict(entries: dict[str, bytes]) -> bytes:
    items = (b"U" + bytes([len(key)]) + key.encode() + value for key, value in entries.items())
    return b"}(" + b"".join(items) + b"u"


def python2_file(arrays: dict[str, Any]) -> bytes:
    """An SMPL pickle as Python 2 wrote it: chumpy shapedirs, a scipy csc regressor, everything else numpy."""
    sparse = scipy.sparse.csc_matrix(arrays["J_regressor"])
    shape = b"(J" + struct.pack("<i", 24) + b"J" + struct.pack("<i", 6890) + b"t"
    parts = {key: python2_array(value) for key, value in arrays.items() if isinstance(value, np.ndarray)}
    parts["bs_style"] = b"U\x03lbs"
    parts["shapedirs"] = python2_object(b"chumpy.ch", b"Ch", {"x": python2_array(arrays["shapedirs"]), "_itr": b"N"})
    state = {key: python2_array(getattr(sparse, key)) for key in ("data", "indices", "indptr")}
    parts["J_regressor"] = python2_object(
        b"scipy.sparse.csc", b"csc_matrix", state | {"_shape": shape, "maxprint": b"K\x32", "format": b"U\x03csc"}
    )
    return b"\x80\x02" + python2_dict(parts) + b"."


def assert_same(path: Path, expected: dict[str, Any]) -> None:
    """The file at `path` holds the plain arrays of `expected`, at most ten betas of them."""
    with np.load(path, allow_pickle=False) as found:
        assert set(found) == {"sha256", *expected} - {"bs_style", "bs_type", "J"}
        for key in set(found) - {"sha256"}:
            wanted = expected[key][..., :10] if key == "shapedirs" else expected[key]
            assert found[key].dtype.kind in "fi"
            np.testing.assert_allclose(found[key], wanted, atol=1e-7)


def test_python_2_pickle_with_chumpy_and_sparse_arrays(home, tmp_path):
    arrays, path = official(posedirs=True), tmp_path / "basicModel_neutral_lbs_10_207_0_v1.0.0.pkl"
    path.write_bytes(python2_file(arrays))
    list(pickletools.genops(path.read_bytes()))  # the test's own bytes are a pickle
    written = import_body(path)
    assert written == home / "bodies" / "smpl" / "body.npz" == fasthmr_home() / "bodies" / "smpl" / "body.npz"
    assert_same(written, arrays)
    assert list(written.parent.iterdir()) == [written]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_python_3_pickles_of_every_protocol(home, tmp_path, protocol):
    arrays = official(betas=20)
    regressor = scipy.sparse.csc_matrix(arrays["J_regressor"])
    shuffled = np.random.default_rng(1).permutation(6890 * 3)
    template = arrays["v_template"].ravel()
    chosen = Select(Ch(template[np.argsort(shuffled)]), shuffled, (6890, 3))
    held = {**arrays, "J_regressor": regressor, "shapedirs": Ch(arrays["shapedirs"]), "v_template": chosen}
    path = tmp_path / "SMPL_FEMALE.pkl"
    path.write_bytes(chumpy_pickle(held, protocol))
    assert "chumpy" not in sys.modules
    written = import_body(path)
    assert written.parent.name == "smpl-female"
    assert_same(written, arrays)


@pytest.mark.parametrize("sparse", [scipy.sparse.csc_matrix, scipy.sparse.csr_matrix, scipy.sparse.csc_array])
def test_npz_with_a_sparse_regressor_inside(home, tmp_path, sparse):
    arrays = official()
    np.savez(tmp_path / "SMPL_MALE.npz", **{**arrays, "J_regressor": np.array(sparse(arrays["J_regressor"]))})
    written = import_body(tmp_path / "SMPL_MALE.npz")
    assert written.parent.name == "smpl-male"
    assert_same(written, arrays)


def test_imported_body_poses_as_its_arrays_say(home, tmp_path):
    arrays = official(betas=300, posedirs=True)
    np.savez(tmp_path / "SMPL_NEUTRAL.npz", **arrays)
    written = import_body(tmp_path / "SMPL_NEUTRAL.npz")
    body = load_body("smpl")
    assert body.name == "smpl" and body.sha256 == load_body(written).sha256
    joints = body.skeleton(torch.zeros(1, 24, 3), torch.zeros(1, 10))[0]
    np.testing.assert_allclose(joints, arrays["J_regressor"] @ arrays["v_template"], atol=1e-6)
    assert import_body(tmp_path / "SMPL_NEUTRAL.npz").read_bytes() == written.read_bytes()


def test_a_changed_body_is_not_loaded(home, tmp_path):
    np.savez(tmp_path / "SMPL_NEUTRAL.npz", **official())
    written = import_body(tmp_path / "SMPL_NEUTRAL.npz")
    held = dict(np.load(written))
    held["v_template"][0, 0] += 1e-4
    np.savez(written, **held)
    with pytest.raises(BadInput, match="do not match its sha256"):
        load_body("smpl")


def test_a_missing_body_says_where_it_looked_and_where_to_register(home):
    with pytest.raises(BadInput) as caught:
        load_body("smpl")
    assert str(home / "bodies" / "smpl" / "body.npz") in str(caught.value)
    assert "https://smpl.is.tue.mpg.de" in str(caught.value)
    with pytest.raises(BadInput, match=r"looked at .*/nowhere/smpl\.npz, .*"):
        load_body(Path("/nowhere/smpl.npz"))


def test_home_is_the_named_folder_or_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path))
    assert fasthmr_home() == tmp_path
    monkeypatch.delenv("FASTHMR_HOME")
    assert fasthmr_home().is_absolute() and fasthmr_home().name == "fasthmr"


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
