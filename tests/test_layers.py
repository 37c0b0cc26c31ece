"""Imports point downward, without circles, and no two unrelated files have the same name.

Imports are read from the source, also those inside functions. The seven floors below have one to six layers. A module
belongs to the layer of its longest name; it imports its own package, and what lies in lower layers. A new command needs
no entry: it is in "diffusion.experiments".
"""

import ast
import collections
import functools
import pathlib
from collections.abc import Iterable

import pytest

from diffusion.package import commands
from tests.library_files import example_files, library_files
from tools.docs import public_names

ROOT = pathlib.Path(__file__).parents[1]
FLOORS = {  # from the bottom to the top, as docs/architecture.md draws them; each has layers, the lowest first
    "files": (
        ("diffusion.package",),
        ("diffusion.arrays", "diffusion.io"),
        ("diffusion.text",),
    ),
    "mathematics": (
        ("diffusion.schedules", "diffusion.data.sound"),
        ("diffusion.parameterizations",),
        ("diffusion.timesteps", "diffusion.flows", "diffusion.guidance"),
        ("diffusion.samplers", "diffusion.sampling.caching"),
        ("diffusion.objectives", "diffusion.sampling.editing", "diffusion.sampling.steering",
         "diffusion.sampling.videos"),
        ("diffusion.manifolds", "diffusion.discrete"),
    ),
    "backbones": (
        ("diffusion.models",),
    ),
    "training": (
        ("diffusion.data",),
        ("diffusion.metrics", "diffusion.training"),
    ),
    "published": (
        ("diffusion.published", "diffusion.sampling"),
        ("diffusion.adapters",),
        ("diffusion.text_to_image",),
    ),
    "recipe": (
        ("diffusion.recipe", "diffusion"),  # and the names of all these
    ),
    "commands": (
        ("diffusion.experiments.run_folder", "diffusion.experiments.flag_errors",
         "diffusion.experiments.command_words"),
        ("diffusion.experiments.failed_commands", "diffusion.experiments.stored_paths"),
        ("diffusion.experiments.config_flag",),
        ("diffusion.experiments.command_line", "diffusion.experiments.sampling"),
        ("diffusion.experiments.evaluation",),
        ("diffusion.experiments.run", "diffusion.experiments.sampling.run_samples",
         "diffusion.experiments.sampling.trained_run", "diffusion.experiments.playground",
         "diffusion.experiments.sweeps"),
        ("diffusion.experiments.planning", "diffusion.experiments.text", "diffusion.experiments.sampling.watermarked",
         "diffusion.experiments.sampling.from_class_model"),
        ("diffusion.experiments", "diffusion.launch", "diffusion.__main__"),
    ),
}  # fmt: skip
LAYERS = [names for layers in FLOORS.values() for names in layers]
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names}
MATHEMATICS = FLOORS["files"] + FLOORS["mathematics"]
SAME_CONCEPT = {  # files of one name, and why
    "commands": "the commands of an installation; and those of a run of a sweep",
    "distributions": "what is drawn and how likely it is: a point of a manifold; a field of a sweep's runs",
    "frames": "a noise level for each frame: its grids, and the sampler that takes them",
    "image_folder": "datasets of a folder of pictures; and the command that shows one",
    "leaves": "a schedule for each leaf of a pytree; and the step of a sampler under it",
    "manifold": "a curved space as a tuple of functions; and the overlap of two sets of features",
    "membership": "the scores of the attacks; and the command that makes them of a run",
    "model": "a text-to-image model in memory; and the command that writes a run's as a folder",
    "recipes": "the arguments of a published method; and the config files of whole runs",
    "sample": "the loop over a plan; and the command that samples",
    "stochastic_interpolant": "the objective, and the sampler of what it trains",
    "watermark": "what a watermark is; and the command that makes and finds them",
}


