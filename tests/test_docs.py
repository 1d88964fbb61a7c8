"""What README.md and docs/ say is so: commands, files, links, folders, fields of policies, figures.

Commands are parsed; each of a newcomer's first pages is run once, and all of them in the slow suite. What a command
takes long for is made small by options behind its own, of which the last one counts. A command runs where the files
that it names are there: those of `place`, and those that commands of the page before it have written.
"""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file

from compress import registry
from compress.recipe import Recipe
from experiments.cli.app import app as fasthmr
from hmr.home import fasthmr_home
from hmr.models.model import build
from tests.checkpoint_files import TINY

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("compress", "hmr", "diffusion", "experiments")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FIRST = ("README.md", "start.md")  # pages whose commands are run in the fast suite
OTHERS = ("your-own-model.md", "real-people.md")  # pages with a test of their own
FENCED = re.compile(r"^```.*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"^```\w+ (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)  # blocks that are files
INLINE = re.compile(r"`((?:fasthmr|python -m experiments)\s[^`]+)`")
SHORT = {
    "evaluate": "--frames 8",
    "depth": "--frames 2",
    "compress": "--frames 8 --calib-frames 4",
    "data preview": "",
    "data motion": "",
    "data clips": "--frames 4",
    "recipe check": "",
    "recipe list": "",
    "recipe show": "",
    "recipe schema": "",
    "cost": "",
    "inspect": "--heads 2",
    "convert": "--heads 2",
    "reconstruct": "",
    "run": "--end 0.2",
}
LONG = {
    "train hmr": "--steps 2 --depth 1 --workers 0",
    "train vae": "--steps 2 --pieces 8",
    "train decoder": "--minutes 0.01 --frames 90",
    "attach": "",
    "search": "--trials 2 --workers 1",
    "report": "",
    "paper": "--frames 8 --calib-frames 4 --recover-minutes 0.01",
    "decoders": "--steps 2 --frames 90 --train-frames 90",
}
WANTED = {  # of pages whose files are made here, so that their commands have to run
    "recipes.md": {"compress", "recipe check", "recipe list", "recipe schema", "recipe show"},
    "paper.md": {"paper"},
    "search.md": {"report", "search"},
    "training.md": {"evaluate", "reconstruct", "train decoder", "train hmr", "train vae"},
}
STUDY = """
schema_version: 1
name: smoke
model: reference-small
data: synth
frames: {calib: 4, val: 4, test: 4}
steps:
  - {policy: merge_tokens, keep: 130, per_layer: 32}
"""


@dataclass(frozen=True)
class Line:
    """A command as a page has it."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def fenced() -> Iterator[Line]:
    """Commands in blocks, without their comments."""
    for page in PAGES:
        for block in FENCED.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith(("fasthmr ", "python -m experiments")):
                    yield Line(page.name, tuple(shlex.split(line, comments=True)))


def inline() -> Iterator[Line]:
    """Commands in running text, of which some say no more than a name."""
    for page in PAGES:
        text = FENCED.sub("", page.read_text())
        yield from (Line(page.name, tuple(found.split())) for found in INLINE.findall(text))


LINES, MENTIONS = list(fenced()), list(inline())


def found(words: tuple[str, ...]) -> tuple[Any, str, list[str]]:
    """(click command that they lead to, its name, words that are left)."""
    if words[0] == "python":
        app = typer.Typer()
        app.command()(importlib.import_module(words[2]).main)
        return typer.main.get_command(app), words[2], list(words[3:])
    command: Any = typer.main.get_command(fasthmr)
    name, rest = [], list(words[1:])
    while getattr(command, "commands", None) and rest:
        assert rest[0] in command.commands, f"there is no command {rest[0]!r}"
        command = command.commands[rest[0]]
        name.append(rest.pop(0))
    return command, " ".join(name), rest


def runnable(words: list[str]) -> bool:
    """Whether the files that a command names are there."""
    given = [word for i, word in enumerate(words) if i == 0 or words[i - 1] != "--out"]
    files = [word.partition("@")[2] if "@" in word else word for word in given]
    names = [file for file in files if re.search(r"\.\w{2,}$|/|^[A-Z]{3,}$", file) and not file.startswith("-")]
    people = [fasthmr_home() / "real"] if "real:test" in words else []  # pip brings them: tests/test_real_slow.py
    return all(path.exists() for path in (*map(Path, names), *people))


def shortened(words: Sequence[str], short: list[str]) -> list[str]:
    """A command's words and those that make it short, whose budget, minutes or steps, takes the place of its own; no
    recovery is long."""
    budgets = {"--minutes", "--steps"} if {"--minutes", "--steps"} & {*short} else set()
    if "--recover-minutes" in words:
        budgets.add("--recover-minutes")
        short = [*short, *(() if "--recover-minutes" in short else ("--recover-minutes", "0.01"))]
    own = [word for i, word in enumerate(words) if not budgets & {word, *words[max(0, i - 1) : i]}]
    return [*own, *short]


@pytest.fixture
def through(fasthmr, tmp_path, monkeypatch):
    """Run what can be run of pages, each in its order, with `once` each command once; gives their names."""
    load = Recipe.load
    monkeypatch.setattr(Recipe, "load", lambda name: hasty(load(name)))

    def run(smoke: dict[str, str], pages: Collection[str], once: bool = False) -> set[str]:
        names = set()
        for page, lines in groupby(LINES, lambda line: line.page):
            if page not in pages:
                continue
            monkeypatch.chdir(place(tmp_path / page, page))
            for line in dict.fromkeys(lines):
                _, name, rest = found(line.words)
                if name in smoke and runnable(rest) and not (once and name in names):
                    code, _, said = fasthmr(*shortened(line.words[1:], smoke[name].split()))
                    assert code == 0, f"{line}: {said}"
                    names.add(name)
        return names

    return run


def hasty(recipe: Recipe) -> Recipe:
    """A recipe whose trainings are two steps long."""
    short: dict[str, Any] = {"steps": 2, "minutes": None}

    def step(one: Any) -> Any:
        if train := getattr(one, "train", None):
            return one.model_copy(update={"train": train.model_copy(update=short | {"frames": 162})})
        return one.model_copy(update=short) if one.policy == "recover" else one

    return recipe.model_copy(update={"steps": tuple(map(step, recipe.steps))})


def place(folder: Path, page: str) -> Path:
    """Where the commands of a page run, with the page's own files and those of a user's that it names."""
    torch.manual_seed(0)
    for study in ("STUDY.yaml", "experiments/studies/reference.yaml"):
        (folder / study).parent.mkdir(parents=True, exist_ok=True)
        (folder / study).write_text(STUDY)
    torch.save({"state_dict": build("hmr2", TINY).state_dict()}, folder / "epoch=35.ckpt")
    save_file(build("dinov2", {"depth": 1}).backbone.state_dict(), folder / "backbone.safetensors")
    for name, text in NAMED.findall(text_of(page)):
        (folder / name).write_text(text)
    return folder


def text_of(page: str) -> str:
    return (ROOT / page if page == "README.md" else ROOT / "docs" / page).read_text()


@pytest.mark.parametrize("line", LINES, ids=str)
def test_a_command_is_what_the_command_line_takes(line):
    command, _, rest = found(line.words)
    asked: list[dict[str, Any]] = []
    command.callback = lambda **given: asked.append(given)
    command.main(rest, standalone_mode=False)
    assert len(asked) == 1
    study = asked[0].get("study", "")
    assert not study.startswith("experiments/") or (ROOT / study).is_file()


@pytest.mark.parametrize("line", MENTIONS, ids=str)
def test_a_mentioned_command_has_the_options_that_are_mentioned(line):
    command, _, rest = found(line.words)
    assert {word for word in rest if word.startswith("--")} <= {name for p in command.params for name in p.opts}


def test_commands_of_the_first_pages_run(through):
    assert through(SHORT, FIRST, once=True) >= {"data preview", "evaluate", "depth", "cost", "compress"}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("page", sorted({page.name for page in PAGES} - {*OTHERS}))
def test_commands_of_a_page_run(through, page):
    assert through(SHORT | LONG, {page}) >= WANTED.get(page, set())


def test_the_readme_is_short():
    assert len(text_of("README.md").splitlines()) <= 90


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_links_of_a_page_are_there(page):
    text = page.read_text()
    places = re.findall(rf"`((?:{'|'.join(ROOMS)}|tests|docs)/[\w./-]*)", text)
    assert [place for place in places if not (ROOT / place).exists()] == []
    for link in re.findall(r"\]\(([^)#:]*(?:#[^)]*)?)\)", text):
        target, _, anchor = link.partition("#")
        file = page.parent / target if target else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file.read_text()), link


def anchors(text: str) -> set[str]:
    """What a page's headings are called in links, or has as ids."""
    if text.startswith("<!doctype html>"):
        return {*re.findall(r'id="([^"]+)"', text)}
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_tree_has_the_folders_that_there_are():
    """A new folder needs its sentence in docs/architecture.md."""
    tree = FENCED.search(text_of("architecture.md"))
    assert tree
    told: list[str] = []
    for indent, name, sentence in re.findall(r"^( *)([\w]+)/ +(.*)$", tree[1], re.MULTILINE):
        depth = len(indent) // 2
        told.append("/".join([*(told[-1].split("/")[:depth] if told else []), name]))
        assert sentence
    there = {path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()}
    folders = {parent.as_posix() for path in there if "__pycache__" not in path.parts for parent in path.parents}
    assert sorted(told) == sorted(folders - {"."} | {"tests"})


@pytest.mark.parametrize("name", sorted({point.name for point in registry.OURS} | {"motion_decoder"}))
def test_recipes_name_every_field_of_a_policy(name):
    (section,) = re.findall(rf"^## {name}$(.*?)(?=^## )", text_of("recipes.md"), re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    told = {field for row in rows for field in re.findall(r"`(\w+)`", row)}
    assert told == set(registry.policy(name).model_fields) - {"policy"}


def test_every_picture_has_its_command():
    """It is the command's output, or the comment behind the command says where in that it lies."""
    pictures = {f"docs/{path.name}" for path in (ROOT / "docs").iterdir() if path.suffix in (".png", ".svg")}
    blocks = [block for page in PAGES for block in FENCED.findall(page.read_text())]
    commands = [
        line
        for block in blocks
        for line in block.splitlines()
        if line.startswith(("fasthmr ", "python -m ", "chromium "))
    ]
    assert pictures and pictures <= {word.removeprefix("--screenshot=") for line in commands for word in line.split()}


DRAWN = [line for line in LINES if line.page == "figures.md" and line.words[:2] == ("fasthmr", "data")]


@pytest.mark.parametrize("line", DRAWN, ids=str)
def test_a_command_draws_its_picture(line, fasthmr, tmp_path, monkeypatch):
    """On another machine a value may be rounded another way, by 1 of 255, and an edge may fall another way."""
    monkeypatch.chdir(tmp_path)
    assert fasthmr(*line.words[1:])[0] == 0
    name = line.words[-1]
    mine, theirs = (np.asarray(Image.open(path).convert("RGB")) for path in (Path(name), ROOT / name))
    assert mine.shape == theirs.shape
    assert (abs(mine.astype(int) - theirs) <= 1).all(-1).mean() > 0.999
