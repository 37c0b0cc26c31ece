"""Rooms of published families: their tables are read by the floors below; a new room is its folder and one line."""

import importlib
import inspect
import re
import subprocess
import sys

import pytest

from diffusion import published
from diffusion.models import MODELS, interchange, rooms
from diffusion.text_to_image import pipelines

READERS = ("llava", "qwen_vl")  # the rooms of text encoders, which make no pictures
ROOMS = [name for name in published.__all__ if hasattr(getattr(published, name), "__path__") and name not in READERS]


def test_a_room_is_its_folder_and_one_line(tmp_path, monkeypatch):
    package = tmp_path / "house"
    for room in ("one", "two"):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").write_text("")
    (package / "__init__.py").write_text("__all__ = ['one', 'plain', 'two']")
    (package / "plain.py").write_text("KINDS = {'no room': 0}")
    (package / "one" / "pipeline.py").write_text("KINDS = {'a': 1}")
    (package / "one" / "edits_pipeline.py").write_text("KINDS = {'b': 2}")
    (package / "one" / "pipelines.py").write_text("KINDS = {'c': 3}")
    (package / "two" / "pipeline.py").write_text("OTHERS = {'d': 4}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(rooms, "PLACE", "house")
    entries = rooms.Entries("pipeline", "KINDS", {"e": 5})
    assert dict(entries) == {"e": 5, "a": 1, "b": 2}
    entries["f"] = 6  # of a user
    assert list(entries) == ["b", "a", "e", "f"]


@pytest.mark.parametrize("name", ROOMS)
def test_every_room_has_a_table_and_a_pipeline_with_its_conditions(name):
    table, pipeline = (importlib.import_module(f"diffusion.published.{name}.{part}") for part in ("table", "pipeline"))
    assert table.FAMILIES.items() <= dict(interchange.FAMILIES).items()
    assert pipeline.KINDS.items() <= dict(pipelines.KINDS).items()
    functions = {
        value
        for function, value in inspect.getmembers(pipeline, inspect.isfunction)
        if value.__module__ == pipeline.__name__ and not function.startswith("_")
    }
    assert {kind.prompts.condition for kind in pipeline.KINDS.values()} <= functions
    source = inspect.getsource(pipeline)
    assert [f.__name__ for f in functions if len(re.findall(rf"\b{f.__name__}\b", source)) < 2] == []  # no kind uses it


@pytest.mark.parametrize("name", [*ROOMS, *READERS])
def test_a_network_of_every_room_is_compared_with_its_peer(name):
    facts = importlib.import_module(f"tests.published.{name}.facts")
    assert facts.CALLS


@pytest.mark.parametrize(
    "package, name, home",
    [
        ("models", "Lumina2", "diffusion.published.lumina2"),
        ("models", "ConditionalUNet", "diffusion.published.stable_diffusion"),
        ("text", "stable_diffusion_xl", "diffusion.published.stable_diffusion.pipeline"),
    ],
)
def test_a_name_that_moved_into_a_room_is_found_where_it_was_with_a_warning(package, name, home):
    package = importlib.import_module(f"diffusion.{package}")
    with pytest.warns(DeprecationWarning, match=f"^{package.__name__}.{name} is now {home}.{name}$"):
        assert getattr(package, name) is getattr(importlib.import_module(home), name)
    assert name not in package.__all__ and name not in dir(package)


def test_a_network_of_a_room_keeps_its_name_in_configs():
    assert published.lumina2.Lumina2 is MODELS["lumina2"]
    assert published.stable_diffusion.ConditionalUNet is MODELS["conditional_unet"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ROOMS)
def test_a_room_can_be_imported_first(name):
    """Before the floors that read it, which it imports."""
    code = f"from diffusion.published.{name} import pipeline, table; assert table.FAMILIES and pipeline.KINDS"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_module_that_moved_into_a_room_is_imported_by_its_old_name_with_a_warning():
    sys.modules.pop("diffusion.models.z_image", None)
    words = r"diffusion\.models\.z_image is now diffusion\.published\.z_image\.network"
    with pytest.warns(DeprecationWarning, match=words):
        module = importlib.import_module("diffusion.models.z_image")
    assert module is published.z_image.network and module.__spec__.name == "diffusion.published.z_image.network"
