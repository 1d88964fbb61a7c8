"""Importing body files: official ones give back their arrays, hostile and broken ones are refused and run nothing."""

from __future__ import annotations

import pickle
import pickletools
import struct
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from compress.errors import BadInput
from hmr.body.files import import_body, load_body
from hmr.home import fasthmr_home
from tests.body_files import official


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
