"""The notebooks of docs/learn, made from their sources.

    python -m tools.docs.course                  # all
    python -m tools.docs.course --only=01,05     # by their numbers

Each docs/learn/NN_name.py is a notebook in jupytext's percent format. It is executed from top to bottom in a fresh
kernel; the executed notebook is written beside it, and the picture of its cell tagged "picture" goes to
docs/learn/images/NN.png, for the index page. A cell tagged "solution" answers the exercise above it, and the site
shows it folded.
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
SECONDS = 300  # that a notebook may take on two cores
LINK = re.compile(r"\[`([\w.]+)`\]\((\.\./\.\./diffusion/[\w/]+\.py)\)")  # of a formula to its function


class Page(NamedTuple):
    """A notebook as a page of the site.

    Attributes:
        markdown: its text, code and printed output.
        pictures: name -> PNG, which the text shows.
    """

    markdown: str
    pictures: dict[str, bytes]


def sources() -> list[pathlib.Path]:
    """The sources in the order of the course."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def executed(source: pathlib.Path) -> dict:
    """Runs a source as a notebook.

    Args:
        source: in the percent format.

    Returns:
        The notebook with its outputs, as its file has it.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    import jupytext  # here: the site, which only reads what was executed, is built without them
    import nbclient
    import nbformat

    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, record_timing=False, resources={"metadata": {"path": str(source.parent)}}
    )
    kernel = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # it hides pictures
    client.execute(env=kernel)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    notebook.metadata.pop("language_info", None)  # it names the version of Python
    return json.loads(nbformat.writes(notebook))


def picture(notebook: dict) -> bytes:
    """The PNG of the cell that is tagged "picture"."""
    [cell] = [cell for cell in notebook["cells"] if "picture" in cell["metadata"].get("tags", [])]
    [png] = [output["data"]["image/png"] for output in cell["outputs"] if "image/png" in output.get("data", {})]
    return base64.b64decode(png)


def reference(name: str, target: str) -> str:
    """The API's path of a function or class, by the module that defines it.

    Args:
        name: as the text has it, from `diffusion` on.
        target: its file, from docs/learn.
    """
    module = target.removeprefix("../../").removesuffix(".py").replace("/", ".")
    return f"{module}.{name.rpartition('.')[2]}"


def page(notebook: dict, name: str) -> Page:
    """A notebook as Markdown; formulas link to the page of the public name instead of the file.

    Args:
        notebook: as its file has it.
        name: of its pictures, before their number.
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
    flags.DEFINE_string("only", "", "numbers of notebooks, with commas between; all if empty")
    app.run(main)