def modules(paths: Iterable[pathlib.Path]) -> dict[str, pathlib.Path]:
    """The modules in these files by name."""
    return {
        ".".join(part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__"): path
        for path in paths
    }


MODULES = modules(library_files())
SHORT = {  # {the short name of a module, as "diffusion.ode": its name}
    f"diffusion.{name}": ".".join(place)
    for name, place in public_names._read(MODULES["diffusion"], MODULES["diffusion"].relative_to(ROOT)).taken.items()
}


@functools.cache
def imports(path: pathlib.Path) -> set[str]:
    """What a file imports, by full names: modules, and names in modules."""
    names, tree = set(), ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_of(name: str) -> str | None:
    """The module of ours that an imported name is, or that holds it."""
    name = SHORT.get(name, name)
    return name if name in MODULES else name.rpartition(".")[0] if name.rpartition(".")[0] in MODULES else None


@functools.cache
def graph() -> dict[str, set[str]]:
    """The modules of the library that each of them imports."""
    return {
        name: {imported for each in imports(path) if (imported := module_of(each)) is not None} - {name}
        for name, path in MODULES.items()
    }


def owner(module: str) -> str:
    """The longest name in LAYERS that holds a module."""
    while module and module not in LAYER:
        module = module.rpartition(".")[0]
    return module


def listed(module: str) -> bool:
    """Whether a module of the library has a name in LAYERS of its own or of its package, not "diffusion" alone."""
    return module == "diffusion" or owner(module) != "diffusion"


def arrows_up(graph: dict[str, set[str]]) -> list[str]:
    """Imports of something that lies no lower, but for those inside one package."""
    return [
        f"{module} imports {imported}"
        for module, others in graph.items()
        for imported in others
        if owner(module) != owner(imported) and LAYER[owner(module)] <= LAYER[owner(imported)]
    ]


def circles(graph: dict[str, set[str]]) -> list[str]:
    """The modules that remain when those that import none of the rest are taken away again and again."""
    left = {module: set(others) for module, others in graph.items()}
    while free := {module for module, others in left.items() if not others & left.keys()}:
        left = {module: others for module, others in left.items() if module not in free}
    return sorted(left)


def test_every_package_of_the_library_has_a_layer():
    assert [module for module in MODULES if module.startswith("diffusion") and not listed(module)] == []
    assert [name for names in LAYERS for name in names if name not in MODULES] == []


def test_the_page_of_the_architecture_draws_every_floor():
    drawing = (ROOT / "docs" / "architecture.md").read_text().partition("```")[2].partition("```")[0]
    floors = [line.split("floor:")[1].strip() for line in drawing.splitlines() if "floor:" in line]
    assert floors == list(reversed(FLOORS))


@pytest.mark.extended
def test_imports_point_downward():
    assert arrows_up(graph()) == []


@pytest.mark.extended
def test_there_is_no_circle_of_imports():
    assert circles(graph()) == []


def test_an_arrow_up_and_a_circle_are_found():
    """The two checks above on three modules that break both rules."""
    graph = {
        "diffusion.schedules.flow": {"diffusion.samplers.ddpm"},
        "diffusion.samplers.ddpm": {"diffusion.schedules.flow"},
        "diffusion.samplers.edm": {"diffusion.samplers.ddpm"},
    }
    assert arrows_up(graph) == ["diffusion.schedules.flow imports diffusion.samplers.ddpm"]
    assert circles(graph) == sorted(graph)
    assert circles({"diffusion.samplers.edm": {"diffusion.samplers.ddpm"}, "diffusion.samplers.ddpm": set()}) == []


def test_the_library_imports_nothing_that_is_built_on_it():
    foreign = {"examples", "experiments", "configs", "benchmarks", "launch", "tools", "tests"}
    roots = {name: {each.partition(".")[0] for each in imports(path)} for name, path in MODULES.items()}
    found = {name: sorted(others & foreign) for name, others in roots.items() if others & foreign}
    assert found == {}


EXAMPLES = modules(example_files())
# Examples of the model of another, which its judge or its measures read.
BUILT_ON = {
    "control": {"text"},
    "counting": {"text"},
    "glyph": {"text"},
    "steering": {"restoration"},
    "symbols": {"text"},
    "techniques": {"text", "control", "glyph"},
}


@functools.cache
def public_in(module: str) -> set[str]:
    """The public names of a module of the library, as its file states them."""
    return public_names._read(MODULES[module], MODULES[module].relative_to(ROOT)).public()


def not_public(source: str) -> list[str]:
    """What a file takes of the library beside its public names.

    Public are the names that a module lists or has without an underscore, and the commands. Of a module of
    `diffusion.experiments` or `diffusion.recipe` that its package lists, whatever has no underscore is public.
    """
    tree = ast.parse(source)
    wrong, known = [], {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "diffusion":
            valid = public_in(node.module)
            if node.module == "diffusion.experiments":
                valid = {*valid, *commands.purposes()}
            wrong += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in valid]
            whole = lambda name, package=node.module: SHORT.get(f"{package}.{name}", f"{package}.{name}")
            known |= {alias.asname or alias.name: whole(alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            wrong += [alias.name for alias in node.names if alias.name.startswith("diffusion.")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
            module = known[node.value.id]
            names = (
                public_in(module) if module in MODULES and module.split(".")[1] not in public_names.UNLISTED else None
            )
            if node.attr != "__file__" and (node.attr.startswith("_") or (names and node.attr not in names)):
                wrong.append(f"{module}.{node.attr}")
    return wrong


def test_examples_use_public_names_of_the_library_alone():
    wrong = {name: found for name, path in EXAMPLES.items() if (found := not_public(path.read_text()))}
    assert len(EXAMPLES) > 20 and wrong == {}


def test_an_example_stands_alone_or_says_on_which_it_is_built():
    for name, path in EXAMPLES.items():
        others = {each.split(".")[1] for each in imports(path) if each.startswith("examples.")}
        folder = path.relative_to(ROOT).parts[1]
        assert others <= {folder} | BUILT_ON.get(folder, set()), name


def test_names_that_are_not_public_are_found():
    source = """
from diffusion.metrics import bootstrap, features
from diffusion.experiments import train, run
from diffusion.recipe import ConfigError, fits
from diffusion.experiments.sampling.run_samples import keys
import diffusion.samplers.runge_kutta
bootstrap.share([]), bootstrap._wilson, train.unless_finished, ConfigError.args, features.Extractor, features.np
"""
    assert not_public(source) == [
        "diffusion.experiments.run",
        "diffusion.recipe.fits",
        "diffusion.experiments.sampling.run_samples.keys",
        "diffusion.samplers.runge_kutta",
        "diffusion.metrics.bootstrap._wilson",
        "diffusion.metrics.features.np",
    ]


def test_the_mathematics_imports_no_networks_data_or_files_of_runs():
    mathematics = {name for names in MATHEMATICS for name in names} - {"diffusion.io", "diffusion.text"}
    reached = {imported for module in graph() if owner(module) in mathematics for imported in graph()[module]}
    assert {owner(module) for module in reached} <= mathematics


def test_files_of_one_name_are_of_one_concept():
    files = collections.defaultdict(list)
    for module, path in (MODULES | modules((ROOT / "tools").rglob("*.py"))).items():
        if not path.name.startswith("__") and owner(module) != "diffusion.published":  # whose rooms have the same files
            files[path.stem].append(module)
    assert {name: found for name, found in files.items() if len(found) > 1 and name not in SAME_CONCEPT} == {}
    assert [name for name in SAME_CONCEPT if len(files[name]) < 2] == []
