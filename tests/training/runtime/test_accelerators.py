"""A start on a machine with an NVIDIA device says so where jax has no plugin for it."""

import pathlib

import pytest

from diffusion.experiments import command_line
from diffusion.training.runtime import accelerators

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with an NVIDIA device, whose jax has no plugin."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(accelerators, "NVIDIA", (str(tmp_path / "nvidia0"),))
    monkeypatch.setattr(accelerators, "PLUGINS", ("no_such_plugin",))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    return monkeypatch


def test_an_nvidia_device_without_its_plugin_is_a_sentence_with_the_command(machine, tmp_path, capsys):
    said = accelerators.advice()
    assert str(tmp_path / "nvidia0") in said and "\n" not in said
    assert "pip install 'jax-diffusion[cuda12]'" in said and "make setup ACCELERATOR=cuda12" in said
    for module, name, value in (
        (command_line.app, "define_help_flags", None),
        (command_line, "_parse", []),
        (command_line.huge_pages, "start_anew", None),
        (command_line, "program", "diffusion train"),
    ):
        machine.setattr(module, name, lambda *words, value=value, **options: value)
    command_line.begin()
    assert capsys.readouterr().err == f"diffusion train: {said}\ndiffusion train: loading the libraries\n"


@pytest.mark.parametrize("platforms, says", [("cpu", False), ("tpu", False), ("cuda", True), ("gpu,cpu", True)])
def test_nothing_is_said_where_the_device_is_left_out(machine, platforms, says):
    machine.setenv("JAX_PLATFORMS", platforms)
    assert bool(accelerators.advice()) == says


def test_nothing_is_said_where_the_plugin_or_no_device_is_there(machine, tmp_path):
    machine.setattr(accelerators, "PLUGINS", ("no_such_plugin", "pytest"))
    assert accelerators.advice() is None
    machine.setattr(accelerators, "PLUGINS", ("no_such_plugin",))
    machine.setattr(accelerators, "NVIDIA", (str(tmp_path / "nvidia1"),))
    assert accelerators.advice() is None


def test_the_plugins_are_those_of_the_locked_extras():
    for name in ("cuda12", "cuda13"):
        assert f"jax_{name}_plugin" in accelerators.PLUGINS
        assert f"\njax-{name}-plugin==" in (ROOT / f"requirements-{name}.txt").read_text()


@pytest.mark.parametrize(
    "platforms, plugins, refused",
    [
        ("cuda", ("no_such_plugin",), True),
        ("cpu,cuda", ("no_such_plugin", "nor_this_one"), True),
        ("cuda", ("no_such_plugin", "pytest"), False),  # one of them is enough
        ("cuda", ("pytest", "no_such_plugin"), False),
        ("cpu", ("no_such_plugin",), False),
        ("tpu,cpu", ("no_such_plugin",), False),
        ("", ("no_such_plugin",), False),
    ],
)
def test_platforms_that_cannot_be_are_refused_before_jax_looks_for_them(machine, platforms, plugins, refused):
    machine.setattr(accelerators, "PLUGINS", plugins)
    machine.setenv("JAX_PLATFORMS", platforms)
    said = accelerators.refusal()
    assert (said is not None) == refused
    if refused:
        assert said.startswith(f"JAX_PLATFORMS={platforms}: jax is installed without its CUDA plugin. Valid: ")
