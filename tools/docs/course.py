"""Executes the notebooks of docs/learn, and writes them beside their sources.

    python -m tools.docs.course                  # all notebooks
    python -m tools.docs.course --only=01,05     # the notebooks with these numbers

Each docs/learn/NN_name.py is a notebook in jupytext's percent format. The command executes it from top to bottom in a
fresh kernel, writes the executed notebook beside it, and writes the picture of the cell with the tag "picture" to
docs/learn/images/NN.png, for the index page. A cell with the tag "solution" answers the exercise above it; the site
shows the solution folded.
"""

import base64
import json
import os
import pathlib
import re
import textwrap
import time
from typing import NamedTuple

from absl import app, flags, logging

FOLDER = pathlib.Path(__file__).parents[2] / "docs" / "learn"
SECONDS = 300  # the most that one cell of a notebook may take
LINK = re.compile(r"\[`([\w.]+)`\]\((\.\./\.\./diffusion/[\w/]+\.py)\)")  # a link from a formula to its function


class Page(NamedTuple):
    """A notebook as a page of the site.

    Attributes:
        markdown: the notebook's text, code and printed output.
        pictures: {file name: PNG} of the pictures that the Markdown shows.
    """

    markdown: str
    pictures: dict[str, bytes]


def sources() -> list[pathlib.Path]:
    """The sources of the notebooks, in the order of the course."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def executed(source: pathlib.Path) -> dict:
    """Runs a source as a notebook.

    Args:
        source: the notebook in jupytext's percent format.

    Returns:
        The notebook with its outputs, as the content of an .ipynb file.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    import jupytext  # imported here, because the site reads executed notebooks, and is built without these packages
    import nbclient
    import nbformat

    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, record_timing=False, resources={"metadata": {"path": str(source.parent)}}
    )
    kernel = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # it would hide the pictures
    client.execute(env=kernel)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    notebook.metadata.pop("language_info", None)  # it changes with the version of Python
    return json.loads(nbformat.writes(notebook))


def picture(notebook: dict) -> bytes:
    """The PNG of the cell that is tagged "picture"."""
    [cell] = [cell for cell in notebook["cells"] if "picture" in cell["metadata"].get("tags", [])]
    [png] = [output["data"]["image/png"] for output in cell["outputs"] if "image/png" in output.get("data", {})]
    return base64.b64decode(png)


def reference(name: str, target: str) -> str:
    """The path of a function or class in the API's pages, through the module that defines it.

    Args:
        name: the name in the text, e.g. "samplers.heun".
        target: the path from docs/learn to the file that defines it.
    """
    module = target.removeprefix("../../").removesuffix(".py").replace("/", ".")
    return f"{module}.{name.rpartition('.')[2]}"


def page(notebook: dict, name: str) -> Page:
    """A notebook as Markdown, in which formulas link to the API's pages in place of files.

    Args:
        notebook: the content of an .ipynb file.
        name: the beginning of the pictures' file names, before their number.
    """
    parts = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(LINK.sub(lambda link: f"[`{link[1]}`][{reference(link[1], link[2])}]", text))
            continue
        shown = [f"```python\n{text}\n```"]
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                file = f"{name}_{len(pictures)}.png"
                pictures[file] = base64.b64decode(data["image/png"])
                shown.append(f"![]({file})")
            elif printed := "".join(data.get("text/plain", output.get("text", ""))).rstrip():
                shown.append(f"```text\n{printed}\n```")
        if "solution" in cell["metadata"].get("tags", []):
            shown = ['??? success "A solution"', textwrap.indent("\n\n".join(shown), "    ")]
        parts += shown
    return Page("\n\n".join(parts) + "\n", pictures)


def title(notebook: dict) -> str:
    """The heading of a notebook."""
    return "".join(notebook["cells"][0]["source"]).splitlines()[0].removeprefix("# ")


def main(argv):
    only = [number for number in flags.FLAGS.only.split(",") if number]
    (FOLDER / "images").mkdir(exist_ok=True)
    for source in sources():
        if only and source.name[:2] not in only:
            continue
        start = time.monotonic()
        notebook = executed(source)
        source.with_suffix(".ipynb").write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
        (FOLDER / "images" / f"{source.name[:2]}.png").write_bytes(picture(notebook))
        logging.info("%s: %.0f s", source.name, time.monotonic() - start)


if __name__ == "__main__":
    flags.DEFINE_string("only", "", "numbers of the notebooks to execute, separated by commas; all if empty")
    app.run(main)
