"""What we export, opened by the library it is for: the same outputs. Live: under `make test-peers` alone.

The case of a network (tests/peers/families) says how the library calls it; CALLS of
tests/models/interchange/test_families.py say how we do, and in which layouts of the names it opens what we write.
"""

import json
import os
import pathlib
import re
import subprocess

import jax
import numpy as np
import pytest
import safetensors

from diffusion.models import interchange
from diffusion.models.interchange import folders
from tests.models.interchange import published
from tests.models.interchange.test_families import CALLS

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = ROOT / ".venv-peers/bin/python"
# the case, and the layout of the names where it is not the library's own
EXPORTS = [f"{name},{layout}".removesuffix(",") for name, call in CALLS.items() for layout in call.layouts]
live = pytest.mark.skipif(not os.environ.get("PEERS_FIXTURES"), reason="opened by the libraries in make test-peers")


def export(name: str, place: pathlib.Path) -> None:
    """Writes the network of a case, with numbers that no file of theirs has had, and its outputs beside."""
    name, _, layout = name.partition(",")
    case = published.case(name)
    call = CALLS[name]
    module, params = interchange.load(case.folder(place.with_name(place.name + " as read")), call.family)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf * rng.uniform(0.9, 1.1, leaf.shape).astype(leaf.dtype), params)
    family = call.family or folders.family_of(case.config, place)
    interchange.save(place, module, params, layout=layout, family=family)
    network = lambda *arguments, **named: module.apply({"params": params}, *arguments, **named)
    np.savez(f"{place}.npz", **jax.jit(lambda inputs: call.outputs(network, inputs))(case.inputs))


@pytest.fixture(scope="module")
def place(tmp_path_factory, request):
    """A folder with the exports of the tests that run, and with what we and what the libraries put out."""
    place = tmp_path_factory.mktemp("exports")
    (place / "ours").mkdir()
    opens = "test_the_library_opens_what_we_write"
    for name in [item.callspec.params["name"] for item in request.session.items if item.originalname == opens]:
        export(name, place / name)
        (place / name).rename(place / "ours" / name)
    subprocess.run([PYTHON, "-m", "tests.peers.opened", place / "ours"], cwd=ROOT, check=True)
    return place


@live
@pytest.mark.parametrize("name", EXPORTS)
def test_the_library_opens_what_we_write(place, name):
    ours = np.load(place / f"{name}.npz")
    with safetensors.safe_open(place / "ours" / f"{name}.safetensors", framework="numpy") as file:
        loading = file.metadata()
        theirs = {key: file.get_tensor(key) for key in file.keys()}
    config = json.loads((place / "ours" / name / "config.json").read_text())
    ignored = interchange.FAMILIES[config.get("_class_name") or config["architectures"][0]].ignored
    for kind, names in loading.items():
        counted = [one for one in json.loads(names) if not any(re.fullmatch(pattern, one) for pattern in ignored)]
        assert not counted, f"{kind}: {counted}"
    assert theirs.keys() == set(ours.files)
    within = CALLS[name.partition(",")[0]].within  # what is exported differs as much as what is read
    for key, expected in theirs.items():
        assert np.abs(expected).max() > 0.05, "an output of zeros compares nothing"
        np.testing.assert_allclose(ours[key], expected, rtol=0, atol=within * np.abs(expected).max(), err_msg=key)
