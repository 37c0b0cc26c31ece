"""The common part of the launchers, which read their options and the command after `--`, and pass a text to a tool."""

import argparse
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable

SECRET_OPTION = re.compile(r"(?i)(^|[._-])(api[_-]?key|(access|private)[_-]?key|token|secret|password)$")
HARMLESS = re.compile(r"(?i)true|false|none|[0-9.]*")  # values that are no secrets: --config.model.class_token=True
SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20}|gh[pousr]_[A-Za-z0-9]{20}|github_pat_|AKIA[0-9A-Z]{16}|AIza[\w-]{30}|"
    r"sk-[\w-]{20}|ya29\.)|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s@]+@"
)
SAVED = 143  # the exit status of diffusion train when it has saved after SIGTERM


def argument(pattern: str, words: str, repeat: bool = True) -> Callable[[str], str]:
    """A `type` for argparse that accepts text which fully matches a pattern.

    Args:
        pattern: a regular expression for the complete text, which must be ASCII.
        words: a description of the valid text, which follows "must be".
        repeat: whether the error repeats the text; False if the text may be a secret.
    """

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise argparse.ArgumentTypeError(f"{text!r} must be {words}" if repeat else f"must be {words}")
        return text

    return check


def natural(text: str) -> int:
    """An argument that is a whole number, 0 or more."""
    return int(argument("[0-9]{1,9}", "a whole number")(text))


def positive(text: str) -> int:
    """An argument that is a whole number, 1 or more."""
    return int(argument("0*[1-9][0-9]{0,8}", "a whole number, 1 or more")(text))


def exit_status(returncode: int) -> int:
    """The exit status of a process in the form of a shell: 128 + n if signal n ended it."""
    return 128 - returncode if returncode < 0 else returncode


def no_run(parser: argparse.ArgumentParser, command: list[str]) -> None:
    """Ends the launcher of a sweep's runs with an error if the command has --run."""
    if any(re.fullmatch("--run(=.*)?", word) for word in command):
        parser.error("the command has --run, which the launcher adds itself. Leave it out")


def refuse_secrets(parser: argparse.ArgumentParser, command: list[str], advice: str) -> None:
    """Ends a launcher with an error if a word of the command looks like a secret; the error does not repeat it."""
    for i, (word, following) in enumerate(zip(command, [*command[1:], "-"]), start=1):
        option, equals, value = word.partition("=")
        if not equals and word.startswith("-") and not following.startswith("-"):
            value = following
        if SECRET_VALUE.search(word) or (SECRET_OPTION.search(option) and not HARMLESS.fullmatch(value)):
            parser.error(f"word {i} of the command looks like a secret, which {advice}")


def parser(name: str, description: str, example: str, allow_abbrev: bool = False) -> argparse.ArgumentParser:
    """The parser of a launcher, without options.

    Args:
        name: the name of the launcher after `diffusion launch`.
        description: the text at the beginning of the help.
        example: the text at the end of the help.
        allow_abbrev: whether options may be abbreviated.
    """
    return argparse.ArgumentParser(
        prog=f"diffusion launch {name}",
        usage="%(prog)s [options] -- COMMAND ...",
        description=description,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=allow_abbrev,
    )


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Splits a launcher's own arguments from the command after `--`; without a command it ends with an error.

    Args:
        parser: the parser of the launcher's options; its epilog is an example.
        argv: the arguments without the program's name.

    Returns:
        The options and the command as a list of words.
    """
    cut = argv.index("--") if "--" in argv else len(argv)
    options = parser.parse_args(argv[:cut])
    command = argv[cut + 1 :]
    if not command:
        parser.error(f"there is no command: write it after --\n{parser.epilog}")
    return options, command


def add_output(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds the options --output and --dry-run of a launcher that writes a text for a tool, see `hand_over`."""
    add = parser.add_argument
    add("--output", type=pathlib.Path, metavar="FILE", help=f"write the {what} here and do not submit it")
    add("--dry-run", action="store_true", help=f"print the {what} and do nothing")


def hand_over(launcher: str, text: str, options: argparse.Namespace, tool: list[str], written: str, what: str) -> int:
    """Prints a text (--dry-run), writes it (--output=FILE), or gives it to a tool on its standard input.

    Args:
        launcher: the launcher's name after `diffusion launch`, for messages.
        text: the text, with a newline at its end.
        options: the parsed options, including those of `add_output`.
        tool: the words of the command that reads the text.
        written: the advice for a written file, which its name follows.
        what: a noun for the text.

    Returns:
        The exit status of the tool; 127 if it does not exist, or 1 if the file cannot be written.
    """
    if options.dry_run:
        print(text, end="")
        return 0
    if options.output is not None:
        try:
            options.output.write_bytes(os.fsencode(text))
        except OSError as error:
            print(f"diffusion launch {launcher}: cannot write {options.output}: {error.strerror}", file=sys.stderr)
            return 1
        print(f"wrote {options.output}; {written} {shlex.quote(str(options.output))}")
        return 0
    if shutil.which(tool[0]) is None:
        print(
            f"diffusion launch {launcher}: there is no {tool[0]} on PATH. Run this where the cluster's tools are, or "
            f"use --dry-run to see the {what} or --output=FILE to write it.",
            file=sys.stderr,
        )
        return 127
    return exit_status(subprocess.run(tool, input=os.fsencode(text)).returncode)
