"""The files of the library. `experiments/` and `launch/` stand at the top of a clone; `diffusion/` links to them."""

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
