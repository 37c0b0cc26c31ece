"""Code of a user's own by module, entry point and project file; what is wrong with it is said in a sentence."""

import pathlib
import sys
import typing

import jax.numpy as jnp
import pytest

from diffusion.objectives import rewards
from diffusion.recipe import ConfigError, extensions, names
from tests import commands

REGISTER = """from diffusion import schedules
from diffusion.recipe import names
from {package}.mathematics import NAME

names.add(names.SCHEDULES, schedules.rectified_flow, NAME)


def setup():
    names.add(names.SCHEDULES, schedules.rectified_flow, NAME + "_by_a_function")
"""


@pytest.fixture(autouse=True)
def own_tables(tmp_path, monkeypatch):
    """In an empty folder, with tables and modules that are as before after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for table in (names.SCHEDULES, extensions.loaded):
        for name in table:
            monkeypatch.setitem(table, name, table[name])
    monkeypatch.setattr(extensions, "extended", [])
    before = {*names.SCHEDULES}
    yield
    for name in {*names.SCHEDULES} - before:
        del names.SCHEDULES[name]


def package(name: str, register: str = REGISTER) -> str:
    """Makes a package in the current folder that registers a schedule of its name."""
    folder = pathlib.Path(name)
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "mathematics.py").write_text(f'NAME = "{name}_schedule"\n')
    (folder / "register.py").write_text(register.replace("{package}", name))
    return name


def plugin(name: str, value: str) -> None:
    """What an installation of a package with an entry point leaves: its .dist-info."""
    folder = pathlib.Path(f"{name}-1.0.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[diffusion.plugins]\n{name} = {value}\n")
    sys.path.append(str(pathlib.Path.cwd()))


def test_a_module_of_a_package_in_the_current_folder():
    package("paper_a")
    extensions.extend("paper_a.register")
    assert "paper_a_schedule" in names.SCHEDULES
    loaded = extensions.loaded["paper_a.register"]
    assert loaded.path == pathlib.Path("paper_a/register.py").absolute()
    assert loaded.home == pathlib.Path("paper_a").absolute()
    assert "--extend=paper_a.register" in extensions.printed("sample")
    assert sys.path[-1] == str(pathlib.Path.cwd())  # behind what is installed


def test_code_that_is_named_again_runs_once_and_is_printed_once():
    pathlib.Path("counted.py").write_text("import sys\nsys.path.append('counted')\n")
    for _ in range(2):
        extensions.extend("counted.py")
    assert sys.path.count("counted") == 1
    assert extensions.printed("sample") == "diffusion sample --extend=counted.py"


def test_the_current_folder_is_searched_once(monkeypatch):
    package("paper_f")
    package("paper_g")
    for name in ("paper_f.register", "paper_g.register"):
        extensions.extend(name)
    assert sys.path.count(str(pathlib.Path.cwd())) == 1


def test_the_failing_line_is_not_that_of_a_folder_with_a_longer_name(tmp_path):
    """The error passes through paper/a.py, which calls paper_b/helper.py."""
    for path, code in (("paper/a.py", "def run(other):\n    other()\n"), ("paper_b/helper.py", "\n\n\n\nx = 1 / 0\n")):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text(code)
    names = {}
    exec(compile((tmp_path / "paper/a.py").read_text(), tmp_path / "paper/a.py", "exec"), names)
    helper = compile((tmp_path / "paper_b/helper.py").read_text(), tmp_path / "paper_b/helper.py", "exec")
    with pytest.raises(ZeroDivisionError) as raised:
        names["run"](lambda: exec(helper, {}))
    assert extensions.failing_line(tmp_path / "paper", raised.value) == (str(tmp_path / "paper/a.py"), 2)


def test_a_module_that_is_one_file_is_its_own_home():
    pathlib.Path("paper_h.py").write_text("")
    extensions.extend("paper_h")
    assert (
        extensions.loaded["paper_h"].home == extensions.loaded["paper_h"].path == pathlib.Path("paper_h.py").absolute()
    )
    with pytest.raises(ConfigError, match=r"there is no module 'paper_h\.register', neither"):
        extensions.extend("paper_h.register")


def test_a_package_in_a_package_is_a_module():
    package("paper_i")
    folder = pathlib.Path("paper_i/inner")
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    extensions.extend("paper_i.inner")
    assert extensions.loaded["paper_i.inner"].path == folder.absolute() / "__init__.py"


@pytest.mark.parametrize(
    "code, said",
    [
        ("from diffusion.recipe import ConfigError\nraise ConfigError('mine')\n", ", line 2: mine"),
        ("\n\nx = (1,\n", ", line 3: SyntaxError: "),
        ("x = 1 +\n", ", line 1: SyntaxError: "),
    ],
)
def test_own_code_that_cannot_run_is_named_with_its_line(code, said):
    pathlib.Path("broken.py").write_text(code)
    with pytest.raises(ConfigError) as error:
        extensions.extend("broken.py")
    assert str(error.value).startswith(f"--extend=broken.py{said}")


def test_an_error_that_did_not_pass_through_own_code_says_its_kind():
    error = extensions.failed("--extend=own.py", pathlib.Path("own.py"), ConfigError("theirs"))
    assert str(error) == "--extend=own.py: ConfigError: theirs"


def test_how_a_user_goes_on_depends_on_who_built_the_run(tmp_path):
    """A config that is damaged is the command's to refuse."""
    for content in (None, "{", "{}"):
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        assert extensions.way_on("sample", tmp_path) == f"diffusion sample --workdir={tmp_path}"


