"""Stacks with counts: as collapsed text, and as a page with a flame graph.

The page is flame.html with the stacks put in. Texts of traced processes are only in one block of
JSON, and its script writes them with textContent alone. Its policy allows no other script or style,
and fetches nothing.
"""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import sha256
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

from memtap.tracers.host.hostile import one_line

# Frames from the outermost, the process, to the innermost, and how often this stack was met.
Stacks = Mapping[tuple[str, ...], int]

# What perf calls a frame without a name. No name at all would end a stack too early.
_NAMELESS = "[unknown]"

# flamegraph.pl takes two numbers at the end of a line for the two sides of a comparison.
_LIKE_A_COUNT = re.compile(r" +(?=[0-9]+(\.[0-9]*)?$)")


def folded(stacks: Stacks) -> str:
    """One line per stack, frames joined by `;`, then a space and the count; sorted.

    What would break the format is replaced: `;` by `:` as stackcollapse-perf.pl does, unprintable
    characters as in hostile.py, and the space before a number that ends a frame by `_`. Stacks
    that are the same after this become one.
    """
    counts = _spelled(stacks, _folded_frame)
    return "".join(f"{';'.join(stack)} {counts[stack]}\n" for stack in sorted(counts))


def flame_page(stacks: Stacks, title: str, unit: str) -> str:
    """A flame graph of stacks: one HTML page that needs nothing but a browser.

    Args:
        stacks: what to draw; if there are none, the page says so.
        title: of the page, as plain text.
        unit: what the counts count, in the plural: `faults`.
    """
    tree = _tree(_spelled(stacks, _frame))
    page = Path(__file__).with_name("flame.html").read_text(encoding="utf-8")
    parts = {
        "POLICY": _policy(page),
        "TITLE": html.escape(one_line(title)),
        "NOTICE": "" if any(tree["self"]) else "No stacks were sampled.",
        "DATA": _inert_json({"unit": one_line(unit), **tree}),
    }
    return re.sub("__([A-Z]+)__", lambda match: parts[match[1]], page)


def _frame(name: str) -> str:
    return one_line(name).strip() or _NAMELESS


def _folded_frame(name: str) -> str:
    return _LIKE_A_COUNT.sub("_", _frame(name).replace(";", ":"))


def _spelled(stacks: Stacks, spell: Callable[[str], str]) -> Counter[tuple[str, ...]]:
    """Stacks with every frame respelled. A name is in many stacks, but respelled only once."""
    spelling = {name: spell(name) for name in set(chain.from_iterable(stacks))}
    counts: Counter[tuple[str, ...]] = Counter()
    for stack, count in stacks.items():
        counts[tuple(spelling[name] for name in stack)] += count
    return counts


def _tree(counts: Stacks) -> dict[str, list[Any]]:
    """Stacks as a tree, a column per property of its nodes, each node before its children.

    Returns:
        `names`, every name once, and by node `name` (its place in names), `depth` (0 is the root,
        which stands for all) and `self` (the count of the stack that ends there).
    """
    names = {"all": 0}
    name, depth, own = [0], [0], [0]
    previous: tuple[str, ...] = ()
    # In this order, a stack comes right after the stacks with which it shares most frames.
    for stack in sorted(counts):
        for level in range(_shared(previous, stack), len(stack)):
            name.append(names.setdefault(stack[level], len(names)))
            depth.append(level + 1)
            own.append(0)
        own[-1] += counts[stack]
        previous = stack
    return {"names": list(names), "name": name, "depth": depth, "self": own}


def _shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many frames two stacks have in common, from the outermost on."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _inert_json(value: object) -> str:
    """JSON in ASCII, which can neither end a script element nor begin a comment."""
    text = json.dumps(value, separators=(",", ":"))
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _policy(page: str) -> str:
    """A Content-Security-Policy that allows only the page's own style and script."""
    (style,) = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    (script,) = re.findall('<script type="module">(.*?)</script>', page, re.DOTALL)
    return (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _source(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
