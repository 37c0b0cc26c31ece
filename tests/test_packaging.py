"""What `pip install` brings: requirements by extra, public names, types, and a wheel that works on its own."""

import ast
import functools
import glob
import importlib
import inspect
import os
import pathlib
import pkgutil
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata

import pytest
import setuptools
from setuptools.config.pyprojecttoml import apply_configuration

import diffusion
from diffusion.package import commands
from tests.test_layers import imports

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = ("diffusion.experiments", "diffusion.configs")  # with requirements of their own, and no names for others
FOUND = [
    found for found in pkgutil.walk_packages(diffusion.__path__, "diffusion.") if not found.name.startswith(COMMANDS)
]
MODULES = [found.name for found in FOUND]
PACKAGES = ["diffusion", *(found.name for found in FOUND if found.ispkg)]
# Where the library reads datasets and writes runs: these need the extras "eval" or "train".
OF_RUNS = (
    "diffusion.recipe",
    "diffusion.data.",
    "diffusion.training.runtime.agreement",
    "diffusion.training.runtime.progress",
    "diffusion.training.checkpointing.checkpoint_writer",
    "diffusion.training.checkpointing.checkpoints",
    "diffusion.training.checkpointing.description",
    "diffusion.models.interchange.flax_files",
    "diffusion.training.checkpointing.validation",
    "diffusion.metrics.image_sets",
    "diffusion.metrics.references",
    "diffusion.metrics.protocols",
)
EXTRAS = {  # modules that need an extra of their own, and say so where it is missing
    "diffusion.io.content_credentials": "provenance",
    "diffusion.io.local_certificates": "provenance",
    "diffusion.io.clips": "video",
    "diffusion.io.film_child": "video",
    "diffusion.io.parquet_batches": "eval",
    "diffusion.models.interchange.gguf_files": "gguf",
    "diffusion.io.stores": "stores",
}
FILM_PROGRAM = "diffusion.io.film_child"  # a process that `films` starts where PyAV is installed; never imported
DISTRIBUTIONS = {
    "c2pa": "c2pa-python",
    "cryptography": "c2pa-python",  # which requires it
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "orbax": "orbax-checkpoint",
    "absl": "absl-py",
    "tensorflow_datasets": "tensorflow-datasets",
    "ml_collections": "ml-collections",
    "tensorstore": "orbax-checkpoint",
    "griffe": "griffelib",
}


