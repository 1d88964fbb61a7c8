"""Laws of the house, read off the source: who may import whom, and what no file may hold."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from configparser import ConfigParser
from functools import cache
from pathlib import Path

import pytest

from compress.registry import working

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("compress", "hmr", "diffusion", "experiments")  # each may import itself and those before it
HOMES = {
    "smplx": (),  # non-commercial: the oracle of tests alone
    "diffusers": ("diffusion",),
    "optuna": ("experiments",),
    "pandas": ("experiments",),
    "matplotlib": ("experiments",),
}
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# where a module is called otherwise
DISTRIBUTIONS = {"PIL": "pillow", "skimage": "scikit-image", "ruamel": "ruamel.yaml", "rerun": "rerun-sdk"}


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Of a module's syntax, every one."""
    return (*ast.walk(ast.parse(path.read_text())),)


@cache
def imports(path: Path) -> set[str]:
    """Top-level names that a module imports, wherever in it."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """Half a million nodes are no more for whatever file comes next."""
    yield
    nodes.cache_clear()


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def required(extra: str | None = None) -> set[str]:
    """Names of the distributions that setup.cfg asks for."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options.extras_require"][extra] if extra else config["options"]["install_requires"]
    return {re.split(r"[^\w.-]", line)[0].replace("_", "-").lower() for line in lines.split("\n") if line}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    allowed = PACKAGES[: PACKAGES.index(package_of(path)) + 1]
    assert imports(path) & set(PACKAGES) <= set(allowed)


@pytest.mark.parametrize("room", ["media", "people", "animation"])
def test_rooms_that_a_run_is_made_of_know_nothing_of_it(room):
    """`hmr/video` follows people through frames and writes their motion; who finds them, and a motion's files, do not
    climb up to it."""
    modules = {
        node.module
        for path in (ROOT / "hmr" / room).glob("*.py")
        for node in nodes(path)
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert modules and not [name for name in modules if name.startswith("hmr.video")]


@pytest.mark.parametrize("library", HOMES)
def test_library_stays_at_home(library):
    strangers = [str(path.relative_to(ROOT)) for path in SOURCES if library in imports(path)]
    assert [name for name in strangers if name.split("/")[0] not in HOMES[library]] == []


def test_what_is_imported_is_required():
    by_choice = ("build-assets", "video", "onnx", "openvino", "blazepose", "rfdetr", "ultralytics", "ray", "rerun")
    extras = set().union(*map(required, by_choice))
    known = {*PACKAGES, *sys.stdlib_module_names}
    foreign = {name: path for path in SOURCES for name in imports(path) - known}
    missing = {
        name: str(path.relative_to(ROOT))
        for name, path in foreign.items()
        if DISTRIBUTIONS.get(name, name).replace("_", "-").lower() not in required() | extras
    }
    assert missing == {}


def test_every_requirement_is_pinned():
    pins = {line.split("==")[0].replace("_", "-").lower() for line in (ROOT / "constraints.txt").read_text().split()}
    assert required() | required("dev") | required("docs") | required("build-assets") <= pins


def test_a_class_has_a_name_of_its_own():
    """Who searches for one does not find another: no two public classes are called the same, in whatever room."""
    homes: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert homes and {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_files_and_packages_stay_small():
    assert {str(path): lines for path in SOURCES if (lines := len(path.read_text().splitlines())) > 350} == {}
    modules = Counter(path.parent for path in SOURCES if not path.stem.startswith("__"))
    assert {str(folder): files for folder, files in modules.items() if files > 15} == {}


def test_tables_of_the_paper_are_imported_by_their_commands_alone():
    users = {path.parent.name for path in SOURCES if "experiments.paper" in path.read_text()}
    assert users - {"paper", "tables", "equal_macs", "deployment"} == {"cli"}


def test_nobody_asks_which_policy_or_plan_it_is():
    """The registry alone knows whether something is one at all."""
    kinds = {"Policy", "Plan", *(name for kind in working() for name in (kind.__name__, kind.makes.__name__))}
    asked = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        for call in nodes(path)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in ("isinstance", "issubclass")
        if kinds & {name.id for name in ast.walk(call.args[1]) if isinstance(name, ast.Name)}
    }
    assert asked == {"compress/registry.py"}


def test_no_module_is_a_drawer():
    assert [path.name for path in SOURCES if path.stem in ("utils", "util", "helpers", "helper", "common")] == []


def test_no_path_of_one_machine():
    """No string in the code starts in a folder that only some machines have, or leaves the repository."""
    somewhere = re.compile(r"(?:^|[\s'\"=])(?:/(?:work|root|home|Users|mnt|opt)/|(?:\.\./)+shared\b)")
    for path in SOURCES + sorted((ROOT / "tests").rglob("*.py")):
        for node in nodes(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and path != Path(__file__).resolve():
                assert not somewhere.search(node.value), f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}"
