"""The course: sources and notebooks agree, formulas link to their functions, and every notebook runs as it stands."""

import functools
import importlib
import inspect
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import warnings

import pytest

import diffusion
from tools.docs import course, public_names

SOURCES = course.sources()
BYTES = 300_000


@pytest.fixture(scope="module")
def entries():
    """What the site's API has an entry of: the names of modules, not modules themselves."""
    public = public_names.public_names()
    return {name.path for names in public.values() for name in names}


def text_of(notebook, kind):
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def notebook_of(source):
    return json.loads(source.with_suffix(".ipynb").read_text())


def test_the_index_shows_every_notebook_with_its_picture():
    index = (course.FOLDER / "README.md").read_text()
    shown = re.findall(r"\((\d\d_\w+)\.ipynb\) \| !\[[^\]]+\]\(images/(\d\d)\.png\)", index)
    assert shown == [(source.stem, source.stem[:2]) for source in SOURCES]
    assert {path.name for path in (course.FOLDER / "images").iterdir()} == {f"{number}.png" for _, number in shown}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_its_source_executed(source):
    notebook = notebook_of(source)
    assert source.with_suffix(".ipynb").stat().st_size < BYTES
    code = text_of(notebook, "code")
    blocks = re.split(r"^# %%.*\n", source.read_text(), flags=re.MULTILINE)[1:]
    text = [re.sub(r"^# ?", "", block, flags=re.MULTILINE).strip() for block in blocks if block.startswith("# ")]
    assert [block.strip() for block in blocks if not block.startswith("# ")] == code
    assert text == text_of(notebook, "markdown")
    for cell in notebook["cells"]:
        assert all(output["output_type"] != "error" for output in cell.get("outputs", []))
    assert course.picture(notebook) == (course.FOLDER / "images" / f"{source.name[:2]}.png").read_bytes()


def member(package, name):
    """What `from package import name` brings; a package's short names, such as diffusion.ode, are not its modules."""
    return getattr(package, name) if hasattr(package, name) else importlib.import_module(f"{package.__name__}.{name}")


@pytest.mark.extended
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_formula_leads_to_its_function_in_the_code_and_on_the_site_and_every_page_is_there(source, entries):
    text = "\n".join(text_of(notebook_of(source), "markdown"))
    functions = course.LINK.findall(text)
    assert functions
    for name, target in functions:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # of a name that has moved
            found = functools.reduce(member, name.split("."), diffusion)
        if not inspect.ismodule(found):
            found = inspect.getmodule(inspect.unwrap(found))
        assert pathlib.Path(found.__file__) == (course.FOLDER / target).resolve(), name
        assert course.reference(name, target) in entries
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert "://" in target or (course.FOLDER / target).exists(), target


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_solution_stands_beside_every_exercise(source):
    cells = notebook_of(source)["cells"]
    exercises = [i for i, cell in enumerate(cells) if "**Try it**" in "".join(cell["source"])]
    solutions = [i for i, cell in enumerate(cells) if "solution" in cell["metadata"].get("tags", [])]
    assert solutions == [i + 1 for i in exercises]
    assert exercises or source.stem.startswith("13")  # the last one is a study, whose exercise is one's own
    assert all("assert" in "".join(cells[i]["source"]) for i in solutions)


def test_a_page_of_the_site_has_the_text_the_code_the_prints_and_the_pictures():
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": "# T\n[`ode.runge_kutta`](../../diffusion/flows/ode.py)"},
        {"cell_type": "code", "metadata": {}, "source": ["print(1)"], "outputs": [
            {"output_type": "stream", "text": ["1\n"]},
            {"output_type": "display_data", "data": {"image/png": "AAEC", "text/plain": "<Figure>"}}]},
    ]  # fmt: skip
    shown = course.page({"cells": cells}, "09_x")
    assert shown.markdown == (
        "# T\n[`ode.runge_kutta`][diffusion.flows.ode.runge_kutta]\n\n```python\nprint(1)\n```\n\n"
        "```text\n1\n```\n\n![](09_x_0.png)\n"
    )
    assert shown.pictures == {"09_x_0.png": b"\0\1\2"}
    solution = {"cell_type": "code", "metadata": {"tags": ["solution"]}, "source": "x = 1\n\nx", "outputs": []}
    folded = course.page({"cells": [solution]}, "09_x").markdown
    assert folded == '??? success "A solution"\n\n    ```python\n    x = 1\n\n    x\n    ```\n'
    assert course.title({"cells": cells}) == "T"


@pytest.mark.extended
def test_a_notebook_has_its_picture_whatever_the_backend_of_the_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")  # with which docs/learn/README.md runs the sources
    source = tmp_path / "99_x.py"
    source.write_text('# %% tags=["picture"]\nimport matplotlib.pyplot as plt\n\nplt.plot([0, 1])\nplt.show()\n')
    assert course.picture(course.executed(source)).startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom_in_five_minutes_of_two_cores(source):
    env = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(course.FOLDER.parents[1])}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, source.name],
        cwd=course.FOLDER,
        env=env,
        capture_output=True,
        text=True,
        timeout=4 * course.SECONDS,  # the machine may be busy with other things
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-3000:]
    assert after.ru_utime - before.ru_utime < 2 * course.SECONDS
