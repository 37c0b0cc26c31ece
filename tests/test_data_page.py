"""docs/data.md: its Python runs from top to bottom, on folders such as it describes, and its commands name sources."""

import ast
import json
import pathlib
import re
import shlex

import numpy as np
import pytest

from diffusion.recipe import names
from tests.data.made import png
from tests.data.sources import stored

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "data.md").read_text()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """photos/, more_photos/, drawings/ and shards/, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    stored.class_folders(tmp_path / "photos")
    stored.class_folders(tmp_path / "more_photos")
    stored.tar_shards(tmp_path / "shards")
    (tmp_path / "drawings/masks").mkdir(parents=True)
    lines = ["file_name,caption,kind,mask_file_name"]
    for k, caption in enumerate(["a red house", "a red tree", "a blue tree"]):
        (tmp_path / "drawings" / f"{k}.png").write_bytes(png(stored.PICTURES[k]))
        (tmp_path / "drawings/masks" / f"{k}.png").write_bytes(png(np.full((4, 4), 255, np.uint8)))
        lines.append(f"{k}.png,{caption},{caption.split()[-1]},masks/{k}.png")
    (tmp_path / "drawings/metadata.csv").write_text("\n".join(lines))


def test_the_page_runs(folders):
    namespace: dict = {}
    parts = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(parts) >= 7
    for part in parts:
        exec(part, namespace)


def test_every_source_that_a_config_can_name_is_on_the_page():
    assert [name for name in names.SOURCES if f"`{name}`" not in PAGE and f'"{name}"' not in PAGE] == []
    for entry in re.findall(r"--config\.data\.source='([^']+)'", PAGE):
        assert json.loads(entry)["name"] in names.SOURCES
    assert all(ast.parse(part) for part in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    assert all(shlex.split(part) for part in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
