"""The program `diffusion`: starts a command by its name, and lists them."""

import os
import runpy
import shutil
import sys
import textwrap

import diffusion
from diffusion.package import commands, public

HELP = ("-h", "--help", "help")
EXAMPLE = """\
  diffusion train --config=digits --workdir=runs/digits
  diffusion sample --workdir=runs/digits
  diffusion launch local --processes=2 -- diffusion train --config=digits --workdir=runs/two
"""


def main() -> int | None:
    """Runs the command that the first word names, as `python -m` runs a module; without a word it lists the commands.

    It ends without a traceback where nobody reads on, as in `diffusion zoo | head`.

    Returns:
        The exit status, where no command was run.
    """
    _open_closed_streams()
    try:
        try:
            return _run()
        finally:
            sys.stdout.flush()  # also where a command exits by itself, as after its help
    except BrokenPipeError:
        if not _output_is_closed():
            raise  # another pipe, or a connection
        return 1


def _open_closed_streams() -> None:
    """Replaces each standard stream that is closed by the null device.

    Otherwise another file, such as a checkpoint, gets the number of the stream, to which libraries write messages.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def _output_is_closed() -> bool:
    """Whether nobody reads the standard output any more; what waits to be written is then dropped."""
    try:
        print(flush=True)
    except BrokenPipeError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # Python writes what is left at its end
        return True
    return False


def _run() -> int | None:
    """The command of the command line, and `main`'s exit status."""
    words = sys.argv[1:]
    if not words or words[0] in HELP:
        print(overview())
        return 0
    if words[0] == "launch" and set(words[1:2]) & set(HELP):
        print(overview("launch "))
        return 0
    if words[0] == "--version":
        print(f"diffusion {diffusion.__version__}")
        return 0
    purposes = commands.purposes()
    name = " ".join(words[:2]) if words[0] == "launch" else words[0]
    if name not in purposes:
        near = public.nearest(name, purposes)
        hint = f"Did you mean {near!r}? " if near else ""
        if name == "launch":
            hint = f"Valid: {', '.join(other for other in purposes if other.startswith('launch '))}. "
        if name in commands.MOVED:
            hint = f"It is an example of the clone: {commands.line(commands.MOVED[name], *words[1:])}\n"
        print(f"error: there is no command {name!r}. {hint}`diffusion --help` lists them.", file=sys.stderr)
        return 2
    sys.argv[1:] = words[len(name.split()) :]
    try:
        runpy.run_module(commands.module(name), run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == commands.PROGRAM:
            raise
        extra = "playground" if name == "playground" else "train"
        print(
            f"error: diffusion {name} needs {error.name}, which is not installed here: "
            f"pip install 'jax-diffusion[{extra}]'",
            file=sys.stderr,
        )
        return 1
    return None


def overview(group: str = "") -> str:
    """The commands with what each is for, a line each as far as the terminal is wide.

    Args:
        group: the words with which the listed commands begin, e.g. "launch "; "" for all commands.
    """
    purposes = {name: what for name, what in commands.purposes().items() if name.startswith(group)}
    indent = max(map(len, purposes)) + 4
    width = max(shutil.get_terminal_size((120, 24)).columns, indent + 40)
    lines = [f"  {name:{indent - 2}}{textwrap.shorten(what, width - indent, placeholder=' ...')}"
             for name, what in purposes.items()]  # fmt: skip
    listed = "\n".join(lines)
    return (
        f"diffusion {diffusion.__version__}: diffusion and flow matching in pure JAX\n\n"
        f"usage: diffusion COMMAND [--name=value ...]\n\n{listed}\n\nexamples:\n{EXAMPLE}\n"
        "`diffusion COMMAND --help` explains one. --config names a recipe of this library or a file of your own."
    )


if __name__ == "__main__":
    sys.exit(main())
