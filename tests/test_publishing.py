"""What others read by machine: model cards in the hub's form, and CITATION.cff."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = sorted(path for room in ("hmr", "diffusion") for path in (ROOT / room / "assets").glob("*.safetensors"))
SECTIONS = {"Use and limits", "Training data", "Training", "Error", "Licence"}


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda path: path.stem)
def test_weights_have_a_card_in_the_hubs_form(weights):
    """Read by the hub's own package; each metric in its head is one that its text has with an interval."""
    card = ModelCard(weights.with_suffix(".md").read_text())
    assert isinstance(card.data, ModelCardData) and card.data.eval_results and card.data.tags
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "fasthmr")
    assert card.data.model_name == weights.stem
    assert set(re.findall(r"^## (.*)$", card.text, re.MULTILINE)) == SECTIONS
    for result in card.data.eval_results:
        assert f"{result.metric_type.upper()} {result.metric_value} [" in card.text


def test_the_citation_is_of_this_version_and_of_the_paper():
    cited = YAML(typ="safe").load(ROOT / "CITATION.cff")
    package = configparser.ConfigParser()
    package.read(ROOT / "setup.cfg")
    assert (cited["cff-version"], cited["type"]) == ("1.2.0", "software")
    assert (cited["version"], cited["license"]) == (package["metadata"]["version"], package["metadata"]["license"])
    (paper,) = cited["references"]
    title, number = paper["title"], paper["url"].rpartition("/")[2]
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"*{title}*" in readme and f"arXiv:{number}" in readme
    assert paper["identifiers"] == [{"type": "other", "value": f"arXiv:{number}"}]


def test_every_page_is_in_the_sites_navigation():
    """`make docs` fails where one is not; here the next page is missed without it."""
    pages = {path.relative_to(ROOT).as_posix() for place in (".", "docs") for path in (ROOT / place).glob("*.md")}
    cards = {weights.with_suffix(".md").relative_to(ROOT).as_posix() for weights in WEIGHTS}
    parts = YAML(typ="safe").load(ROOT / "mkdocs.yml")["nav"]
    named = [page for part in parts for entries in part.values() for entry in entries for page in entry.values()]
    assert sorted(named) == sorted(pages | cards | {"docs/library.md", "docs/tour.md", "NOTICE.md"})
