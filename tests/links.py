"""What a page of HTML links to, and which tags it has."""

from __future__ import annotations

from html.parser import HTMLParser


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.found += [value for name, value in attributes if name in ("src", "href", "xlink:href") and value]
        self.ids += [value for name, value in attributes if name == "id" and value]
