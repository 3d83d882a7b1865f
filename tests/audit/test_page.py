"""Pages made of hostile text: whatever it is, it is read and nothing else."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.charts import bars, durations
from audit.page import document, element, join, link_within, table

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='x",
    "</style><style>*{background:url(//x)}",
    "&lt;b&gt;",
    "\u202egnp.exe",
    "\x00\x1b[31m",
    "]]><!--",
    "\ud800",
]


class Read(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("br", "col", "hr", "meta", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def check_quiet(page: str) -> Read:
    """Nothing on it loads, runs or leads anywhere else; every element is closed."""
    read = Read(page)
    assert read.open == []
    assert not {"script", "img", "iframe", "object", "embed", "link", "base", "form", "image", "use"} & set(
        read.tags
    )
    for name, value in read.attributes:
        assert not name.startswith("on"), name
        assert name not in ("style", "src", "srcset", "xlink:href", "action"), name
        assert name != "href" or re.fullmatch("#[a-z]+", value or ""), value
    return read


@settings(max_examples=40)
@given(st.text() | st.sampled_from(HOSTILE))
def test_text_stays_text_wherever_it_stands(words: str) -> None:
    """In a cell, a heading, a title, an attribute, a label of a chart."""
    page = document(
        words,
        "p{color:red}",
        element("p", words, title=words),
        table([words], [[words, [words]]], caption=words),
        link_within("here", words),
        bars([(words, 3), (words, None)]),
        durations([(1, 2.0), (5, 90_000.0)], words, words),
    ).decode()
    read = check_quiet(page)
    quiet = check_quiet(
        document(
            "x",
            "p{color:red}",
            element("p", "x", title="x"),
            table(["x"], [["x", ["x"]]], caption="x"),
            link_within("here", "x"),
            bars([("x", 3), ("x", None)]),
            durations([(1, 2.0), (5, 90_000.0)], "x", "x"),
        ).decode()
    )
    assert read.tags == quiet.tags
    assert [name for name, _ in read.attributes] == [name for name, _ in quiet.attributes]


@pytest.mark.parametrize("words", HOSTILE)
def test_the_page_allows_nothing_but_its_style(words: str) -> None:
    """Its own policy says so, first of all."""
    page = document("t", "p{}", element("p", words)).decode()
    head = page[: page.index("<title>")]
    assert "default-src &#x27;none&#x27;; style-src &#x27;sha256-" in head
    assert "unsafe" not in head
    assert page.count("<style>") == 1


def test_what_could_load_or_run_cannot_be_made() -> None:
    """Not even by us."""
    for name in ("script", "img", "iframe", "a", "p onclick", ""):
        with pytest.raises(ValueError, match="no element"):
            element(name)
    for attribute in ("onclick", "style", "href", "src"):
        with pytest.raises(ValueError, match="no attribute"):
            element("p", **{attribute: "x"})
    with pytest.raises(ValueError, match="no anchor"):
        link_within("//x")
    with pytest.raises(ValueError, match="markup"):
        document("t", "</style>")
    assert join([element("b", "<"), "<"]) == "<b>&lt;</b>&lt;"
