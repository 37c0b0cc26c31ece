"""Every command explains itself, with an example, and keeps the arguments that it was started with."""

import ast
import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

import diffusion.__main__
from configs import digits
from diffusion.experiments.evaluation import comparison, image_metrics, model_metrics
from diffusion.metrics import protocols
from diffusion.package.commands import MOVED, as_process, current, line, module, name_of, purposes
from diffusion.recipe import recipes, versions
from tests import commands
from tests.conformance import slow_but

ROOT = pathlib.Path(__file__).parent.parent.parent
MAINS = (
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for path in (ROOT / "benchmarks").rglob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)
EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "examples").rglob("*.py"))
    if '__name__ == "__main__"' in path.read_text()
]
# What a benchmark starts, in another environment, is no command of a user.
BENCHMARKS = [name for name in MAINS if not (name.startswith("benchmarks.peers.") or name.endswith("worker"))]
NAMES = sorted(purposes())
COMMANDS = [f"diffusion {name}" for name in NAMES] + [f"python -m {name}" for name in (*BENCHMARKS, *EXAMPLES)]
FAST = (
    "diffusion train", "diffusion sample", "diffusion evaluate", "diffusion launch local",
    "python -m benchmarks.train_step",
)  # fmt: skip


@pytest.mark.extended
@pytest.mark.parametrize("command", slow_but([(name,) for name in FAST], [(name,) for name in COMMANDS]))
def test_help_holds_an_example(command):
    found = commands.run(*command.removeprefix("python ").split(), "--help")
    assert f"{command} " in found.stdout, found.stderr
    assert found.returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_help_begins_with_commands_for_those_without_a_clone(name):
    """`make` and its environments are in a clone alone; what stands first works after `pip install`."""
    file = pathlib.Path(importlib.util.find_spec(module(name)).origin)
    text = (file.parent / "__main__.py" if file.name == "__init__.py" else file).read_text()
    examples = re.findall(r"^    (\S.*)$", text.split('"""')[1], re.MULTILINE)
    assert not [line for line in examples if line.startswith(("make ", ".venv"))]


@pytest.mark.parametrize("words", [["--help"], []])
def test_the_programs_help_lists_every_command_in_a_line_and_imports_no_library(words):
    code = "import runpy, sys\ntry: runpy.run_module('diffusion', run_name='__main__', alter_sys=True)\n"
    code += "finally: print(sorted({'jax', 'numpy', 'absl'} & sys.modules.keys()), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == "[]\n"
    lines = [line.split("  ")[1] for line in done.stdout.splitlines() if line.startswith("  ") and "--" not in line]
    assert sorted(lines) == NAMES
    assert {"train", "playground", "text_model", "launch slurm"} <= set(NAMES) and "launch guard" not in NAMES


@pytest.mark.extended
@pytest.mark.parametrize(
    "words, nearest",
    [(["trian", "--config=digits"], "'train'"), (["launch", "locl"], "'launch local'"), (["sample-text"], "'sample'")],
)
def test_an_unknown_command_is_answered_with_the_nearest(words, nearest):
    done = commands.run("diffusion", *words)
    assert done.returncode == 2 and f"Did you mean {nearest}?" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.extended
@pytest.mark.parametrize("name", sorted(MOVED))
def test_a_command_that_is_an_example_now_is_answered_with_its_line(name):
    done = commands.run("diffusion", name, "--workdir=runs/a b")
    line = f"python -m {MOVED[name]} '--workdir=runs/a b'"
    assert done.returncode == 2 and f"It is an example of the clone: {line}\n" in done.stderr
    assert MOVED[name] in EXAMPLES


