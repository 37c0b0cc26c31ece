"""Flags of the commands that compare students with their teacher."""

from absl import flags

from diffusion.experiments import command_line


def define(teacher: str, students: str, out: str) -> None:
    """Defines the flags of a command that calls `few_steps.compare`.

    Args:
        teacher: an example of the teacher's run folder, for the help text.
        students: an example of the folder of students, for the help text.
        out: the default folder to write into.
    """
    flags.DEFINE_string("teacher", None, f"the teacher's run folder, e.g. {teacher}")
    flags.DEFINE_multi_string(
        "students", None, f'run folder of a student, or a pattern such as "{students}/*"; may be repeated'
    )
    flags.DEFINE_list("steps", ["1", "2", "4", "8"], "sampling steps of the students")
    flags.DEFINE_list("teacher_steps", ["8", "20", "50"], "sampling steps of the teacher")
    command_line.require_counts("steps")
    command_line.require_counts("teacher_steps")
    flags.DEFINE_integer("number", 1000, "number of samples for each run", lower_bound=10)
    flags.DEFINE_string("out", out, "folder to write into")
    flags.mark_flags_as_required(["teacher", "students"])
