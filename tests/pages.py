"""Reads a report's page back: its elements and tables, and the proof that it needs nothing but itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "br", "link", "img", "input", "hr", "base", "source"}


class Page(HTMLParser):
    """Every element with its attributes and its text; unbalanced tags are an error, as they would break the page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.elements: list[dict[str, Any]] = []
        self._open: list[dict[str, Any]] = []
        self.feed(html)
        self.close()
        assert not self._open, f"not closed: {[e['tag'] for e in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = {"tag": tag, "attrs": dict(attrs), "text": "", "inside": [e["tag"] for e in self._open]}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append({"tag": tag, "attrs": dict(attrs), "text": "", "inside": []})

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1]["tag"] == tag, f"</{tag}> closes <{self._open[-1]['tag']}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element["text"] += data

    def all(self, tag: str, **attrs: str) -> list[dict[str, Any]]:
        return [e for e in self.elements if e["tag"] == tag and attrs.items() <= e["attrs"].items()]

    def text(self) -> str:
        return " ".join(self.all("body")[0]["text"].split())

    def table(self, caption: str) -> list[list[str]]:
        """The body rows of the table whose caption starts so, as texts of its cells."""
        position = next(
            i for i, e in enumerate(self.elements) if e["tag"] == "caption" and e["text"].startswith(caption)
        )
        rows: list[list[str]] = []
        body = False
        for e in self.elements[position:]:
            if e["tag"] == "table":
                break
            if e["tag"] == "tbody":
                body = True
            elif body and e["tag"] == "tr":
                rows.append([])
            elif body and e["tag"] in ("th", "td") and "tbody" in e["inside"]:
                rows[-1].append(" ".join(e["text"].split()))
            elif body and e["tag"] in ("section", "figure", "article"):
                break
        return rows


def assert_self_contained(page: Page) -> None:
    """Nothing is loaded, and links lead to the page itself or to those that lie beside it."""
    assert not [e for e in page.elements if e["tag"] in {"script", "link", "iframe", "object", "embed", "base", "img"}]
    for e in page.elements:
        for name, value in e["attrs"].items():
            assert not name.startswith("on"), f"an event handler on <{e['tag']}>"
            if name in {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}:
                own = re.fullmatch(r"#.*|report(-[a-z0-9-]+)?\.html", value or "")
                assert own, f"<{e['tag']} {name}={value!r}> leaves the page"
            if name not in {"title", "aria-label"}:
                assert "url(" not in (value or "").replace("url(#", ""), (
                    f"<{e['tag']} {name}={value!r}> loads something"
                )
    style = "".join(e["text"] for e in page.all("style"))
    assert "@import" not in style
    assert "url(" not in style
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["attrs"]["content"].startswith("default-src 'none'")
