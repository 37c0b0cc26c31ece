"""What the launchers do alike: read their options and the command after `--`, and hand a text over to a tool."""

import argparse
import shlex
import shutil
import subprocess
import sys


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Splits a launcher's own arguments from the command after `--`; ends it with an error where there is none.

    Args:
      parser: of the launcher's options; its epilog is an example.
      argv: arguments without the program's name.

    Returns:
      The options and the command as a list of words.
    """
    cut = argv.index("--") if "--" in argv else len(argv)
    options, command = parser.parse_args(argv[:cut]), argv[cut + 1:]
    if not command:
        parser.error(f"there is no command: write it after --\n{parser.epilog}")
    return options, command


def hand_over(
    launcher: str, text: str, options: argparse.Namespace, tool: list[str], written: str, missing: str
) -> int:
    """Prints a text (--dry-run), writes it (--output=FILE), or gives it to a tool on its standard input.

    Args:
      launcher: its name, for messages.
      text: with a newline at its end.
      options: with ``dry_run`` and ``output``.
      tool: the words of the command that takes the text.
      written: what to do with a written file, up to its name.
      missing: what to say after "there is no TOOL on PATH. ".

    Returns:
      The exit status.
    """
    if options.dry_run:
        print(text, end="")
        return 0
    if options.output is not None:
        try:
            options.output.write_text(text)
        except OSError as error:
            print(f"{launcher}: cannot write {options.output}: {error.strerror}", file=sys.stderr)
            return 1
        print(f"wrote {options.output}; {written} {shlex.quote(str(options.output))}")
        return 0
    if shutil.which(tool[0]) is None:
        print(f"{launcher}: there is no {tool[0]} on PATH. {missing}", file=sys.stderr)
        return 127
    return subprocess.run(tool, input=text, text=True).returncode
