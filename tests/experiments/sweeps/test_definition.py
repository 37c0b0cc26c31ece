"""Sweep files: their runs, names and commands; every config is checked before anything starts."""

import pathlib
import shlex

import pytest

from diffusion.experiments import sweep as command
from diffusion.experiments.sweeps import commands as sweep_commands, definition, sweep_folder
from diffusion.experiments.sweeps.combinators import each, product, zip as together
from diffusion.experiments.sweeps.commands import evaluate, overrides_as_words, parsed, sample, train
from diffusion.experiments.sweeps.definition import Sweep
from diffusion.recipe import ConfigError, extensions, recipes, versions
from diffusion.recipe.values import plain
from tests import commands

TINY = "digits:tiny"
USUAL = (train(TINY), sample(), evaluate())
DIR = pathlib.Path("runs/x")


def record(runs, commands=USUAL, **rest):
    return definition.record(Sweep(runs, commands, **rest), "sweeps/s.py:tiny", DIR)


def test_runs_have_names_and_commands_of_their_own():
    made = record(product(each("optimizer.learning_rate", (1e-3, 2e-3)), each("seed", (0, 1))))
    assert (made.name, made.varies, made.seeds) == ("s_tiny", ["optimizer.learning_rate", "seed"], ["seed"])
    assert [plan.name for plan in made.runs] == [
        f"learning_rate={rate},seed={seed}" for rate in (0.001, 0.002) for seed in (0, 1)
    ]
    first, second, third = (shlex.join(words) for words in sweep_folder.commands(DIR, made.runs[1]))
    folder = "runs/x/learning_rate=0.001,seed=1"
    assert first == (
        f"diffusion train --config={TINY} --workdir={folder} --config.optimizer.learning_rate=0.001 --config.seed=1"
    )
    assert (second, third) == (f"diffusion sample --workdir={folder}", f"diffusion evaluate --workdir={folder}")


def test_samplers_of_symbols_vary_and_one_that_the_process_lacks_is_refused_at_once():
    usual = (train("symbols/prose:tiny"), sample(), evaluate())
    samplers = [
        {"name": "ancestral"},
        {"name": "theta_trapezoidal"},
        {"name": "unmasking", "choose": {"name": "surest", "number": 2}},
    ]
    made = record(product(each("sample.sampler", samplers), each("sample.steps", (4, 8))), usual)
    assert [plan.name for plan in made.runs][:2] == ["sampler=ancestral,steps=4", "sampler=ancestral,steps=8"]
    assert len({plan.name for plan in made.runs}) == 6
    with pytest.raises(ConfigError, match=r"sample\.sampler = \{'name': 'heun'\}.*trains a predictor of symbols"):
        record(each("sample.sampler", [{"name": "ancestral"}, {"name": "heun"}]), usual)


@pytest.mark.parametrize(
    "field, value",
    [
        ("train.steps", 7),
        ("optimizer.learning_rate", 3),
        ("ema.warmup", False),
        ("data.shape", (8, 8, 1)),
        ("evaluate.features", ("pixels", "classifier")),
        ("data.augment", ({"name": "flip"},)),
        ("init_from.include", "1"),
        ("parameterization", {"name": "v", "clock": {"name": "steps", "T": 10}}),
        ("objective.coupling", {"name": "sinkhorn"}),
        ("schedule", {"name": "linear_beta", "beta_end": 0.02}),
        ("data.dir", 'a b\'s "c"'),
    ],
)
def test_a_value_comes_through_a_command_line_as_it_is(field, value):
    words = overrides_as_words({field: value})
    (word,) = shlex.split(shlex.join(words))
    got = parsed(recipes.load(TINY), [word])
    for part in field.split("."):
        got = got[part]
    assert plain({"value": got}) == plain({"value": value})


