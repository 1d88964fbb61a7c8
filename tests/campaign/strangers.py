"""Files from strangers and files with mistakes: nothing in them runs, each is refused in a sentence or read for what it
is, and none changes."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from compress.recipe import Recipe
from experiments.cli.main import ended
from experiments.search.study import read_study
from tests import hostile_bodies, hostile_checkpoints, opened_apart, test_body_hostile, test_document, test_recipe
from tests.campaign.apart import Defect, apart, fasthmr
from tests.campaign.kills import inputs
from tests.campaign.places import before
from tests.films import film
from tests.footage import cut, written
from tests.test_video_inputs import NOBODY, READ, REFUSED, limited_by_modes

MALFORMED, MEDIA = 150, 100


@cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fasthmr-campaign-"))


# ---- checkpoints and bodies that would run something


@cache
def checkpoints() -> list[tuple[Path, str]]:
    """Hostile checkpoints, and words of the message about each."""
    opened_apart.attempt(str(inputs() / "tiny.safetensors"))  # what is imported on first use
    opened_apart.attempt(str(hostile_checkpoints.archive(folder() / "good.ckpt", hostile_checkpoints.weights())))
    return list(hostile_checkpoints.files(folder()).items())


def checkpoint(case: int) -> str:
    path, words = checkpoints()[case]
    outcome, message, events = opened_apart.apart(str(path))
    wanted = "loaded" if path.name == "with_weights.ckpt" else "refused"  # its weights are fine; the rest is left out
    if outcome != wanted or events or words not in str(message) or (folder() / hostile_checkpoints.MARKER).exists():
        raise Defect(f"{path.name}: {outcome}, {message}, {events}")
    return "equal" if outcome == "loaded" else "refused"


@cache
def bodies() -> list[tuple[Path, str]]:
    """Hostile body files, and words of the message about each."""
    found = test_body_hostile.hostile(folder() / "mark")
    return [(written(folder() / name, content), words) for name, (content, words) in found.items()]


def body(case: int) -> str:
    path, words = bodies()[case]

    def watched() -> None:
        import sys

        import hmr.body.files

        hmr.body.files.import_body = hostile_bodies.watched_import  # type: ignore[assignment]
        hostile_bodies.attempt("/no/such/body.pkl")
        sys.addaudithook(hostile_bodies.watch)
        print(json.dumps(hostile_bodies.attempt(str(path))))  # noqa: T201

    code, message, events = json.loads(apart(watched, folder(), before=before).out)
    if code != 2 or events or words not in message or message.count("\n") != 1 or (folder() / "mark").exists():
        raise Defect(f"{path.name}: {code}, {message}, {events}")
    return "refused"


# ---- recipes and studies


def hostile_texts() -> list[str]:
    """YAML that would run, grow or recurse."""
    bomb = "\n".join(["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 200)])
    return [text for text, _, _ in test_document.UNREAD] + [bomb]


def document(kind: str, case: int) -> str:
    path = written(folder() / f"mine-{kind}.yaml", hostile_texts()[case].encode())
    return told(partial(Recipe.load if kind == "recipe" else read_study, str(path)), path)


@cache
def malformed() -> list[str]:
    """Recipes with a mistake: those of the tests, and each field of each shipped recipe misspelt, of another type or
    gone beyond its range."""
    found = [text for text, *_ in test_recipe.MISTAKES]
    for name in sorted(test_recipe.SHIPPED):
        whole = json.loads(Recipe.load(name).model_dump_json(exclude_unset=True))
        found += [json.dumps({key: value for key, value in whole.items() if key != left}) for left in whole]
        for i, step in enumerate(whole["steps"]):
            for key in step:
                for changed in (
                    {f"{k}x" if k == key else k: v for k, v in step.items()},
                    {**step, key: {"nonsense": 1}},
                    {**step, key: "nonsense"},
                    {**step, key: -(10**30)},
                ):
                    steps = [*whole["steps"][:i], changed, *whole["steps"][i + 1 :]]
                    found.append(json.dumps({**whole, "steps": steps}, indent=1))
    picked = np.random.default_rng(0).permutation(len(found) - len(test_recipe.MISTAKES))
    mine = len(test_recipe.MISTAKES)
    return found[:mine] + [found[mine + i] for i in picked[: MALFORMED - mine]]


def mistaken(case: int) -> str:
    path = written(folder() / "mistaken.yaml", malformed()[case].encode())
    return told(fasthmr("recipe", "check", path), path, f"{path}:")


def told(read: Callable[[], Any], path: Path, words: str = "") -> str:
    """Raises Defect where reading a file is not refused with a sentence that names it."""
    end = apart(lambda: ended(read), folder(), before=before)
    if (words or path.name) not in end.sentence:
        raise Defect(f"{path.read_text()[:300]!r}: {end.sentence}")
    return "refused"


# ---- media


def damaged_film(case: int, path: Path) -> Path:
    """A film that is cut off, or has some wrong bytes."""
    rng = np.random.default_rng(case)
    path = film(path.with_suffix((".mp4", ".avi", ".mkv")[case % 3]))
    if case % 4 == 0:
        return cut(path, rng.uniform(0.1, 0.99))
    content = bytearray(path.read_bytes())
    for at in rng.integers(0, len(content) if case % 2 else 300, 20):
        content[at] = rng.integers(256)
    return written(path, bytes(content))


def medium(case: int) -> str:
    """A video, a picture or a folder of them, good or bad."""
    makers = [*READ.values(), *NOBODY.values(), *(make for make, _ in REFUSED.values())]
    make = makers[case] if case < len(makers) else partial(damaged_film, case)
    with tempfile.TemporaryDirectory() as place:
        path = make(Path(place) / "walk.mp4")
        run = fasthmr("run", path, "--model", "tiny", "--out", "out", "--focal", 200, "--json")
        with limited_by_modes():
            was = digests(Path(place))
            end = apart(run, Path(place), before=before)
            now = {name: one for name, one in digests(Path(place)).items() if not name.startswith(("out/", "home/"))}
        if now != was:
            raise Defect("the files are no longer what they were")
        if end.code == 0 and (Path(place) / "out" / "run.json").exists() and "Traceback" not in end.said:
            return "read"
        return "refused" if end.sentence and not (Path(place) / "out" / "run.json").exists() else "nothing"


def digests(place: Path) -> dict[str, str]:
    found = {}
    for file in place.rglob("*"):
        if file.is_file() and not file.is_symlink():
            try:
                found[str(file.relative_to(place))] = hashlib.sha256(file.read_bytes()).hexdigest()
            except PermissionError:
                found[str(file.relative_to(place))] = ""
    return found


def rows() -> Iterator[tuple[str, int, Callable[[int], str]]]:
    """(row, cases, what does one)."""
    yield "a hostile checkpoint", len(checkpoints()), checkpoint
    yield "a hostile body file", len(bodies()), body
    for kind in ("recipe", "study"):
        yield f"a hostile {kind}", len(hostile_texts()), partial(document, kind)
    yield "a recipe with a mistake", len(malformed()), mistaken
    yield "a video or picture, good or bad", MEDIA, medium
