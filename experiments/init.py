"""Creates a new project that runs at once: config, objective, data, a test against an exact solution, and a sweep.

    diffusion init my_paper
    cd my_paper && diffusion train --config=config.py:tiny --workdir=runs/tiny

The README in the folder lists its commands. Its Python package has the name of the folder. pyproject.toml lists the
module that registers the names for configs, so every command that runs in the folder knows them.
"""

import argparse
import importlib.util
import keyword
import pathlib
import re
import sys

TEMPLATE = pathlib.Path(__file__).parent / "project_template"
SUFFIX = ".template"  # suffix of its files, so that no tool takes them for modules of this library
NAME = "PACKAGE"
# Names beside the package: files of the template, folders that commands and tools write, files that tools look for.
TAKEN = ("config", "sweep", "tests", "runs", "build", "dist", "setup", "conftest")


class InitError(ValueError):
    """A folder that cannot become a project; the message says why."""


def package_of(folder: pathlib.Path) -> str:
    """The name of a project's Python package, from the name of its folder: my_paper for "my-paper".

    Raises:
        InitError: if the name is not valid for a package, is one of `TAKEN`, or is the name of an installed module.
    """
    package = re.sub(r"[-. ]", "_", folder.absolute().name)
    if not package.isidentifier() or keyword.iskeyword(package):
        raise InitError(
            f"{folder}: {package!r} is not a valid name of a Python package. Valid: letters, digits and _, e.g. "
            "my_paper."
        )
    if package.lower() in TAKEN:  # some file systems ignore the case of names
        valid = "any other, e.g. my_paper"
        raise InitError(
            f"{folder}: {package!r} is the name of one of the project's own files or folders. Valid: {valid}."
        )
    installed = importlib.util.find_spec(package)
    if package in sys.stdlib_module_names or (installed and installed.origin):  # a folder alone has no origin
        raise InitError(
            f"{folder}: there is already a module {package!r}, which would be imported instead. Choose another name."
        )
    return package


def write(folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes the project into an empty folder, made if missing; returns the files, relative to the folder.

    Raises:
        InitError: as `package_of`; also if the folder is not empty, or is a file.
        OSError: if the folder cannot be written.
    """
    package = package_of(folder)
    if folder.exists() and not folder.is_dir():
        raise InitError(f"{folder} is a file. Choose another name; nothing was written.")
    if folder.exists() and any(folder.iterdir()):
        raise InitError(f"{folder} exists already and is not empty. Choose another folder; nothing was written.")
    written = []
    for source in sorted(TEMPLATE.rglob(f"*{SUFFIX}")):
        file = pathlib.Path(str(source.relative_to(TEMPLATE)).removesuffix(SUFFIX).replace(NAME, package))
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(source.read_text("utf-8").replace(NAME, package), "utf-8")
        written.append(file)
    return written


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="diffusion init", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path, metavar="FOLDER", help="folder of the project, new or empty")
    folder = parser.parse_args(argv).folder
    try:
        files = write(folder)
    except (InitError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InitError) else 1
    print(f"wrote {', '.join(map(str, files))}. Next: cd {folder} && less README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
