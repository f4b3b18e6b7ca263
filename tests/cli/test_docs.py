"""Pages that are made from what tracers declare are as they would be made now.

python -m tests.cli.test_docs      makes them anew
"""

from __future__ import annotations

from memtap.cli.commands import summaries
from memtap.cli.manual import columns_page
from tests.cli.calling import HOME

PAGE, README = HOME / "docs" / "columns.md", HOME / "README.md"


def test_the_page_of_columns_is_what_tracers_declare() -> None:
    assert PAGE.read_text() == columns_page()


def test_the_readme_lists_every_command() -> None:
    readme = README.read_text()
    assert readme == _with_commands(readme)


def _with_commands(readme: str) -> str:
    """The README with its list of commands made anew."""
    before, head, rest = readme.partition("| command | answers |\n|---|---|\n")
    assert head
    rows = "".join(f"| `memtap {name}` | {said} |\n" for name, said in summaries().items())
    return before + head + rows + rest[rest.index("\n\n") + 1 :]


if __name__ == "__main__":
    PAGE.write_text(columns_page())
    README.write_text(_with_commands(README.read_text()))
