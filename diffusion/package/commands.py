"""The commands of an installation: their names, what each is for, and the words that start one.

A command is a module of `diffusion.experiments` with `main(argv)` that runs as a program, and a launcher one of
`diffusion.launch`. Both are read from the files, so that a new one needs no entry here, and none is imported. An
example of a clone, `examples.text.demo`, is started as a module of Python, and is no command of an installation.
"""

import pathlib
import re
import shlex
import sys
from collections.abc import Sequence

PACKAGE = pathlib.Path(__file__).parents[1]
FOLDERS = {"": PACKAGE / "experiments", "launch ": PACKAGE / "launch"}  # {prefix of a command's name: folder}
PURPOSE = re.compile(r'r?"""(.*?)(?:\.?"""|\.?\n\n)', re.DOTALL)  # the first sentence of a docstring
PROGRAM = "diffusion"
EXAMPLES = "examples."
MOVED = {  # commands of before version 0.2, and the example of a clone that each is now
    "control_report": "examples.control.report",
    "glyph_pictures": "examples.glyph.pictures",
    "glyph_report": "examples.glyph.report",
    "text_demo": "examples.text.demo",
    "text_few_steps": "examples.text.few_steps",
    "text_report": "examples.text.report",
    "video_demo": "examples.video.demo",
}


def purposes() -> dict[str, str]:
    """{name of a command, such as "train" or "launch local": its purpose, the first sentence of its module}."""
    sentences = {}
    for before, folder in FOLDERS.items():
        for path in sorted([*folder.glob("*.py"), *folder.glob("*/__main__.py")]):
            text = path.read_text()
            purpose = PURPOSE.match(text)
            if purpose is not None and "\ndef main(argv" in text:
                name = path.parent.name if path.name == "__main__.py" else path.stem
                sentences[before + name] = " ".join(purpose[1].split())
    return sentences


def module(name: str) -> str:
    """The module of a command: of "train" `diffusion.experiments.train`."""
    launcher = name.removeprefix("launch ")
    return f"diffusion.launch.{launcher}" if launcher != name else f"diffusion.experiments.{name}"


def line(name: str, *words: str) -> str:
    """A command line for a user to paste, quoted for a shell.

    Args:
        name: the name of the command, e.g. "sample", or of an example, "examples.text.demo".
        *words: its arguments, e.g. "--workdir=runs/my digits".
    """
    program = ["python", "-m", name] if name.startswith(EXAMPLES) else [PROGRAM, *name.split()]
    return shlex.join([*program, *words])


def name_of(words: Sequence[str]) -> str:
    """The name of the command of ours that a command line starts, in either spelling; "" where it starts another.

    Args:
        words: e.g. ["diffusion", "train", "--workdir=..."], or ["python", "-m", "experiments.train", "--workdir=..."].
    """
    words = current(words)
    return words[1] if words[0] == PROGRAM and len(words) > 1 else ""


def current(words: Sequence[str]) -> list[str]:
    """A command line in today's spelling; earlier sweeps hold `python -m experiments.train`."""
    if list(words[:2]) == ["python", "-m"] and len(words) > 2:
        if words[2] == PROGRAM:
            return [PROGRAM, *words[3:]]
        if match := re.fullmatch(r"(?:diffusion\.)?experiments\.(\w+)", words[2]):
            return [PROGRAM, match[1], *words[3:]]
    return list(words)


def as_process(words: Sequence[str]) -> list[str]:
    """The words that start a process, from the words of a user's shell.

    `python` and `diffusion` become the interpreter of this process, with the package that this process has imported: a
    folder named `diffusion` in the current one is not taken for it.
    """
    if words[0] == "python":
        return [sys.executable, *words[1:]]
    if words[0] == PROGRAM:
        here = pathlib.Path.cwd() == PACKAGE.parent
        return [sys.executable, *([] if here else ["-P"]), "-m", PROGRAM, *words[1:]]
    return list(words)
