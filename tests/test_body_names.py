"""Which body a file is follows from its name or its folder's, however people lay them out, or is asked for."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from compress.errors import BadInput
from hmr.body.files import import_body
from tests.test_body_import import official

LAYOUTS = {
    "basicModel_f_lbs_10_207_0_v1.0.0.npz": "smpl-female",
    "basicmodel_m_lbs_10_207_0_v1.1.0.npz": "smpl-male",
    "basicmodel_neutral_lbs_10_207_0_v1.1.0.npz": "smpl",
    "SMPL_NEUTRAL.npz": "smpl",
    "SMPL_FEMALE.npz": "smpl-female",
    "SMPL-Male.npz": "smpl-male",
    "smpl.male.npz": "smpl-male",
    "SMPLMale.npz": "smpl-male",
    "basicModelFemale.npz": "smpl-female",
    "SMPL_F_chumpyfree.npz": "smpl-female",
    "neutral/model.npz": "smpl",
    "male/model.npz": "smpl-male",
    "Female/model.npz": "smpl-female",
    "smpl_male/model.npz": "smpl-male",
    "male/SMPL_FEMALE.npz": "smpl-female",
}


@pytest.fixture(scope="module")
def smpl(tmp_path_factory):
    path = tmp_path_factory.mktemp("body") / "any.npz"
    np.savez(path, **official())
    return path


@pytest.fixture
def placed(smpl, tmp_path, monkeypatch):
    """A function that puts the body's file to a place under a folder that names no gender."""
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))

    def place(name):
        path = tmp_path / "bodies" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(smpl, path)
        return path

    return place


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_its_gender(layout, placed):
    assert import_body(placed(layout)).parent.name == LAYOUTS[layout]


@pytest.mark.parametrize("layout", ["model.npz", "SMPL.npz", "smpl/model.npz", "male_and_female.npz", "x/male/x/a.npz"])
def test_what_no_name_tells_is_asked_for(layout, placed, fasthmr, tmp_path):
    path = placed(layout)
    with pytest.raises(BadInput, match="pass --name smpl or --name smpl-female or --name smpl-male"):
        import_body(path)
    assert not (tmp_path / "home" / "bodies").exists()
    code, out, _ = fasthmr("body", "import", path, "--name", "smpl-male")
    assert (code, out.strip()) == (0, str(tmp_path / "home" / "bodies" / "smpl-male" / "body.npz"))
    with pytest.raises(BadInput, match="there is no SMPL body 'mano'"):
        import_body(path, "mano")
