"""What the launchers do alike: read their options and the command after `--`, and hand a text over to a tool."""

import argparse
import re
import shlex
import shutil
import subprocess
import sys

SECRET_OPTION = re.compile(r"(?i)(^|[._-])(api[_-]?key|(access|private)[_-]?key|token|secret|password)$")
HARMLESS = re.compile(r"(?i)true|false|none|[0-9.]*")  # --config.model.class_token=True
SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20}|gh[pousr]_[A-Za-z0-9]{20}|github_pat_|AKIA[0-9A-Z]{16}|AIza[\w-]{30}|"
    r"sk-[\w-]{20}|ya29\.)|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s@]+@"
)


def refuse_secrets(parser: argparse.ArgumentParser, command: list[str], advice: str) -> None:
    """Ends a launcher with an error if a word of the command looks like a secret; the error does not repeat it.

    Args:
        parser: of the launcher's options.
        command: the words after `--`.
        advice: what to do instead, after "looks like a secret, which".
    """
    for i, (word, following) in enumerate(zip(command, [*command[1:], "-"]), start=1):
        option, equals, value = word.partition("=")
        if not equals and word.startswith("-") and not following.startswith("-"):
            value = following
        if SECRET_VALUE.search(word) or (SECRET_OPTION.search(option) and not HARMLESS.fullmatch(value)):
            parser.error(f"word {i} of the command looks like a secret, which {advice}")


def parser(name: str, description: str, example: str, allow_abbrev: bool = False) -> argparse.ArgumentParser:
    """Returns a launcher's parser, without its options.

    Args:
        name: of the module in `launch`.
        description: what it does.
        example: shown at the end of its help.
        allow_abbrev: whether its options may be cut short.
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
    """Splits a launcher's own arguments from the command after `--`; ends it with an error where there is none.

    Args:
        parser: of the launcher's options; its epilog is an example.
        argv: arguments without the program's name.

    Returns:
        The options and the command as a list of words.
    """
    cut = argv.index("--") if "--" in argv else len(argv)
    options = parser.parse_args(argv[:cut])
    command = argv[cut + 1 :]
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
        options: with `dry_run` and `output`.
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