@pytest.mark.parametrize(
    "runs, commands, words",
    [
        ([{"train.stpes": 3}], USUAL, "Did you mean 'steps'"),
        (
            [{"trane.steps": 3}],
            USUAL,
            ': a field does not exist: \'trane\'. Did you mean "train" instead of "trane"? To',
        ),
        ([{"schedule.name": "cosin"}], USUAL, "Did you mean 'cosine'"),
        ([{"train.steps": 5}, {"train.steps": 0}], USUAL, "run steps=0: config.train.steps = 0"),
        ([{"train.steps": 40}, {}], USUAL, "runs steps=40 and base have the same config"),
        ([{"seed": 1}, {"seed": 1.0}], USUAL, "more than once"),
        ([], USUAL, "0 runs"),
        ([{"seed": 1}], (), "of 0 commands"),
        ([{"sed": 1}], (sample("--out={folder}", folder="{folder}/a"),), "sed, which no command uses"),
        ([{"seed": 1}], (train("configs/no_such.py"),), "no recipe file"),
        ([{"seed": 1}], ((*train("")[:2], "--config", "no_such.py", "{overrides}"),), "no recipe file"),
        ([{"seed": 1}], (sample("{overrides}", folder="runs/no-such-run"),), "there is no run in runs/no-such-run"),
        ([{"seed": 1}], (("echo", "{seeds}"),), "Did you mean 'seed'"),
        ([{"seed": 1}, {"x": 2}], (("echo", "{seed}", "{x}"),), "does not set x"),
        ([{"a b": 1}], USUAL, "a field with its path"),
        ([{"data.shape": None}], USUAL, "cannot be written on a command line"),
        ([{"seed": lambda: 0}], USUAL, "function"),
        ([{"seed": 1}], (train(TINY), sample("--config.sample.steps=0")), "config.sample.steps = 0"),
    ],
)
def test_mistakes_are_found_before_anything_starts(runs, commands, words):
    with pytest.raises(ConfigError) as error:
        record(runs, commands)
    assert words in str(error.value)


def test_a_word_in_the_place_of_the_folder_is_refused():
    with pytest.raises(
        ConfigError, match=r"'--extend=mine\.py'.* is a flag and no folder.*'digits', \"{folder}\", '--extend=mine"
    ):
        train("digits", "--extend=mine.py")


def test_titles_stand_for_what_they_name():
    kinds = [{"model.width": 32}, {"model.width": 64, "model.depth": 3}]
    runs = product(together(each("kind", ("small", "big")), kinds), each("seed", (0, 1)))
    made = record(runs, titles=("kind",))
    assert [plan.name for plan in made.runs[1:3]] == ["kind=small,seed=1", "kind=big,seed=0"]
    assert made.varies == ["kind", "seed"]
    assert "--config.model.depth=3" in made.runs[2].commands[0]
    assert not any("kind" in word for words in made.runs[2].commands for word in words if "folder" not in word)


def test_a_command_may_train_what_a_later_one_learns_from(tmp_path, monkeypatch):
    student = train(TINY, "{folder}/student", "--config.init_from.path={folder}/teacher")
    made = record(each("seed", (0, 1)), (train(TINY, "{folder}/teacher"), student, sample(folder="{folder}/student")))
    assert sweep_folder.commands(DIR, made.runs[0])[1][-1] == "--config.init_from.path=runs/x/seed=0/teacher"
    with pytest.raises(ConfigError, match=r"init_from\.path = .*it does not exist"):
        record(each("seed", (0, 1)), (student,))
    for seed in (0, 1):
        (tmp_path / f"runs/x/seed={seed}/student/checkpoints/20").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert record(each("seed", (0, 1)), (student,)).runs  # they have begun


def test_another_sweep_in_the_same_folder_is_refused_with_the_difference(tmp_path):
    one = record(each("seed", (0, 1)))
    definition.settle(tmp_path, one)
    assert definition.difference(sweep_folder.read(tmp_path), one) == []
    definition.settle(tmp_path, one)
    other = record(product(each("seed", (0, 2)), [{"train.steps": 50}]))
    base = {TINY: {**one.bases[TINY], "seed": 5}}
    with pytest.raises(ConfigError) as error:
        definition.settle(tmp_path, other._replace(bases=base))
    for words in ("no longer a run: seed=1", "a new run: seed=2", "--config.train.steps=50", "seed: 0 -> 5"):
        assert words in str(error.value)
    assert sweep_folder.read(tmp_path).runs[1].name == "seed=1"


