"""Values of flags that a command refuses as it reads its command line."""

import pytest
from absl import flags

from diffusion.experiments import command_line
from tests import command_flags


@pytest.mark.parametrize("value, valid", [(8, True), (24, True), (0, True), (12, False), (9, False)])
def test_only_multiples_are_valid(value, valid):
    with command_flags.set_aside() as values:
        flags.DEFINE_integer("notes", 16, "number of notes")
        command_line.require_multiple("notes", 8)
        if valid:
            values(["command", f"--notes={value}"])
            assert values.notes == value
        else:
            with pytest.raises(flags.IllegalFlagValueError, match=r"not a multiple of 8\. Valid: 8, 16 and so on\."):
                values(["command", f"--notes={value}"])


@pytest.mark.parametrize("value, valid", [
    ("8,32", True), ("1", True), ("", False), ("8,x", False), ("0", False), ("-8", False), ("8.5", False), ("²", False),
])  # fmt: skip
def test_only_lists_of_counts_are_valid(value, valid):
    with command_flags.set_aside() as values:
        flags.DEFINE_list("evaluations", "16,64", "numbers of evaluations")
        command_line.require_counts("evaluations")
        if valid:
            values(["command", f"--evaluations={value}"])
            assert values.evaluations == value.split(",")
        else:
            with pytest.raises(flags.IllegalFlagValueError, match="no whole number of at least 1"):
                values(["command", f"--evaluations={value}"])


def test_a_list_may_be_empty_where_no_entry_is_required():
    with command_flags.set_aside() as values:
        flags.DEFINE_list("best_of", "2,4", "numbers of candidates")
        command_line.require_counts("best_of", least=0)
        values(["command", "--best_of="])
        assert values.best_of == []


@pytest.mark.parametrize(
    "value, nearest", [(-3, 3), (0, 3), (4, 3), (6, 5), (5, None), (3, None), (17, None), (14, 17)]
)
def test_a_value_of_a_sequence_is_required_and_the_nearest_named(value, nearest):
    """The sequence is 3, 5, 9, 17 ...: 2^(k + 1) + 1."""
    with command_flags.set_aside() as values:
        flags.DEFINE_integer("rungs", 3, "number of rungs")
        command_line.require_value("rungs", lambda k: 2 ** (k + 1) + 1, "a rung")
        if nearest is None:
            values(["command", f"--rungs={value}"])
            assert values.rungs == value
        else:
            words = rf"not a rung\. Valid: 3, 5, 9 and so on; the nearest is {nearest}\."
            with pytest.raises(flags.IllegalFlagValueError, match=words):
                values(["command", f"--rungs={value}"])


@pytest.mark.parametrize(
    "command, flag, valid",
    [
        ("few_steps", "number=100", "a power of two. Valid: 2, 4, 8 and so on; the nearest is 128."),
        ("few_steps", "number=1", "a power of two. Valid: 2, 4, 8 and so on; the nearest is 2."),
        ("gradient_sums", "chips=60", "a cube. Valid: 8, 27, 64 and so on; the nearest is 64."),
    ],
)
def test_benchmarks_refuse_numbers_that_they_cannot_use(command, flag, valid):
    with pytest.raises(flags.IllegalFlagValueError, match=f"--{flag}: the value is not {valid}"):
        with command_flags.of(f"benchmarks.{command}", f"--{flag}"):
            pass
