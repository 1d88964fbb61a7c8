"""The site of `make docs`: mkdocs' hooks, so that pages which read well in the repository are the site's pages too.

Every page stands where the repository has it, README.md in front, and therefore relative links hold in both places.
What no page can be is made into one: the notebook, NOTICE, and the public names with their docstrings.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
KEPT = ("*.md", "docs/*.md", "docs/*.png", "docs/*.css", "docs/results.*", "hmr/assets/*.md", "diffusion/assets/*.md")
MADE = {"docs/tour.ipynb": "docs/tour.md", "NOTICE": "NOTICE.md"}  # what pages link to, and the page that stands for it
PACKAGES = ("hmr", "compress")  # whose `__all__` is public


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Headings are called in links what the repository calls them."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    return config


def slug(heading: str, separator: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", separator)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """The repository's pages and pictures, in its layout, and the pages that are made, beside the theme's files."""
    for file in list(files.documentation_pages()) + list(files.media_files()):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for path in sorted(path for pattern in KEPT for path in ROOT.glob(pattern)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    made = {"docs/tour.md": tour(), "NOTICE.md": notice(), "docs/library.md": library()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Blocks that are files get their name as title; links to what is no page lead to the page that stands for it."""
    for source, page in MADE.items():
        markdown = re.sub(rf"\]\(((?:\.\./|docs/)*){Path(source).name}\)", rf"](\g<1>{Path(page).name})", markdown)
    return re.sub(r"^```(\w+) (\S+\.\w+)$", r'```\1 title="\2"', markdown, flags=re.MULTILINE)


def tour() -> str:
    """The notebook as a page: its text, and its code in blocks."""
    cells = json.loads((ROOT / "docs/tour.ipynb").read_text())["cells"]
    texts = (("".join(cell["source"]), cell["cell_type"]) for cell in cells)
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in texts)


def notice() -> str:
    return f"# Notices\n\n```text\n{(ROOT / 'NOTICE').read_text()}```\n"


def library() -> str:
    """Every public name, for mkdocstrings to fill in."""
    parts = ["# The library", "What `import hmr` and `import compress` offer by name; all else may change."]
    for package in PACKAGES:
        tree = ast.parse((ROOT / package / "__init__.py").read_text())
        parts += [f"## {package}", (ast.get_docstring(tree) or "").partition("\n")[0]]
        parts += [f"::: {package}.{name}" for name in public(tree)]
    return "\n\n".join(parts)


def public(tree: ast.Module) -> list[str]:
    """What a module's `__all__` names."""
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return sorted(names, key=str.lower)
