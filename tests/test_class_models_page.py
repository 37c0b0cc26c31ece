"""docs/class_models.md: every line of shell and of Python runs, on small models under the names of published ones."""

import pathlib
import re

import numpy as np
import pytest

from tests import commands
from tests.test_task_pages import lines, snippets
from tests.text_to_image import made_pipelines

PAGE = pathlib.Path(__file__).parent.parent / "docs/class_models.md"
MODELS = {"DiT-XL-2-256": "class_dit", "ddpm-cifar10-32": "class_ddpm", "cd_imagenet64": "class_consistency"}


def test_the_page_names_every_command_that_takes_the_bundled_model_of_prompts():
    commands_folder = PAGE.parent.parent / "experiments"
    files = [path for path in commands_folder.rglob("*.py") if "shipped_models.folder_of_prompts(" in path.read_text()]
    takers = {path.relative_to(commands_folder).parts[0].removesuffix(".py") for path in files}
    sentence = re.search(r"`--model=drawings` selects.*?, and in the reports", PAGE.read_text(), re.DOTALL)[0]
    named = set(re.findall(r"`(?:diffusion )?(\w+)`", sentence))
    parts = {"sampling", "text"}  # of `sample`, and of the reports
    assert len(takers) > 4 and named == takers - parts | {"sample"}


@pytest.mark.slow
def test_every_line_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PAGE.parent.parent))
    for name, fixture in MODELS.items():
        made_pipelines.folder(fixture, tmp_path / name)
    for language, code in snippets(PAGE):
        for words in [["-c", code]] if language == "python" else lines(code):
            done = commands.run(*words, cwd=tmp_path, timeout=600)
            assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    for out in ("dogs_and_otters", "cifar10", "two_steps", "runs/ddpm"):
        made = np.load(tmp_path / out / "samples.npz")["images"]
        assert made.shape[0] == 2 and made.dtype == np.uint8 and np.ptp(made) > 10, out
    assert (tmp_path / "written/model_index.json").is_file()
    refused = commands.run("diffusion", "sample", "--model=cd_imagenet64", "--labels=5", cwd=tmp_path)
    assert refused.returncode == 2 and "'5' is not a class of this model. Valid: integers in 0 .. 4" in refused.stderr
