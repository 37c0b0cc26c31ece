"""What the fixtures say of themselves: each was made by a command of this repository, into the folder where it lies."""

import pathlib

import safetensors

ROOT = pathlib.Path(__file__).parents[2]


def test_a_fixture_names_the_command_that_makes_it_here():
    said = {}
    for path in sorted((ROOT / "tests/fixtures").rglob("*.safetensors")):
        with safetensors.safe_open(path, "numpy") as file:
            said[path] = (file.metadata() or {}).get("command", "")
    assert any(said.values())
    for path, command in said.items():
        places = [word for word in command.split() if "/" in word]
        assert all((ROOT / place) in (path, path.parent) for place in places), f"{path.relative_to(ROOT)}: {command}"