def test_without_the_extra_that_commands_need_its_installation_is_the_answer():
    code = "import runpy, sys\nsys.modules['absl'] = None\nsys.argv = ['diffusion', 'train', '--help']\n"
    code += "runpy.run_module('diffusion', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    said = "error: diffusion train needs absl, which is not installed here: pip install 'jax-diffusion[train]'\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_command_line_is_known_in_every_spelling():
    words = ["--workdir=runs/a b"]
    for spelling in (
        ["diffusion", "train"],
        ["python", "-m", "diffusion", "train"],
        ["python", "-m", "experiments.train"],
    ):
        assert current([*spelling, *words]) == ["diffusion", "train", *words]
        assert name_of([*spelling, *words]) == "train"
    assert line("launch local", *words) == "diffusion launch local '--workdir=runs/a b'"
    assert line("examples.text.demo", *words) == "python -m examples.text.demo '--workdir=runs/a b'"
    for other in (["python", "-m", "mypaper.train"], ["python", "experiments.py"], ["./diffusion.sh", "train"]):
        assert current(other) == other and name_of(other) == ""


def test_a_folder_of_the_same_name_is_not_started(tmp_path, monkeypatch):
    """The process that a command starts in a user's folder has the package of the command."""
    for name in ("diffusion", "experiments", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('the user's {name}')")
        (tmp_path / name / "digits.py").write_text(f"raise SystemExit('the user's {name}/digits')")
    monkeypatch.chdir(tmp_path)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(as_process(["diffusion", "--version"]), env=env, capture_output=True, text=True)
    assert done.stdout.startswith("diffusion "), done.stderr
    assert recipes.load("digits").data.name == "digits"


HEAVY = (
    "array_record", "gradio", "grain", "matplotlib", "orbax", "pyarrow", "scipy.linalg", "scipy.stats", "sklearn",
    "tensorboardX", "tensorflow_datasets", "tensorstore",
)  # fmt: skip
AT_START = ("train", "sample", "sampling.from_prompt", "evaluate", "compare", "plan", "sweep", "few_steps")


@pytest.mark.extended
def test_a_command_loads_no_library_that_it_does_not_use_at_its_start():
    """Each takes a tenth of a second to a whole one, before the first line of `main`."""
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n"
    code += "    importlib.import_module(f'diffusion.experiments.{name}')\n"
    code += f"    print(name, sorted({set(HEAVY)} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code, *AT_START], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines() == [f"{name} []" for name in AT_START], done.stderr


@pytest.mark.extended
def test_a_prompt_loads_neither_optimizers_nor_the_parts_of_recipes():
    """They are a fifth of the modules of `diffusion sample`, and serve runs alone."""
    code = "import sys, diffusion.experiments.sample, diffusion.experiments.sampling.from_prompt\n"
    code += "print(sorted({'diffusion.recipe.kinds', 'diffusion.recipe.parts', 'optax'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


LIBRARIES = ("jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "matplotlib", "scipy", "PIL")
# Runs each command line in a fork until it imports one of the libraries, and names it.
WITHOUT_LIBRARIES = """
import os, runpy, sys
import diffusion.experiments.command_line

class Named:
    def find_spec(self, name, path=None, target=None):
        if name in LIBRARIES:
            print("imports", name, file=sys.stderr, flush=True)
            os._exit(0)

for words in COMMANDS:
    for stream in (sys.stdout, sys.stderr):
        print("==", *words, file=stream, flush=True)
    if os.fork() == 0:
        sys.meta_path.insert(0, Named())
        module, *arguments = words[2:] if words[0] == "python" else words
        sys.argv = ["-m", *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit()
    if status := os.waitstatus_to_exitcode(os.wait()[1]):
        print("ends with status", status, file=sys.stderr, flush=True)
"""


def started(*lines: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """What each command line writes to stdout and to stderr before it imports a library.

    After that stderr has the library that it then imports, or the status that it ends with unless that is 0.
    """
    program = WITHOUT_LIBRARIES.replace("COMMANDS", repr(lines)).replace("LIBRARIES", repr(LIBRARIES))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    parts = lambda text: (part.partition("\n") for part in re.split("(?m)^== ", text)[1:])
    by_line = lambda text: {line: rest for line, _, rest in parts(text)}
    return by_line(done.stdout), by_line(done.stderr)


def flags_of_examples(command: str, help_text: str) -> set[str]:
    """The flags of the examples in a command's help; fields of its config count as `--config`.

    What follows a lone `--`, or the name of a part that has a help of its own, is not the command's.
    """
    words = help_text.replace("\\\n", " ")
    lines = re.findall(rf"^ *{re.escape(command)} (-.*)$", words, re.MULTILINE)
    return {flag for line in lines for flag in re.findall(r"(?<!\S)--(\w[\w-]*)", line.partition(" -- ")[0])}


def listed_flags(help_text: str) -> set[str]:
    """The flags that a command's help describes, each at the beginning of a line."""
    return set(re.findall(r"^ +(?:-\w.*, )?--(?:\[no\])?(\w[\w-]*)", help_text, re.MULTILINE))


def flags_on_pages(command: str) -> set[str]:
    """The flags with which the pages show a command; what follows a lone `--` is another command's."""
    pages = [path for top in ("docs", "examples", "weights") for path in (ROOT / top).rglob("*.md")]
    texts = [path.read_text().replace("\\\n", " ") for path in (ROOT / "README.md", *pages)]
    shown = rf"(?:^|`|\bin/){re.escape(command)}((?: [^-`#|\n ][^`#|\n ]*)* -[^`#|\n]*)"
    lines = [line.partition(" -- ")[0] for text in texts for line in re.findall(shown, text, re.MULTILINE)]
    return {flag for line in lines for flag in re.findall(r"(?<!\S)--?([a-z][\w-]*)", line)}


@pytest.mark.extended
def test_help_is_answered_without_the_libraries_and_holds_an_example():
    """They take seconds to import. The flags with which pages show a command are among those of its help."""
    shown, said = started(*((*name.split(), "--help") for name in COMMANDS))
    assert said == {f"{name} --help": "" for name in COMMANDS}
    for name in COMMANDS:
        help_text = shown[f"{name} --help"]
        assert f"{name} " in help_text, name
        listed = listed_flags(help_text)
        assert flags_of_examples(name, help_text) <= listed, name
        on_pages = flags_on_pages(name)
        assert {flag.removeprefix("no") for flag in on_pages - listed} <= listed | {"help"}, name
        if name == "diffusion train":
            assert {"workdir", "config", "extend"} <= on_pages
    examples = (
        "diffusion sample",
        "diffusion playground",
        "python -m benchmarks.gpu.recipe_stage",
        "python -m examples.text.demo",
    )
    assert {f"{name} --help" for name in examples} <= said.keys()


@pytest.mark.extended
def test_a_command_says_that_it_begins_and_what_is_wrong_before_it_imports_the_libraries(tmp_path):
    _, said = started(
        ("diffusion", "train", "--config=digits", f"--workdir={tmp_path}"),
        ("diffusion", "train", "--config=configs/digitz.py", f"--workdir={tmp_path}"),
        ("diffusion", "evaluate", f"--workdir={tmp_path}/none"),
        ("diffusion", "train", "--config=digits"),
    )
    begun, unknown, none, missing = said.values()
    assert "error: --workdir is missing: folder of the run, created if missing, e.g. runs/digits\n" in missing
    assert begun == "diffusion train: loading the libraries\nimports jax\n"
    assert "there is no recipe file 'configs/digitz.py'" in unknown and "imports" not in unknown
    assert "none holds no run" in none and "imports" not in none


@pytest.mark.extended
def test_a_change_that_samples_do_not_read_is_refused_before_the_libraries_are_imported(tmp_path):
    config = digits.get_config("tiny")
    (tmp_path / "config.json").write_text(versions.write(config))
    sample = lambda *words: ("diffusion", "sample", f"--workdir={tmp_path}", *words)
    same = [f"--config.train.steps={config.train.steps}", "--config.sample.steps=3", "--config.train.dtype=bfloat16"]
    evaluate = ("diffusion", "evaluate", f"--workdir={tmp_path}", "--config.train.steps=7")
    of_others = {  # command: a change of a field that it does not read
        "edit --out=x": "train.steps=7",
        "film --out=x": "train.steps=7",
        "evaluate": "optimizer.b1=0.5",
        "reproduce": "checkpoint.keep=9",
    }
    changes = ("train.steps=7", "checkpoint.keep=9", "optimizer.b1=0.5")
    others = [
        ("diffusion", *words.split(), f"--workdir={tmp_path}", f"--config.{change}")
        for words, change in of_others.items()
    ]
    _, said = started(sample(*same), evaluate, *(sample(f"--config.{change}") for change in changes), *others)
    read, evaluated, *refused = said.values()
    refused, refused_by_others = refused[: len(changes)], refused[len(changes) :]
    for (command, change), words in zip(of_others.items(), refused_by_others, strict=True):
        name = command.split()[0]
        assert words.startswith(f"error: --config.{change} has no effect: `diffusion {name}` does not read")
        example = "config.optimizer" if name == "reproduce" else "config.sample"
        assert f"Valid: other fields, such as those of {example}." in words
    assert "imports" in read and "imports" in evaluated
    for change, words in zip(changes, refused, strict=True):
        expected = f"error: --config.{change} has no effect: `diffusion sample` does not read train.steps, train.batch"
        assert words.startswith(expected) and "Valid: other fields, such as" in words and "imports" not in words


BROKEN = {  # {what a recipe of the user's own says: what the sentence names}
    "def get_config(argument=None):\n    return {}['nothing']\n": ", line 2: KeyError: 'nothing'",
    "def get_config(argument=None):\n    raise RuntimeError('no disk')\n": ", line 2: RuntimeError: no disk",
    "def get_config(argument=None):\n    raise ValueError('no disk')\n": ", line 2: ValueError: no disk",
    "import nothing_there\n": ", line 1: ModuleNotFoundError: No module named 'nothing_there'",
    "def f(:\n": ", line 1: SyntaxError: invalid syntax",
    "x = 1\n": '\' must define get_config(arg="")',
    "def get_config(argument=None):\n    pass\n": ": get_config returned None. Valid: a ConfigDict",
}


@pytest.mark.extended
@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_a_recipe_of_ones_own_that_fails_is_named_with_its_line(tmp_path, text):
    (tmp_path / "mine.py").write_text(text)
    _, said = started(("diffusion", "train", f"--config={tmp_path}/mine.py", f"--workdir={tmp_path}/run"))
    (sentence,) = said.values()
    assert "error: " in sentence and f"mine.py{BROKEN[text]}" in sentence
    assert sentence.endswith("ends with status 2\n") and "Traceback" not in sentence


@pytest.mark.extended
def test_a_flag_that_cannot_be_read_is_named_with_what_is_valid(tmp_path):
    start = ("diffusion", "train", "--config=digits:tiny", f"--workdir={tmp_path}/run")
    words = {
        "--steps=8": "unknown flag --steps. Did you mean --config.sample.steps or --config.teacher.pairs.steps or "
        "--config.train.steps? `diffusion ",
        "--wrokdir=a": "unknown flag --wrokdir. Did you mean --workdir? `diffusion ",
        "--nothing_like_it=1": "unknown flag --nothing_like_it. `",
        "--config.train.steps=2.5": "--config.train.steps=2.5. Valid: a whole number.",
        "--config.train.steps=abc": "--config.train.steps=abc. Valid: a whole number.",
        "--config.optimizer.learning_rate=fast": "--config.optimizer.learning_rate=fast. Valid: a number.",
        "--config.model=dit": '--config.model=dit. Valid: a table, e.g. --config.model=\'{"name": "dit"}\', or one '
        "of its fields, --config.model.name=dit.",
        "--config.train=5": "--config.train=5. Valid: a table, e.g. --config.train='{\"accumulate\": 0}', or one "
        "of its fields, --config.train.accumulate=0.",
        "--config.smaple.steps=3": "a --config.FIELD does not exist: 'smaple'. Did you mean \"sample\" instead of",
    }
    plan = ("diffusion", "plan", "--config=digits", "--machine=rtx9090")
    late = ("diffusion", "train", "--config.train.steps=3", "--config=digits:tiny", f"--workdir={tmp_path}/run")
    _, said = started(*((*start, word) for word in words), plan, late)
    assert "error: --config.train.steps=3 stands before --config" in said[" ".join(late)]
    assert "error: flag --machine=rtx9090: value should be one of <" in said[" ".join(plan)]
    for word, sentence in words.items():
        assert f"error: {sentence}" in said[" ".join((*start, word))]


def test_the_help_of_evaluate_names_what_there_is():
    """It is written out: the modules that hold these tables take seconds to import."""
    said = " ".join(commands.run("diffusion", "evaluate", "--help").stdout.split())
    assert f"prepared: {', '.join(protocols.PROTOCOLS)}" in said
    assert f"without --workdir: {', '.join(comparison.FEATURES)}" in said
    assert f"metrics to compute: {','.join(image_metrics.METRICS)}; by default {','.join(comparison.DEFAULT)};" in said
    assert f"with --workdir also {','.join(model_metrics.METRICS)}, in the report" in said


SLOW = pytest.mark.slow  # a process of its own, for JAX reads its environment when it is imported


@pytest.mark.parametrize(
    "platform, words",
    [
        ("cuda", "without its CUDA plugin. Valid: JAX_PLATFORMS=cpu"),
        pytest.param("cudo", "Unable to initialize backend", marks=SLOW),
    ],
)
def test_a_platform_that_is_not_there_is_one_sentence(tmp_path, platform, words):
    env = {**os.environ, "JAX_PLATFORMS": platform}
    command = as_process(["diffusion", "train", "--config=digits:tiny", f"--workdir={tmp_path}/run"])
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"error: JAX_PLATFORMS={platform}: " in done.stderr and words in done.stderr


@pytest.mark.extended
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["sample", "--help"], ["zoo", "--help"]])
def test_a_command_whose_reader_has_gone_ends_without_a_traceback(words):
    """As `diffusion sample --help | head -1` does."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "diffusion", *words], stdout=closed, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    assert done.stderr == ""


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_command_whose_stream_is_closed_runs(number):
    """As `diffusion --version >&-` does, or a service that has no standard streams."""
    command = shlex.join([sys.executable, "-m", "diffusion", "--version"])
    done = subprocess.run(f"exec {command} {number}>&-", shell=True, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("" if number == 1 else f"diffusion {diffusion.__version__}\n")


@pytest.mark.parametrize("word", ["-h", "--help", "help"])
def test_help_of_launch_lists_the_launchers(monkeypatch, capsys, word):
    monkeypatch.setattr(sys, "argv", ["diffusion", "launch", word])
    assert diffusion.__main__.main() == 0
    said = capsys.readouterr().out
    assert all(f"  launch {name} " in said for name in ("local", "slurm", "slurm_array", "tpu", "kubernetes"))
    assert "  train " not in said


def test_a_pipe_that_is_not_the_output_is_an_error(monkeypatch, capfd):
    def broken():
        raise BrokenPipeError("the connection")

    monkeypatch.setattr(diffusion.__main__, "_run", broken)
    with pytest.raises(BrokenPipeError, match="the connection"):
        diffusion.__main__.main()


@pytest.mark.extended
@pytest.mark.skipif(sys.platform != "linux", reason="processes start anew on Linux alone")
@pytest.mark.parametrize("words", [["sample", "--model=digits"], ["train", "--config=digits", "--workdir=x"]])
def test_a_process_starts_anew_before_it_imports_libraries(tmp_path, words):
    """It would import them twice."""
    heavy = ("jax", "flax", "optax", "scipy", "matplotlib")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        f"os.execv = lambda *_: os._exit(print([name for name in {heavy} if name in sys.modules], flush=True) or 7)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-m", "diffusion", *words],
        env=environment | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (7, "[]\n"), done.stderr


@pytest.mark.extended
def test_commands_start_without_the_parts_of_scipy_and_matplotlib():
    """They take longer to import than this library does."""
    modules = [module(name) for name in sorted(purposes()) if name != "playground"]
    code = (
        f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
        "print(sorted(name for name in sys.modules if name.startswith(('scipy.', 'matplotlib', 'pandas'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = ast.literal_eval(done.stdout)
    assert [name for name in loaded if not name.startswith(("scipy._", "scipy.version"))] == []
