"""What the pages name is there: tables of names, modules, public names, files, recipes and flags."""

import ast
import dataclasses
import functools
import importlib.util
import inspect
import itertools
import pathlib
import pkgutil
import re
import tomllib
import warnings

import pytest

from diffusion import objectives
from diffusion.experiments.sampling.editors import EDITORS
from diffusion.package.public import MOVED
from diffusion.recipe import names
from diffusion.recipe.defaults import defaults
from diffusion.text_to_image.requests import Request

ROOT = pathlib.Path(__file__).parents[2]
TOPS = ("benchmarks", "configs", "diffusion", "docs", "examples", "experiments", "launch", "tests", "tools", "weights")
PAGES = [
    path
    for path in (*ROOT.glob("*.md"), *(path for top in TOPS for path in (ROOT / top).rglob("*.md")))
    if path.name != "CHANGELOG.md"  # it has earlier names
] + sorted((ROOT / "docs/learn").glob("*.py"))
FLAG = re.compile(r'(?:DEFINE_\w+\(\s*"|"--)([\w-]+)"')
PLACEHOLDER = re.compile(r"\b[A-Z]{4,}\b")
OTHERS = {  # {page: names that are no part of this repository, or are what a command of the page writes}
    "benchmarks/gpu/README.md": {
        "docs/images/cifar10_curve.png", "--no-deps", "--no-index", "--only-binary", "--platform", "--python-version",
        "--target", "--implementation",
    },
    "docs/comparison.md": {
        "tests/schedulers", "solver/ode_solver.py", "src/utils/resume_utils.py", "--resume_from_checkpoint",
    },
    "docs/evaluation.md": {"examples/dataset"},
    "docs/extend.md": {"diffusion.plugins"},
    "docs/inference_speed.md": {"docs/images/inference_speed_unet"},
    "docs/install.md": {
        "diffusion.sif", "--build-arg", "--nv", "--rm", "--tag", "--xla_cpu_experimental_ynn_fusion_type",
    },
    "docs/speed.md": {"--xla_cpu_use_onednn"},
    "docs/tasks/published_checkpoint.md": {"weights/diffusion_pytorch_model.safetensors"},
}  # fmt: skip


@functools.cache
def flags() -> set[str]:
    """The flags of every command of the repository, and the fields of a request, which `diffusion sample` takes."""
    sources = (path for top in TOPS if top != "tests" for path in (ROOT / top).rglob("*.py"))
    defined = {flag for path in sources for flag in FLAG.findall(path.read_text())}
    return defined | {field.name for field in dataclasses.fields(Request)} | {"config", "help"}


def is_public(name: str) -> bool:
    """Whether a dotted name leads to a file, which is not imported, or to a name of a module; by its present name."""
    path = ROOT / name.replace(".", "/")
    if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError, DeprecationWarning):
            return False
    return name not in MOVED.places  # a module that another test has imported by its former name warns no more


def missing(text: str) -> set[str]:
    """What a page names and the repository does not have."""
    tables = {f"names.{table}" for table in re.findall(r"names\.([A-Z_]+)\b", text) if not hasattr(names, table)}
    public = {name for name in re.findall(r"(?<![\w/.-])diffusion(?:\.\w+)+", text) if not is_public(name)}
    modules = set(re.findall(r"python -m ([\w.]+)", text))
    recipes = set(re.findall(r"--config=([\w/]+)(?![\w/.])", text))
    paths = set(re.findall(rf"(?<![\w/:.])(?:{'|'.join(TOPS)})/[\w./-]*\w", text))
    files = set(re.findall(r"`((?:\w+/)+\w+\.py)`", text))
    named = set(re.findall(r"(?<![\w-])--([a-z][\w-]*\w)", text))
    found = (
        tables
        | public
        | {
            f"python -m {name}"
            for name in modules
            if not PLACEHOLDER.search(name) and not importlib.util.find_spec(name)
        }
        | {f"--config={recipe}" for recipe in recipes if not (ROOT / f"configs/{recipe}.py").is_file()}
        | {path for path in paths if not (ROOT / path).exists()}
        | {file for file in files if not any((top / file).exists() for top in (ROOT, ROOT / "diffusion"))}
        | {f"--{flag}" for flag in named - flags()}
    )
    return {name for name in found if not PLACEHOLDER.search(name)} | tables


@pytest.mark.parametrize(
    "text",
    [
        "names.NOTHING", "`diffusion.models.pixart`", "`diffusion.samplers.nothing`", "python -m tools.nothing",
        "--config=nothing", "tests/test_nothing.py", "`models/products.py`", "diffusion train --nothing=3",
    ],
)  # fmt: skip
def test_what_is_not_there_is_seen(text):
    assert len(missing(text)) == 1


def test_everything_that_a_page_names_is_there():
    assert len(PAGES) > 80
    found = {path.relative_to(ROOT).as_posix(): missing(path.read_text()) for path in PAGES}
    assert {page: left for page, names in found.items() if (left := names - OTHERS.get(page, set()))} == {}
    assert {page: gone for page, names in OTHERS.items() if (gone := names - found[page])} == {}


