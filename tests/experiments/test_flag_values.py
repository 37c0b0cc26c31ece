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
