"""Public names: imported when first used, shown by `dir()`, and suggested for a misspelt one."""

import ast
import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import diffusion
from diffusion import public
from tests.test_packaging import MODULES, PACKAGES
from tools.docs import public_names

ROOT = pathlib.Path(__file__).parents[1]
OF_RUNS = ("diffusion.experiments", "diffusion.launch", "diffusion.configs", "diffusion.recipe", "diffusion.__main__")
LIBRARY = [name for name in MODULES if not name.startswith(OF_RUNS)]
OPENED = [name for name in LIBRARY if name in PACKAGES]


def run(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


def test_the_packages_of_text_and_of_pictures_from_text_import_no_jax():
    assert "jax" not in run("import sys, diffusion.text, diffusion.text_to_image; print(*sys.modules)")


@pytest.mark.extended
def test_every_name_is_imported_when_it_is_used_and_no_device_is_touched():
    names = run(
        "import diffusion; from jax._src import xla_bridge\n"
        "print(*(getattr(diffusion, name).__name__ for name in diffusion.__all__)); assert not xla_bridge._backends"
    )
    assert [name.rpartition(".")[2] for name in names] == diffusion.__all__


def test_what_type_checkers_read_is_what_is_imported():
    for package in map(importlib.import_module, PACKAGES):
        for branch in ast.parse(inspect.getsource(package)).body:
            if isinstance(branch, ast.If):
                for node in branch.body:
                    for alias in node.names:
                        module = importlib.import_module(node.module)
                        assert getattr(package, alias.name) is getattr(module, alias.name), (package, alias.name)


@pytest.mark.extended
def test_a_module_lists_its_public_names_where_it_declares_them_and_nowhere_else():
    """The list is whole: functions, classes and types without an underscore, and constants with a docstring."""
    for name in LIBRARY:
        path = (ROOT / name.replace(".", "/")).with_suffix(".py")
        if not path.exists():
            assert importlib.import_module(name).__all__, name
            continue
        module = public_names._read(path, path.relative_to(ROOT))
        declares = re.search(r"^(public\.)?declare\(", path.read_text(), re.MULTILINE)
        assert (module.listed is not None) == bool(declares), f"{name}: __all__ stands where a module calls declare"
        assert module.public() == module._replace(listed=None).public(), f"{name}: write them into __all__"


def test_a_package_of_modules_lists_them_all():
    for name in OPENED:
        listed = set(importlib.import_module(name).__all__)
        inside = {each.rpartition(".")[2] for each in LIBRARY if each.rpartition(".")[0] == name}
        assert not listed <= inside or listed == inside, name


@pytest.mark.parametrize("name", sorted({*OPENED, *(getattr(diffusion, name).__name__ for name in diffusion.__all__)}))
def test_dir_shows_what_is_public_and_a_misspelt_name_gives_the_nearest(name):
    module = importlib.import_module(name)
    assert {each for each in dir(module) if not each.startswith("__")} == set(module.__all__)
    longest = max(module.__all__, key=len)
    with pytest.raises(AttributeError, match=rf"^module '{name}' has no attribute '_{longest}'; did you mean '"):
        getattr(module, f"_{longest}")


def test_a_misspelt_name_gives_the_nearest_one():
    with pytest.raises(
        AttributeError, match=r"^module 'diffusion' has no attribute 'modles'; did you mean 'models'\?$"
    ):
        _ = diffusion.modles
    with pytest.raises(AttributeError, match=r"'xyz'; dir\(diffusion\) lists its names$"):
        _ = diffusion.xyz


@pytest.mark.parametrize(
    "name, nearest", [("eulr", "euler"), ("hen", "heun"), ("ddmi", "ddim"), ("ddmp", "ddpm"), ("zzz", None), (3, None)]
)
def test_the_nearest_name(name, nearest):
    assert public.nearest(name, ["euler", "heun", "ddpm", "ddim"]) == nearest


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("aps", "Maps"),
        ("vp", "variance_preserving"),
        ("CFG", "classifier_free"),
        ("apg", "adaptive_projected"),
        ("dps", "posterior_sampling"),
        ("ays", "align_your_steps"),
        ("rampe", "Ramp"),
    ],
)
def test_an_abbreviation_gives_the_name_of_its_initials_and_a_slip_the_name_without_it(name, nearest):
    names = ["Maps", "Ramp", "adaptive_projected", "align_your_steps", "classifier_free", "classifier_free_plus_plus"]
    assert public.nearest(name, [*names, "posterior_sampling", "sub_vp", "variance_preserving"]) == nearest


@pytest.mark.parametrize(
    "module, name, nearest",
    [
        ("samplers", "lcm", "consistency"),
        ("samplers", "LCM", "consistency"),
        ("samplers", "ddm", "ddpm"),
        ("discrete", "masked", "absorbing"),
        ("discrete", "mdlm", "masked_diffusion"),
        ("discrete", "sedd", "score_entropy"),
        ("weightings", "eam", "edm"),
        ("objectives", "lcd", "latent_consistency_distillation"),
    ],
)
def test_a_name_of_papers_gives_the_public_one(module, name, nearest):
    with pytest.raises(AttributeError, match=f"did you mean {nearest!r}"):
        getattr(importlib.import_module(f"diffusion.{module}"), name)


@pytest.mark.parametrize("module", ["samplers", "discrete"])
def test_what_a_hint_of_papers_names_is_public_and_the_name_itself_is_not(module):
    names = importlib.import_module(f"diffusion.{module}").__all__
    source = (ROOT / "diffusion" / module / "__init__.py").read_text()
    known = ast.literal_eval(re.search(r"known_as=({.*?})", source, re.DOTALL)[1])
    assert known and {*known.values()} <= {*names} and not {*known} & {*names}


def test_a_renamed_name_warns_and_is_the_new_one():
    """Every `renamed` of the library: the old name is not listed, and gives the object of the new one."""
    for path in sorted((ROOT / "diffusion").rglob("*.py")):
        if "renamed={" not in (source := path.read_text()):
            continue
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        module = importlib.import_module(name)
        calls = [
            node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.keyword) and node.arg == "renamed"
        ]
        for old, new in (pair for call in calls for pair in ast.literal_eval(call.value).items()):
            with pytest.warns(DeprecationWarning, match=rf"^{name}\.{old} is now called {new}$"):
                assert getattr(module, old) is getattr(module, new)
            assert new in module.__all__ and old not in {*module.__all__, *dir(module)}, (name, old)
