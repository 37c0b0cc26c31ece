"""A file in the place of a command's output folder is refused before the command's work."""

import types

import pytest

from diffusion.experiments import (
    attribute,
    caption_report,
    compare,
    convert,
    edit,
    encode,
    few_steps,
    film,
    membership,
    prompt_scores,
    sample,
)
from diffusion.experiments.arena import __main__ as arena
from diffusion.experiments.prompt_benchmark import __main__ as prompt_benchmark
from diffusion.experiments.run_folder import workdir
from diffusion.recipe import ConfigError

NOTHING = {  # flags whose run, model and data do not exist
    "workdir": "none", "model": "none", "config": None, "credentials": "", "n": 1, "times": ["0.3"], "editor": "ddim",
    "prompts": "", "images": ["none"], "steps": [], "students": [], "teacher": "none",
    "autoencoder": "none", "encoder": "none", "inception": "", "source": "none", "base": "",
}  # fmt: skip


COMMANDS = (
    arena, attribute, caption_report, compare, convert, edit, encode, few_steps, film, membership, prompt_benchmark,
    prompt_scores, sample,
)  # fmt: skip


def write_to(command, out, monkeypatch):
    """Sets the flags of a command, of which only --out has a value."""
    config = types.SimpleNamespace(sample=types.SimpleNamespace())
    monkeypatch.setattr(command.flags, "FLAGS", types.SimpleNamespace(**NOTHING | {"config": config, "out": str(out)}))
    monkeypatch.setattr("sys.argv", ["diffusion"])  # which sample reads


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__.split("experiments.")[1])
def test_a_file_is_no_output_folder(command, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    write_to(command, tmp_path / "file", monkeypatch)
    with pytest.raises(ConfigError, match=r"--out=.*/file: .*/file is a file\. Valid: a folder"):
        command.main([])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__.split("experiments.")[1])
def test_the_name_of_a_file_is_no_output_folder(command, tmp_path, monkeypatch):
    """`diffusion convert --out=network.safetensors` made a folder of that name."""
    write_to(command, tmp_path / "new.safetensors", monkeypatch)
    with pytest.raises(ConfigError, match=r"--out=.*/new\.safetensors has the ending of a file.* e\.g\. .*/new\."):
        command.main([])
    (tmp_path / "new.safetensors").mkdir()  # of an earlier version
    workdir.output_folder(tmp_path / "new.safetensors")
