"""What importing the library brings with it, and whether every public function says what it is."""

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys

import pytest

import diffusion

# The only places that may know a neural network library, and those that may read or draw pictures.
IMPURE = (
    "diffusion.models", "diffusion.training", "diffusion.data", "diffusion.metrics", "diffusion.text_to_image",
    "diffusion.adapters", "diffusion.published", "diffusion.recipe", "diffusion.sampling",
)  # fmt: skip


def _names():
    """The library's modules; the commands are programs, some with requirements of their own."""
    names = [module.name for module in pkgutil.walk_packages(diffusion.__path__, "diffusion.")]
    commands = ("diffusion.experiments", "diffusion.launch", "diffusion.configs")
    return [name for name in names if not name.startswith(commands)]


MATHEMATICS = ["diffusion", "diffusion.adapters.lora", *(name for name in _names() if not name.startswith(IMPURE))]


@pytest.fixture(scope="module")
def imported():
    """What a process has that imported the mathematics: the packages, and whether JAX has started."""
    code = f"""
import importlib, json, sys
for name in {MATHEMATICS!r}:
    importlib.import_module(name)
from jax._src import xla_bridge
print(json.dumps([sorted({{name.split('.')[0] for name in sys.modules}}), bool(xla_bridge._backends)]))
"""
    return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


@pytest.mark.extended
def test_the_mathematics_imports_no_framework_and_no_plots(imported):
    """The library takes callables, so nothing of Flax, TensorFlow or matplotlib is needed."""
    forbidden = {"flax", "tensorflow", "matplotlib", "torch", "orbax", "grain", "tensorflow_datasets", "sklearn"}
    assert {"jax", "diffusion"} <= set(imported[0]) and not forbidden & set(imported[0])


@pytest.mark.extended
def test_importing_the_library_does_not_start_jax(imported):
    """No array is made at import: a program may still choose its platform, and distributed JAX may still start."""
    assert imported[1] is False


def test_every_public_function_and_class_has_a_docstring():
    for name in ["diffusion", *_names()]:
        module = importlib.import_module(name)
        assert inspect.getdoc(module), f"{name} has no docstring"
        for attribute, value in vars(module).items():
            own = getattr(value, "__module__", None) == name and (inspect.isfunction(value) or inspect.isclass(value))
            if attribute.startswith("_") or not own:
                continue
            assert value.__doc__, f"{name}.{attribute} has no docstring"
            # What dataclasses and NamedTuples write by themselves is the list of fields, which says nothing.
            assert not value.__doc__.startswith(f"{attribute}("), f"{name}.{attribute} has no docstring of its own"