def required(*extras):
    """The names of the distributions that an installation with these extras needs."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        for line in PROJECT["optional-dependencies"][extra]:
            inner = re.fullmatch(r"jax-diffusion\[(.*)\]", line)
            lines += required(*inner[1].split(",")) if inner else [line]
    return {re.match(r"[\w-]+", line)[0] for line in lines}


def imported(path):
    """The distributions that a file imports from, those of the standard library and our own aside."""
    tops = {name.partition(".")[0] for name in imports(path)} - {"diffusion", "configs", "tests"}
    return {DISTRIBUTIONS.get(top, top) for top in tops - sys.stdlib_module_names}


def test_every_module_imports_what_its_installation_has():
    has = functools.cache(required)
    for name in ["diffusion", *MODULES]:
        path = ROOT / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        more = ["train"] * name.startswith(OF_RUNS) + [extra for module, extra in EXTRAS.items() if module == name]
        assert imported(path) <= has(*more), name


def test_experiments_import_what_the_extras_have():
    for path in [*(ROOT / "diffusion" / "experiments").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        more = ["playground"] * ("playground" in path.parts) + ["docs"] * (path.name == "site_pages.py")
        assert imported(path) - {"wandb", "libtpu", "examples"} <= required("train", *more), path


ACCELERATORS = ("cuda12", "cuda13", "tpu")
LOCKS = [("requirements.txt", "dev"), ("requirements-playground.txt", "playground")]
LOCKS += [(f"requirements-{name}.txt", extra) for name in ACCELERATORS for extra in ("dev", name)]


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_an_accelerators_lock_adds_to_the_others_and_names_no_host(accelerator):
    locked = lambda name: set(re.findall(r"^[\w.-]+==[^\\]*", (ROOT / name).read_text(), re.MULTILINE))
    mine = locked(f"requirements-{accelerator}.txt")
    assert locked("requirements.txt") < mine
    jax = {line.split("==")[1] for line in mine if line.startswith("jax==")}
    own = [line for line in mine if line.startswith(("libtpu==", f"jax-{accelerator}-plugin=="))]
    assert len(own) == len(jax) == 2  # for each supported Python
    assert accelerator == "tpu" or {line.split("==")[1] for line in own} == jax
    text = (ROOT / f"requirements-{accelerator}.txt").read_text()
    assert "://" not in text and text.count("--hash=sha256:") >= len(mine)


@pytest.mark.parametrize("lock, extra", LOCKS)
def test_the_locks_hold_every_requirement(lock, extra):
    locked = {
        re.match(r"[\w.-]+", line)[0].replace("_", "-")
        for line in (ROOT / lock).read_text().splitlines()
        if re.match(r"\w", line)
    }
    assert {name.replace("_", "-").lower() for name in required(extra)} <= {name.lower() for name in locked}


def test_the_import_is_light():
    """What would double its time is imported where it is used; a timing depends on the machine, this does not."""
    slow = {"scipy", "optax", "flax", "PIL", "safetensors", "tokenizers", "sentencepiece", *DISTRIBUTIONS}
    code = "import sys, diffusion; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not slow & set(done.stdout.split())


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_are_listed_once_exist_and_say_what_they_are(name):
    package = importlib.import_module(name)
    listed = getattr(package, "__all__", [])
    assert len(listed) == len(set(listed))
    for public in listed:
        value = getattr(package, public)
        documented = value.__doc__ or not (inspect.isfunction(value) or inspect.isclass(value))
        assert documented, f"{name}.{public} has no docstring"
    # What is imported by name from inside the package, to be used from here, is listed.
    tree = ast.parse(pathlib.Path(package.__file__).read_text())
    brought = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{name}.")
        for alias in node.names
    }
    brought -= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert brought <= set(listed), f"{name}: {sorted(brought - set(listed))} are not in __all__"


def test_the_version_is_that_of_the_package_and_has_its_entry_in_the_changelog():
    assert "version" in PROJECT["dynamic"] and re.fullmatch(r"\d+\.\d+\.\d+", diffusion.__version__)
    assert f"## {diffusion.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {diffusion.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.slow
def test_pyright_finds_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout


SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")  # of the wheel, beside the package


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Our wheel, built from a copy, for a build leaves files behind, and takes what an earlier one left."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "diffusion", source / "diffusion", ignore=shutil.ignore_patterns("__pycache__"))
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    env = os.environ | {"DIFFUSION_HOME": HOME}
    subprocess.run(build, check=True, capture_output=True, text=True, env=env)
    return next(folder.glob("*.whl"))


def environment_of(folder, wheel, *extras):
    """The programs of a new environment that holds our wheel, and beside it nothing but what these extras require.

    The distributions come from the environment of the tests, as links, for a test must not need a network: those that
    are required, and what they require in turn, and no others.
    """
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    for name in closure(required(*extras)):
        link(name, site)
    install = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The Python of an environment with the base requirements alone."""
    return environment_of(tmp_path_factory.mktemp("base") / "env", wheel) / "python"


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The programs of an environment with what commands require."""
    return environment_of(tmp_path_factory.mktemp("train") / "env", wheel, "train")


def closure(names):
    """These distributions and all that they require here."""
    found = set()
    open_ = list(names)
    while open_:
        name = re.sub(r"[-_.]+", "-", open_.pop()).lower()
        if name in found:
            continue
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another platform
            continue
        found.add(name)
        open_ += [re.match(r"[\w.-]+", line)[0] for line in requires if "extra ==" not in line]
    return found


def link(name, site):
    """Links a distribution's folders and files into the packages of another environment."""
    distribution = metadata.distribution(name)
    for top in {pathlib.PurePath(file).parts[0] for file in distribution.files} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(distribution.locate_file(top))


