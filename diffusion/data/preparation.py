"""Prepares a dataset of TFDS in a separate Python environment, so that TensorFlow is never imported beside JAX.

DIFFUSION_CACHE/tfds_environment      made once, with tensorflow-datasets and tensorflow by pip
DATA_DIR/NAME/VERSION                 the dataset, as array_record
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import venv
from collections.abc import Callable
from importlib import metadata

from diffusion.data import catalog
from diffusion.io import files

READY = "diffusion_ready.json"  # written into the environment once everything is installed
DOWNLOADS = "downloads"  # the folder of TFDS's downloads, beside the datasets
SCRIPT = """
import sys
import tensorflow_datasets as tfds
builder = tfds.builder(sys.argv[1], data_dir=sys.argv[2], file_format="array_record")
builder.download_and_prepare()
"""


class PreparationFailed(RuntimeError):
    """The environment cannot be made, or the dataset cannot be prepared; the message says which."""


def requirements() -> list[str]:
    """The packages of the environment: tensorflow, and the tensorflow-datasets that later reads the dataset."""
    return [f"tensorflow-datasets=={metadata.version('tensorflow-datasets')}", "tensorflow"]


def install(python: pathlib.Path, packages: list[str]) -> None:
    """Installs packages by the pip of an environment, whose progress is shown.

    Raises:
        PreparationFailed: if pip fails.
    """
    _run([str(python), "-m", "pip", "install", *packages], f"pip could not install {' and '.join(packages)}")


def environment(
    folder: pathlib.Path, say: Callable[[str], None], install: Callable[[pathlib.Path, list[str]], None] = install
) -> pathlib.Path:
    """Makes the environment, if it is not there; returns its Python.

    Args:
        folder: the folder of the environment.
        say: a function that shows a line.
        install: a function (its Python, packages), as the function of that name.

    Raises:
        PreparationFailed: if the folder holds something else, or pip fails.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    packages = requirements()
    ready = folder / READY
    if ready.is_file() and json.loads(ready.read_text()) == packages and python.exists():
        return python
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise PreparationFailed(
            f"{folder} holds something other than a Python environment, so nothing is written there. Valid: an empty "
            "or a new folder."
        )
    say(f"{folder}: an environment of its own for {' and '.join(packages)}, made once (about 2 GB)")
    ready.unlink(missing_ok=True)
    venv.create(folder, with_pip=True, clear=folder.exists())
    install(python, packages)
    ready.write_text(json.dumps(packages))
    return python


def prepare(
    name: str,
    data_dir: str = "",
    folder: pathlib.Path | None = None,
    say: Callable[[str], None] = print,
    install: Callable[[pathlib.Path, list[str]], None] = install,
) -> pathlib.Path:
    """Prepares a dataset, if it is not there.

    Args:
        name: the dataset's name as TFDS has it, `dataset[/config][:version]`.
        data_dir: the folder of prepared datasets; "" for TFDS_DATA_DIR or ~/tensorflow_datasets.
        folder: the folder of the environment; None for the one in the cache.
        say: a function that shows a line.
        install: a function (its Python, packages), see `environment`.

    Returns:
        The folder of the dataset's version.

    Raises:
        ValueError: if the name is not valid, or belongs to a bundled dataset.
        PreparationFailed: if `data_dir` holds something else than datasets, the environment cannot be made, or TFDS
            fails.
    """
    if name.partition(":")[0] in catalog.BUNDLED:
        raise ValueError(f"{name!r} is bundled: it is made on first use, so it needs no preparation")
    root = catalog.root_of(data_dir)
    try:
        dataset_folder = catalog.find(name, str(root))
    except FileNotFoundError:
        pass
    else:
        say(f"{name} is prepared already: {dataset_folder}")
        return dataset_folder
    require_datasets(root)
    if "tensorflow" in sys.modules:
        raise PreparationFailed(
            "TensorFlow is already imported in this process, and must not be. Use the command `diffusion prepare`."
        )
    python = environment(folder or files.cache("tfds_environment"), say, install)
    say(f"{root}: {name} is prepared there by {python}; this process imports no TensorFlow")
    root.mkdir(parents=True, exist_ok=True)
    _run([str(python), "-c", SCRIPT, name, str(root.absolute())], f"TFDS could not prepare {name!r} in {root}")
    return catalog.find(name, str(root))


def require_datasets(root: pathlib.Path) -> None:
    """Refuses a folder that holds something else than prepared datasets.

    Raises:
        PreparationFailed: naming what it holds.
    """
    if not root.exists():
        return
    if not root.is_dir():
        raise PreparationFailed(f"{root} is not a folder. Valid: a folder of datasets, or an empty or new folder.")
    others = [child.name for child in sorted(root.iterdir()) if child.name != DOWNLOADS and not _is_dataset(child)]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        raise PreparationFailed(
            f"{root} holds {', '.join(others[:5])}{more}, which TFDS did not write, so nothing is written there. Name "
            "a folder of datasets, or an empty or new folder, by --data_dir."
        )


def _is_dataset(folder: pathlib.Path) -> bool:
    """Whether a folder holds versions of a dataset, or what an interrupted preparation has left of one."""
    if not folder.is_dir() or not re.fullmatch(r"\w+", folder.name):
        return False
    inside = [*folder.glob("*"), *folder.glob("*/*")]
    version = r"(incomplete\.\w+_)?\d+\.\d+\.\d+(\.incomplete\w+)?"
    return any(re.fullmatch(version, path.name) for path in inside) or not inside


def _run(words: list[str], failed: str) -> None:
    """Runs a program that shows its own progress; without the modules that this process may see."""
    without = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        status = subprocess.run(words, env=without).returncode
    except OSError as error:
        raise PreparationFailed(f"{failed}: {error}.") from error
    if status:
        raise PreparationFailed(f"{failed} (status {status}); its own output above says why.")