def test_the_page_of_objectives_names_every_fact_and_every_field_of_a_record():
    page = (ROOT / "docs/objectives.md").read_text()
    section = page.split("\n## Facts\n")[1].split("\n<!--")[0]
    rows = {name: text for name, text in re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)}
    facts = {field.name for field in dataclasses.fields(objectives.Objective)} - {"loss"}
    assert facts <= rows.keys()
    records = [
        type(value) for value in vars(objectives.Objective(lambda *_: None)).values() if isinstance(value, tuple)
    ]
    shown = {
        kind: set(re.findall(r"`(\w+)`", rows.get(kind.__name__, ""))) for kind in records if kind.__name__ in rows
    }
    assert {kind.__name__ for kind in shown} == {"Trained", "Condition", "Blocks", "Beside", "Examples"}
    assert {kind.__name__: left for kind, names in shown.items() if (left := set(kind._fields) - names)} == {}
    for fact, kind in (("teacher", objectives.Teacher), ("second", objectives.Second)):
        assert re.search(r"`(\w+)\(([^)]*)\)`", rows[fact])[2].split(", ") == list(kind._fields)


def test_the_page_of_samplers_says_which_of_its_table_a_config_does_not_name_as_a_sampler():
    page = (ROOT / "docs/samplers.md").read_text()
    table = page.split("\n## Samplers\n")[1].split("\n## ")[0]
    [row] = re.findall(r"^\| `config.sample.sampler` \| (.*) \|$", page, re.MULTILINE)
    elsewhere = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) - names.SAMPLERS.keys()
    assert elsewhere == set(re.findall(r"`(\w+)`", row.split("have another place")[1]))


def test_the_page_of_installation_names_every_extra():
    page = (ROOT / "docs/install.md").read_text()
    table = page.split("| extra |")[1].split("\n\n")[0]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        name for cell in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    }
    assert named == set(extras)


TABLES = [table for name, table in vars(names).items() if name.isupper() and hasattr(table, "items")] + [EDITORS]
OWN = re.compile(r"(?:def|class) (\w+)\(|names\.add\([^)]*\"(\w+)\"\)")  # what a page adds to a table
EXAMPLES = {"mine", "my_filter"}  # names of a reader's own functions, which no page shows


def entries(text: str) -> list[str]:
    """Each entry {"name": ..., **arguments} of a page, up to the brace that closes it."""
    starts = [match.start() for match in re.finditer(r'\{"name": "', text)]
    depths = [
        itertools.accumulate({"{": 1, "}": -1}.get(letter, 0) for letter in text[start : start + 1000])
        for start in starts
    ]
    return [text[start : start + list(depth).index(0) + 1] for start, depth in zip(starts, depths)]


def mistaken_entries(text: str) -> list[str]:
    """The entries of a page that name no function, or an argument that no function of that name takes."""
    own = {name for match in OWN.findall(text) for name in match} | EXAMPLES
    mistaken = []
    for entry in entries(text):
        node = ast.parse(re.sub(r"(, |\b)\.\.\.", "", entry).replace("\\\n", "\n"), mode="eval").body
        arguments = {key.value: value for key, value in zip(node.keys, node.values) if key is not None}
        name = arguments.pop("name").value
        functions = [table[name] for table in TABLES if name in table]
        functions += [function.conditions for function in functions if hasattr(function, "conditions")]
        takes = [set(inspect.signature(function).parameters) for function in functions]
        known = set().union({"wrappers", "interval"}, *takes)  # of an objective, and of a guidance
        if name not in own and not (functions and arguments.keys() <= known):
            mistaken.append(entry)
    return mistaken


@pytest.mark.parametrize(
    "text", ['{"name": "deis", "degree": 3}', '{"name": "deiss"}', '({"name": "crop", "padding": 4}, {"name": "flop"})']
)
def test_an_entry_that_does_not_fit_is_seen(text):
    assert len(mistaken_entries(text)) == 1


def test_every_entry_of_a_page_names_a_function_and_its_arguments():
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PAGES if path.suffix == ".md"}
    assert sum(text.count('{"name": "') for text in texts.values()) > 150
    assert {page: left for page, text in texts.items() if (left := mistaken_entries(text))} == {}


FIELDS = defaults().to_dict()
# Fields of the demo of text to image, whose config has a section for each stage; files; and a method in a program.
OF_OTHERS = re.compile(r"config\.(denoiser\.|json$|py$|update$)")


def is_field(path: str) -> bool:
    """Whether a dotted path leads to a field of every config, or to an argument of an entry."""
    node = FIELDS
    for name in path.split(".")[1:]:
        if "name" in node:
            return True
        if name not in node:
            return False
        node = node[name] if isinstance(node[name], dict) else {}
    return True


def missing_fields(text: str) -> set[str]:
    """The fields config.a.b of a page that no config has."""
    paths = re.findall(r"config(?:\.[a-z_]\w*)+(?!\w|\()", text)
    return {path for path in paths if not is_field(path) and not OF_OTHERS.match(path)}


def test_a_field_that_does_not_exist_is_seen():
    assert missing_fields("`config.train.stepz`, `config.trian.steps=3`") == {
        "config.train.stepz",
        "config.trian.steps",
    }
    assert missing_fields("`config.train.steps`, `config.schedule.p`, config.data.latents.dir=DIR") == set()


def test_every_field_of_a_config_that_a_page_names_exists():
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PAGES if path.suffix == ".md"}
    assert {page: left for page, text in texts.items() if (left := missing_fields(text))} == {}