def files_of_the_package():
    """Each file below diffusion/, as the wheel names it; `glob` follows its links to folders at the top."""
    paths = map(pathlib.Path, glob.glob(f"{ROOT}/diffusion/**", recursive=True, include_hidden=True))
    return {str(path.relative_to(ROOT)) for path in paths if path.is_file() and "__pycache__" not in path.parts}


def test_the_wheel_is_to_hold_every_file_of_the_package_and_no_other(monkeypatch):
    """What pyproject.toml says to setuptools; the slow test below looks into the wheel."""
    monkeypatch.chdir(ROOT)
    distribution = apply_configuration(
        setuptools.Distribution({"script_name": "setup.py", "long_description": "of setup.py"}), "pyproject.toml"
    )
    command = distribution.get_command_obj("build_py")
    command.ensure_finalized()
    outputs = {os.path.relpath(path, command.build_lib) for path in command.get_outputs(include_bytecode=False)}
    assert outputs == files_of_the_package()
    assert not [path for path in outputs if not path.startswith("diffusion/")]  # no example, no test
    assert {"diffusion/configs/digits.py", "diffusion/configs/students/lcm.py", "diffusion/py.typed"} <= outputs


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    about = f"jax_diffusion-{diffusion.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"diffusion", about}
    assert {name for name in names if not name.startswith(about)} == files_of_the_package()


HOME = "https://example.org/diffusion"
RELATIVE = re.compile(r"!?\[[^\]]*\]\((?!https?://)[^)]*\)")


def outside_of_code(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("home", [HOME, ""])
def test_each_link_of_the_description_is_absolute(home):
    """With an address of the repository links and pictures point there; without, they are words."""
    readme = (ROOT / "README.md").read_text()
    text = runpy.run_path(str(ROOT / "setup.py"))["absolute"](readme, home)
    assert RELATIVE.search(outside_of_code(readme)) and not RELATIVE.search(outside_of_code(text))
    assert re.findall("```.*?```", text, re.DOTALL) == re.findall("```.*?```", readme, re.DOTALL)
    files = re.findall(rf"{HOME}/(?:blob|raw)/HEAD/([^)#]+)", text)
    assert bool(files) == bool(home) and all((ROOT / file).exists() for file in files)
    if home:
        assert f"![Samples, one row for each class]({HOME}/raw/HEAD/docs/gallery/samples.png)" in text
        assert f"[docs/install.md]({HOME}/blob/HEAD/docs/install.md)" in text
    else:
        assert "see docs/install.md" in text and "![" not in text


@pytest.mark.slow
def test_the_built_metadata_has_no_relative_link_and_names_the_home_page(wheel):
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        text = file.read(name).decode()
    assert "Description-Content-Type: text/markdown" in text and not RELATIVE.search(outside_of_code(text))
    assert f"Project-URL: Source, {HOME}" in text and f"({HOME}/blob/HEAD/docs/install.md)" in text


EMPTY = "an empty folder"
TINY_SWEEP = """
from diffusion.experiments.sweeps.combinators import each
from diffusion.experiments.sweeps.commands import evaluate, sample, train
from diffusion.experiments.sweeps.definition import Sweep


def get_sweep(arg=""):
    return Sweep(each("seed", range(2)), [train("digits:tiny"), sample(), evaluate()])
"""


def of_readme():
    """The lines of the README's shell snippets that start our program, as words, and its `diffusion init`."""
    text = (ROOT / "README.md").read_text()
    snippets = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    inline = re.findall(r"`(diffusion init \w+)`", text)
    words = [shlex.split(line, comments=True) for line in [*snippets.splitlines(), *inline]]
    return [line[1:] for line in words if line and line[0] == "diffusion"]


def test_the_readme_names_the_distribution_its_extra_and_targets_of_make():
    text = (ROOT / "README.md").read_text()
    named = re.findall(r'^pip install "([\w-]+)\[([\w,]+)\]"', text, re.MULTILINE)
    assert named and all(name == PROJECT["name"] for name, _ in named)
    assert {extra for _, extras in named for extra in extras.split(",")} <= PROJECT["optional-dependencies"].keys()
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    used = re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE)
    assert len(used) >= 4 and set(used) <= set(targets)