def test_a_sweep_goes_on_with_a_version_that_adds_a_field(tmp_path, monkeypatch):
    """The new field has a value that changes nothing, as in config.json of its runs."""
    before = record(each("seed", (0, 1)))
    definition.settle(tmp_path, before)
    adds = lambda fields: fields["train"].setdefault("new", 0)
    monkeypatch.setattr(versions, "MIGRATIONS", [*versions.MIGRATIONS, adds])
    base = {**before.bases[TINY], "train": {**before.bases[TINY]["train"], "new": 0}}
    assert definition.settle(tmp_path, before._replace(bases={TINY: base})) == 0
    base["train"]["new"] = 1
    with pytest.raises(ConfigError, match=r"train\.new: 0 -> 1"):
        definition.settle(tmp_path, before._replace(bases={TINY: base}))


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "no sweep file"),
        ("x = 1", "must define get_sweep"),
        ("def get_sweep(arg=''): return [{}]", "Valid: a Sweep"),
        ("def get_sweep(arg=''):\n    return 1 / 0", r"--sweep=.*s\.py, line 2: ZeroDivisionError: division by zero"),
        ("def get_sweep(): return [{}]", r"--sweep=.*s\.py: TypeError: get_sweep\(\) takes 0 positional"),
        ("def f(:", r"--sweep=.*s\.py, line 1: SyntaxError: invalid syntax"),
    ],
)
def test_files_that_are_no_sweeps(tmp_path, text, words):
    if text:
        (tmp_path / "s.py").write_text(text)
    with pytest.raises(ConfigError, match=words):
        definition.load(str(tmp_path / "s.py"))


MINE = "--extend=mine.py"


@pytest.mark.parametrize(
    "extended, commands, words",
    [
        (
            (),
            [train(TINY, "{folder}", MINE), sample(MINE), evaluate()],
            "evaluate .* lacks --extend=mine.py.*of evaluate",
        ),
        (("mine.py",), [train(TINY), sample(MINE)], r'train .* lacks --extend=mine.py: .*Add "--extend=mine.py"'),
        (("a.py", "mine.py"), [train(TINY, "{folder}", MINE)], "train .* lacks --extend=mine.py,a.py"),
    ],
)
def test_a_command_without_the_code_of_its_run_is_refused(extended, commands, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").touch()
    made = Sweep([{"seed": 1}], commands)
    with pytest.raises(ConfigError, match=words):
        definition.record(made, "s.py", DIR, extended)
    named = [[*(word for word in line if word != MINE), "--extend=mine.py,a.py"] for line in commands]
    sweep_commands.require_extensions(named, extended)
    plans = [sweep_folder.Plan("base", {"seed": 1}, [list(line) for line in commands])]
    sweep_folder.write(DIR, sweep_folder.Record("s", "s.py", [], [], {}, plans))  # a sweep of before goes on
    monkeypatch.setattr(extensions, "loaded", {}), monkeypatch.setattr(extensions, "extended", [])
    assert definition.record(made, "s.py", DIR, extended).runs


def test_a_sweep_that_goes_on_in_another_folder_says_where_its_file_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep_folder.write(tmp_path / "runs", record([{"seed": 1}])._replace(file="mine.py:tiny"))
    with pytest.raises(ConfigError, match=r"was begun by --sweep=mine.py:tiny, but /.*/mine.py does not exist\. Start"):
        command.recorded_file(tmp_path / "runs")
    (tmp_path / "mine.py").touch()
    assert command.recorded_file(tmp_path / "runs") == "mine.py:tiny"


@pytest.mark.parametrize("run", ["2", "²", "-1", "x"])
def test_a_run_that_the_sweep_does_not_have_is_refused(run):
    """int() does not take "²", which str.isdigit calls a digit."""
    two = record(each("seed", (0, 1)))
    with pytest.raises(ConfigError, match=rf"^--run={run}: the sweep has no such run\. Valid: 0 \.\. 1"):
        command.chosen(two, run)


def test_no_jobs_at_a_time_are_refused():
    ended = commands.run("diffusion", "sweep", "--sweep=digits_steps:tiny", "--jobs=0")
    assert ended.returncode == 2 and "--jobs=0: 0 is not a positive integer" in ended.stderr


@pytest.mark.parametrize("file", sorted(set(recipes.names(recipes.SWEEPS)) - {"cifar10_flow_or_diffusion"}))
def test_another_preset_than_tiny_begins_no_sweep(file):
    with pytest.raises(ConfigError, match="unknown preset 'tyni'"):
        definition.load(f"{file}:tyni")


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, runs",
    [("digits_weightings", 45), ("digits_weightings:tiny", 4), ("digits_models", 3), ("cifar10_flow_or_diffusion", 9)],
)
def test_the_sweeps_of_the_project_are_sound(file, runs):
    made = definition.record(definition.load(file), file, DIR)
    assert len(made.runs) == runs
    assert max(len(plan.name) for plan in made.runs) < 60