@pytest.mark.parametrize("value, more", [("register", []), ("register:setup", ["paper_b_schedule_by_a_function"])])
def test_an_entry_point_of_a_module_or_of_a_function(value, more, monkeypatch):
    for name in ("paper_b", "paper_b.register", "paper_b.mathematics"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    plugin(package("paper_b"), f"paper_b.{value}")
    monkeypatch.delitem(extensions.loaded, "plugin:paper_b", raising=False)
    extensions.extend("plugin:paper_b")
    assert {"paper_b_schedule", *more} <= {*names.SCHEDULES}
    assert ("paper_b_schedule_by_a_function" in names.SCHEDULES) == bool(more)


def test_an_installed_plugin_that_nobody_lists_is_not_run():
    plugin(package("paper_c"), "paper_c.register")
    extensions.extend_by_project()
    assert "paper_c_schedule" not in names.SCHEDULES and "paper_c.register" not in sys.modules


def test_the_project_file_of_the_current_folder_lists_code_that_printed_commands_need_not_name():
    package("paper_d")
    pathlib.Path("pyproject.toml").write_text('[tool.diffusion]\nextend = ["paper_d.register"]\n')
    assert extensions.extend_by_project() == ["paper_d.register"]
    assert "paper_d_schedule" in names.SCHEDULES
    assert extensions.printed("sample") == "diffusion sample"


@pytest.mark.parametrize("text", ["", "[project]\nname = 'x'\n", "[tool.diffusion]\nextend = []\n"])
def test_a_project_file_that_lists_nothing_runs_nothing(text):
    before = {*extensions.loaded}
    pathlib.Path("pyproject.toml").write_text(text)
    assert extensions.extend_by_project() == [] and {*extensions.loaded} == before


@pytest.mark.parametrize(
    "text, words",
    [
        ("[tool.diffusion]\nextend = 'a.py'\n", "tool.diffusion.extend = 'a.py'. Valid: a list"),
        ("[tool.diffusion\n", "cannot be read"),
        ("[tool.diffusion]\nextend = ['no_such.register']\n", "there is no module 'no_such.register'"),
        ("[tool.diffusion]\nextend = ['no_such.py']\n", "there is no such Python file"),
    ],
)
def test_a_mistake_in_the_project_file_is_a_sentence(text, words):
    pathlib.Path("pyproject.toml").write_text(text)
    with pytest.raises(ConfigError) as error:
        extensions.extend_by_project()
    assert words in str(error.value) and "pyproject.toml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, words",
    [
        ("no_such_package", "there is no module 'no_such_package', neither installed nor in "),
        ("paper_e.registre", "there is no module 'paper_e.registre'"),
        ("my ideas", "this does not name code"),
        ("plugin:no_such", "unknown entry point of diffusion.plugins 'no_such'"),
        ("paper_e.register", "paper_e/register.py, line 3: ModuleNotFoundError: No module named 'no_such_library'"),
    ],
)
def test_a_module_that_is_not_there_or_fails_is_a_sentence(name, words):
    package("paper_e", "\n\nimport no_such_library\n")
    with pytest.raises(ConfigError) as error:
        extensions.extend(name)
    assert str(error.value).startswith(f"--extend={name}") and words in str(error.value)
    assert "\n" not in str(error.value) and name not in extensions.loaded


OWN_FUNCTIONS = """from diffusion import schedules

def reward(x_0, condition):
    raise RuntimeError("no such model")

def adds(x_0, condition):
    return x_0 + "a text"

def reads(x_0, condition):
    return schedules.cosine(s=-1.0)
"""


@pytest.mark.parametrize(
    "name, said", [("reward", "4: RuntimeError: no such model"), ("adds", "7: TypeError: "), ("reads", None)]
)
def test_an_error_of_own_code_that_runs_later_names_its_line(name, said):
    """One that the library raises keeps its traceback."""
    pathlib.Path("own_functions.py").write_text(OWN_FUNCTIONS)
    extensions.extend("own_functions.py")
    with pytest.raises((RuntimeError, TypeError, ValueError)) as error:
        rewards.rewarded(getattr(sys.modules["extension_own_functions"], name), jnp.zeros(2), None)
    sentence = extensions.failed_extension(error.value)
    if said is None:
        assert sentence is None
    else:
        assert str(sentence).startswith(f"--extend=own_functions.py, line {said}")


@pytest.mark.extended
@pytest.mark.parametrize("command", ["compare", "playground"])
def test_every_command_takes_the_users_code(command, tmp_path):
    """These read a run or data that may name it; nothing of them follows, since the code fails first."""
    (tmp_path / "mine.py").write_text("raise ValueError('the code ran')\n")
    done = commands.run("diffusion", command, "--extend=mine.py", cwd=tmp_path)
    assert done.returncode == 2 and "the code ran" in done.stderr, done.stderr


def test_files_of_one_name_in_two_folders_are_two_modules(monkeypatch):
    """A class finds the names in its annotations by its module."""
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    for folder in ("a", "b"):
        pathlib.Path(folder).mkdir()
        pathlib.Path(f"{folder}/twins.py").write_text(
            f"import typing\n\nclass Pair(typing.NamedTuple):\n    value: 'Value_{folder}'\n\nValue_{folder} = int\n"
        )
        extensions.extend(f"{folder}/twins.py")
    twins = [module for name, module in sys.modules.items() if name.startswith("extension_twins")]
    assert [typing.get_type_hints(module.Pair) for module in twins] == [{"value": int}] * 2
