"""docs/reliability.md quotes messages of the library as they are."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text()
FOLDERS = ("diffusion/io", "diffusion/training", "diffusion/data", "experiments", "launch")
# What differs from one message to the next, and what the operating system or another message says in its place.
VALUE = re.compile(
    r"\.\.\.|[^\s.,;]*[/=][^\s,;]*|\w+\.jsonl|\d+[, \d]*|\b[A-Z_]{2,}\b|\b[MN]\b|hdfs|it cannot rename a folder|"
    r"number of records|Permission denied|File too large|No space left on device|Connection reset by peer|Broken pipe"
)


def quoted(page: str) -> list[str]:
    """The parts of the messages in a page between their values, of at least four words."""
    cells = [part for line in page.splitlines() for part in line.split("`")[1::2]]
    messages = [cell for cell in cells if len(cell.split()) > 4 and not re.match(r"diffusion |python |pytest ", cell)]
    parts = [part for text in messages for part in VALUE.split(re.sub(r"^(error|WARNING): ", "", text)) if part]
    return [part.strip(" .:;,()`") for part in parts if len(part.split()) > 3]


def said() -> str:
    """The sources of the library, with strings in one line that the code divides."""
    text = "\n".join(path.read_text() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return re.sub(r'"\s*\n\s*f?"', "", text)


def test_the_page_quotes_what_the_library_says():
    parts = quoted(PAGE)
    assert len(parts) > 15
    there = said()
    assert "the evaluation was made at home" not in there
    assert [part for part in parts if part not in there] == []
