"""An HTML page as a browser would take it apart."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input", "path", "use", "rect"}


class Page(HTMLParser):
    """What a browser would make of it: ids, headings, references, scripts, and whether tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.data = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if "id" in found:
            self.ids.append(str(found["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        self.data += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag]


def check_page(text: str) -> Page:
    """The page, if it is well formed, closed within itself and asks nothing of the network."""
    page = Page(text)
    assert (page.unbalanced, page.open) == ([], [])
    assert len(page.ids) == len(set(page.ids))
    labelled = {str(a["aria-labelledby"]) for _, a in page.tags if "aria-labelledby" in a}
    used = {str(a["href"])[1:] for _, a in page.tags if "href" in a}
    assert labelled | used <= set(page.ids)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", text)
    assert not any(page.all(tag) for tag in ("link", "img", "iframe"))
    assert not [a for _, a in page.tags if "src" in a]
    assert all(str(a["href"]).startswith("#") for _, a in page.tags if "href" in a)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'")
    alts = [a["aria-label"] for a in page.all("div") if a.get("role") == "img"]
    assert len(alts) == len(page.all("svg"))
    assert all(alts)
    return page
