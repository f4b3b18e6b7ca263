"""What plans ask of a kernel, and what it answers: recorded there, replayed elsewhere.

    python -m tests.features > tests/data/kernels/RELEASE.json    (as root, on that kernel)

The file also keeps what `memtap doctor` said there, so that the ways chosen can be compared.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any, cast

from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Request
from memtap.tracers.doctor import LOOKS, REPORTS
from tests.live.tracing import MEMTAP

Answer = str | int | bool | None
Ask = Callable[[str], Answer]


class Features:
    """A kernel as plans see it: what they ask goes to `ask`, as one line of words."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    @property
    def btf(self) -> Features:
        return self

    @property
    def functions(self) -> Features:
        return self

    def __contains__(self, function: str) -> bool:
        return bool(self._ask(f"kprobe {function}"))

    def has_raw_tracepoint(self, name: str) -> bool:
        return bool(self._ask(f"tracepoint {name}"))

    def has_function(self, name: str) -> bool:
        return bool(self._ask(f"function {name}"))

    def attach_id(self, kind: str, name: str) -> int:
        return int(bool(self._ask(f"{kind} {name}")))

    def argument(self, tracepoint: str, number: int) -> Answer:
        return self._ask(f"argument {tracepoint} {number}")

    def member(self, struct: str, path: str) -> bool:
        return bool(self._ask(f"member {struct} {path}"))

    def __getattr__(self, name: str) -> Answer:
        return self._ask(name)

    @property
    def kernel(self) -> Kernel:
        return cast(Kernel, self)


def ask_kernel(kernel: Kernel) -> Ask:
    """Answers as the running kernel does."""

    def ask(question: str) -> Answer:
        what, *words = question.split()
        if what == "kprobe":
            return words[0] in kernel.functions
        if what == "tracepoint":
            return kernel.btf.has_raw_tracepoint(words[0])
        if what == "function":
            return kernel.btf.has_function(words[0])
        if what == "iter":
            return kernel.btf.attach_id("iter", words[0]) > 0
        if what == "member":
            return kernel.btf.member(words[0], words[1]) is not None
        if what == "argument":
            return kernel.btf.argument(words[0], int(words[1]))
        return bool(getattr(kernel, what))

    return ask


def chosen(request: Request, kernel: Kernel) -> tuple[str, list[str]]:
    """The best variant, as `doctor` names it, and its probes; "" if there is none."""
    variant = next(request.plan.possible(kernel), None)
    if variant is None:
        return "", []
    wanted = [probe for probe in request.probes(variant) if probe.is_event and probe.wanted(kernel)]
    return variant.name, [f"{probe.kind}:{probe.target(kernel)}" for probe in wanted]


def recorded(kernel: Kernel) -> dict[str, Answer]:
    """All that choosing the ways asks of a kernel."""
    answers: dict[str, Answer] = {}
    answer = ask_kernel(kernel)

    def ask(question: str) -> Answer:
        answers[question] = answer(question)
        return answers[question]

    features = Features(ask).kernel
    for request in (REPORTS | LOOKS).values():
        for variant in request.plan.variants:
            variant.missing(features)
        chosen(request, features)
    return dict(sorted(answers.items()))


def description() -> dict[str, Any]:
    """The running kernel: its release, features, and what doctor says."""
    kernel = Kernel()
    command = [*MEMTAP, "doctor", "-f", "json"]
    doctor = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
    return {
        "release": kernel.release,
        "features": recorded(kernel),
        "reports": doctor["rows"],
        "host": doctor["host"],
    }


if __name__ == "__main__":
    print(json.dumps(description(), indent=1))