def test_the_readme_samples_shipped_models_before_it_trains_and_evaluates():
    lines = of_readme()
    assert [words[0] for words in lines] == ["sample"] * 3 + ["train", "sample", "evaluate", "init"]
    assert lines[0] == ["sample", "--model=digits"] and lines[1][:2] == ["sample", "--model=drawings"]
    assert lines[2][:2] == ["sample", "--model=moving"]
    assert lines[-1] == ["init", "my_paper"]


@pytest.mark.slow
def test_the_installed_commands_run_from_an_empty_folder(programs, tmp_path):
    """Every --help, the README's commands one by one, and a sweep, beside a user's folders of our names."""
    kept = ("HOME", "LANG", "JAX_PLATFORMS", "TF_CPP_MIN_LOG_LEVEL")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    env |= {"PATH": f"{programs}:/usr/bin:/bin", "DIFFUSION_CACHE": str(tmp_path / "cache")}
    folder = tmp_path / EMPTY
    folder.mkdir()

    def run(*words):
        done = subprocess.run(["diffusion", *words], cwd=folder, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    for name in commands.purposes():
        assert f"diffusion {name} " in run(*name.split(), "--help")
    assert not list(folder.iterdir())
    for name in ("diffusion", "experiments", "configs"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('a user's')")
        (folder / name / "digits.py").write_text("raise SystemExit('a user's')")
    lines = of_readme()
    said = [run(*(re.sub("(--config=digits)$", r"\1:tiny", word) for word in words)) for words in lines]
    assert "100 images" in said[0] and (folder / "pictures/samples.png").is_file()
    assert "Next: diffusion sample --workdir=runs/digits" in said[3] and (folder / "my_paper/config.py").is_file()
    run("plan", "--config=digits", "--devices=1")
    run("train", "--config=students/lcm:runs/digits,tiny", "--workdir=runs/lcm")
    two = "launch local --processes=2 -- diffusion train --config=digits:tiny --workdir=runs/two"
    run(*two.split())
    (folder / "seeds.py").write_text(TINY_SWEEP)
    run("sweep", "--sweep=seeds.py", "--workdir=runs/seeds", "--jobs=2")
    run("sweep", "--sweep=digits_weightings:tiny", "--dry-run")
    assert "fd_pixels" in run("sweep", "--workdir=runs/seeds", "--table")
    run("sweep_report", "--workdir=runs/seeds")
    assert (folder / "runs/seeds/report.html").stat().st_size > 10_000


def test_another_project_of_the_same_import_name_is_told_of(tmp_path):
    (tmp_path / "diffusion").symlink_to(ROOT / "diffusion")

    def said():
        env = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-P", "-c", "import diffusion; print(diffusion.__file__)"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert done.stdout == f"{tmp_path}/diffusion/__init__.py\n"
        return done.stderr

    (tmp_path / f"jax_diffusion-{diffusion.__version__}.dist-info").mkdir()
    assert said() == ""
    (tmp_path / "diffusion-6.12.2.dist-info").mkdir()
    assert "another project, the distribution diffusion 6.12.2" in said()


@pytest.mark.slow
def test_the_wheel_alone_runs_the_readmes_example_and_imports_all_but_what_is_of_runs(installed, tmp_path):
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    example = next(text for text in examples if "2000" in text)
    few = example.replace("2000", "20")  # it learns its distribution in a test of its own
    assert few != example
    names = [name for name in MODULES if not name.startswith(OF_RUNS) and name != FILM_PROGRAM]
    code = f"""{few}
import importlib, sys
import diffusion
assert {str(ROOT)!r} not in diffusion.__file__, diffusion.__file__
for name in {names!r}:
    importlib.import_module(name)
for name in ("grain", "tensorflow_datasets", "ml_collections", "matplotlib", "sklearn"):
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    raise AssertionError(name + " is here")
print(x_0.shape)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([installed, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "(1000, 2)\n", done.stderr[-3000:]
