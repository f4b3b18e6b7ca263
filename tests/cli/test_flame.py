"""Stacks as collapsed text and as a page that no name can break out of."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memtap.cli.flame import Stacks, flame_page, folded

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "--><img src=x onerror=alert(1)>",
    "&lt;",
    "\"'`${x}\\",
    "__DATA__",
    "a;b",
    "a\nb 3\r",
    "\u2028\u2029\u202e\0\x1b[31m\x7f",
    "\U0001d573 日本",
    "\udcff",
    "",
    "  ",
    "worker 12",
    "worker 1.5 ",
)
CALLS = {
    ("cat",): 1,
    ("cat", "main"): 2,
    ("cat", "main", "read"): 3,
    ("cat", "main", "write"): 5,
    ("dog", "main", "read"): 8,
}
FRAMES = st.text() | st.sampled_from(HOSTILE)
STACKS = st.dictionaries(
    st.lists(FRAMES, min_size=1, max_size=6).map(tuple), st.integers(1, 10**12), max_size=20
)

# What flamegraph.pl takes for a number at the end of a line; it looks twice.
COUNT = re.compile(r"^(.*)\s+?(\d+(?:\.\d*)?)$")


def parsed(text: str) -> dict[tuple[str, ...], int]:
    counts = {}
    for line in text.splitlines():
        match = COUNT.match(line)
        assert match, line
        assert not COUNT.match(match[1]), line
        counts[tuple(match[1].split(";"))] = int(match[2])
    return counts


class Page(HTMLParser):
    """The elements of a page in order, with their attributes and the text they begin with."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._text = []
        self.elements.append((tag, dict(attrs), self._text))

    def handle_endtag(self, tag: str) -> None:
        self._text = []

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    def texts(self, tag: str, **attributes: str) -> list[str]:
        return [
            "".join(texts)
            for found, has, texts in self.elements
            if found == tag and attributes.items() <= has.items()
        ]

    def policy(self) -> str:
        (policy,) = (
            has["content"]
            for _, has, _ in self.elements
            if has.get("http-equiv") == "Content-Security-Policy"
        )
        assert policy
        return policy

    def tags(self) -> list[str]:
        return [tag for tag, _, _ in self.elements]

    def stacks(self) -> dict[tuple[str, ...], int]:
        """What was put in, read back the way the script reads it."""
        (text,) = self.texts("script", id="stacks")
        data = json.loads(text)
        path: list[str] = []
        counts = {}
        for name, depth, own in zip(data["name"], data["depth"], data["self"], strict=True):
            assert depth <= len(path)
            path[depth:] = [data["names"][name]]
            if own:
                counts[tuple(path[1:])] = own
        return counts


def page_of(stacks: Stacks, title: str = "Page faults") -> Page:
    return Page(flame_page(stacks, title, "faults"))


def test_folded_lines_are_sorted_and_end_in_their_count() -> None:
    assert folded({("b",): 2, ("a", "z"): 1, ("a", "b c"): 30}) == "a;b c 30\na;z 1\nb 2\n"
    assert folded({}) == ""


@pytest.mark.parametrize(
    ("frame", "shown"),
    [
        ("operator new(unsigned long)", "operator new(unsigned long)"),
        ("a;b", "a:b"),
        ("a\nb", "a\\nb"),
        ("\u2028", "\\u2028"),
        ("worker 12", "worker_12"),
        ("worker 1.5 ", "worker_1.5"),
        ("12", "12"),
        ("", "[unknown]"),
    ],
)
def test_a_folded_frame_keeps_its_place(frame: str, shown: str) -> None:
    assert folded({("p", frame): 7, (frame,): 3}) == "".join(
        sorted([f"p;{shown} 7\n", f"{shown} 3\n"])
    )


def test_folded_stacks_that_look_the_same_are_one() -> None:
    assert folded({("p", "a;b"): 1, ("p", "a:b"): 2}) == "p;a:b 3\n"


def test_folded_reads_back() -> None:
    assert parsed(folded(CALLS)) == CALLS


@given(STACKS)
@example(dict.fromkeys(product(HOSTILE, HOSTILE), 1))
def test_no_frame_breaks_the_folded_format(stacks: Stacks) -> None:
    counts = parsed(folded(stacks))
    assert sum(counts.values()) == sum(stacks.values())
    assert {len(stack) for stack in counts} == {len(stack) for stack in stacks}
    assert folded(counts) == folded(stacks)


def test_the_page_has_the_stacks() -> None:
    assert page_of(CALLS).stacks() == CALLS


@given(STACKS)
@example(dict.fromkeys(product(HOSTILE, HOSTILE), 1))
def test_no_frame_breaks_out_of_the_page(stacks: Stacks) -> None:
    text = flame_page(stacks, "t", "faults")
    page = Page(text)
    assert sum(page.stacks().values()) == sum(stacks.values())
    assert page.tags() == page_of({}).tags()
    (data,) = page.texts("script", id="stacks")
    assert re.fullmatch(r"[ -~]+", data)
    assert not set(data) & set("<>&")


@pytest.mark.parametrize("title", HOSTILE[:6])
def test_no_title_breaks_out_of_the_page(title: str) -> None:
    page = page_of(CALLS, title)
    assert page.texts("title") == [title]
    assert page.texts("h1") == [title]
    assert page.tags() == page_of({}).tags()
    assert page.stacks() == CALLS


def test_only_the_script_and_the_style_of_the_page_may_run() -> None:
    page = page_of(CALLS)
    hashes = [
        f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
        for text in (*page.texts("style"), *page.texts("script", type="module"))
    ]
    sources = re.findall(r"(?:style|script)-src ([^;]*);", page.policy())
    assert sources == hashes
    assert page.policy().startswith("default-src 'none';")
    assert "unsafe" not in page.policy()


def test_the_page_needs_nothing_else() -> None:
    text = flame_page(CALLS, "t", "faults")
    assert not re.search("https?://|@import|url\\(", text)
    attributes = {name for _, has, _ in Page(text).elements for name in has}
    assert not attributes & {"src", "href", "style", "srcset"}
    assert not [name for name in attributes if name.startswith("on")]
    assert not re.search("innerHTML|outerHTML|insertAdjacentHTML|document.write|eval", text)


@pytest.mark.parametrize(
    ("stacks", "notice"),
    [({}, "No stacks were sampled."), ({("a",): 0}, "No stacks were sampled."), (CALLS, "")],
)
def test_a_page_without_stacks_says_so(stacks: Stacks, notice: str) -> None:
    assert page_of(stacks).texts("p", id="notice") == [notice]


def test_twenty_thousand_stacks_make_a_small_page() -> None:
    functions = [f"a_function_with_a_rather_long_name_{n}" for n in range(10)]
    stacks = {(*["main"] * 30, *path): 1 for path in product(functions, repeat=4)}
    stacks |= {(*stack, "__memset_avx2_erms"): 2 for stack in stacks}
    page = flame_page(stacks, "t", "faults")
    assert page_of(stacks).stacks() == stacks
    assert len(stacks) == 20_000
    assert len(page) < 300_000 < len(folded(stacks)) / 10


def test_recursion_of_any_depth_is_drawn() -> None:
    stacks = {("p", *["f"] * 5000): 1}
    assert page_of(stacks).stacks() == stacks
