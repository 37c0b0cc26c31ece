"""The description of the package for readers outside of the repository: README.md, with no relative link.

`DIFFUSION_HOME` is the repository's address for browsers, e.g. of the release that is built. Links and pictures then
point there, and it is the package's home page. Without it, links become their words, and pictures are left out. What
else the package is, pyproject.toml says.
"""

import os
import pathlib
import re

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def absolute(text: str, home: str) -> str:
    """Markdown whose links are absolute; its code stays as it is.

    Args:
        text: the text, whose relative links are of files of the repository.
        home: the address of the repository, without a slash at its end; "" where it is not known.
    """

    def replaced(match: re.Match) -> str:
        picture, words, target = match.groups()
        if "://" in target:
            return match[0]
        if not home:
            return "" if picture else words
        if target.startswith("#"):
            return f"[{words}]({home}{target})"
        return f"{picture}[{words}]({home}/{'raw' if picture else 'blob'}/HEAD/{target})"

    parts = FENCE.split(text)  # code at the odd places
    return "".join(part if i % 2 else LINK.sub(replaced, part) for i, part in enumerate(parts))


if __name__ == "__main__":  # as the build runs it
    from setuptools import setup

    home = os.environ.get("DIFFUSION_HOME", "").rstrip("/")
    pages = {"Documentation": "blob/HEAD/docs", "Changelog": "blob/HEAD/CHANGELOG.md", "Issues": "issues"}
    setup(
        long_description=absolute((pathlib.Path(__file__).parent / "README.md").read_text(), home),
        long_description_content_type="text/markdown",
        project_urls={"Source": home, **{name: f"{home}/{page}" for name, page in pages.items()}} if home else {},
    )
