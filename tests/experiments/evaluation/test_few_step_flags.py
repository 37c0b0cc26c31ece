"""The flags of the commands that compare students with their teacher."""

import pytest
from absl import flags

from diffusion.experiments.evaluation import few_step_flags
from tests import command_flags


@pytest.fixture
def values():
    """What the function defines, which is gone afterwards."""
    with command_flags.set_aside() as empty:
        few_step_flags.define("runs/teacher", "runs/students", "runs/table")
        yield empty


@pytest.mark.parametrize("word", ["--teacher=a", "--students=b"])
def test_both_runs_are_needed(values, word):
    with pytest.raises(flags.IllegalFlagValueError, match="must have a value"):
        values(["command", word])


def test_the_rest_has_defaults(values):
    values(["command", "--teacher=a", "--students=b,seed=0", "--students=c"])
    assert (values.teacher, values.students) == ("a", ["b,seed=0", "c"])
    assert (values.steps, values.teacher_steps) == (["1", "2", "4", "8"], ["8", "20", "50"])
    assert (values.number, values.out) == (1000, "runs/table")


def test_ten_samples_are_the_fewest(values):
    needed = ["command", "--teacher=a", "--students=b"]
    values([*needed, "--number=10"])
    assert values.number == 10
    with pytest.raises(flags.IllegalFlagValueError, match="number"):
        values([*needed, "--number=9"])


def test_help_says_what_the_names_are(values):
    said = {name: values[name].help for name in ("teacher", "students")}
    assert "runs/teacher" in said["teacher"] and '"runs/students/*"' in said["students"]


@pytest.mark.parametrize("name", ["steps", "teacher_steps"])
@pytest.mark.parametrize("words", ["", "0", "two", "1,1.5", "2,,4"])
def test_numbers_of_steps_that_are_none_are_refused(values, name, words):
    with pytest.raises(flags.IllegalFlagValueError, match=f"--{name}.*no whole number of at least 1"):
        values(["command", "--teacher=a", "--students=b", f"--{name}={words}"])
