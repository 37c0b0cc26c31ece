"""The files of the library, whose `diffusion/` links to `experiments/` and `launch/`; and of the examples."""

import glob
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
RECIPES = ROOT / "diffusion" / "configs"


def library_files() -> list[pathlib.Path]:
    """Every Python file below diffusion/ in order, those of its linked folders too, without the recipes.

    `glob` follows links to folders, which `pathlib` does not.
    """
    paths = map(pathlib.Path, glob.glob(f"{ROOT}/diffusion/**/*.py", recursive=True))
    return sorted(path for path in paths if RECIPES not in path.parents)


def example_files() -> list[pathlib.Path]:
    """Every Python file below examples/, in order."""
    return sorted((ROOT / "examples").rglob("*.py"))
