"""Every family of checkpoints: the outputs are the peer's, what is written is what was read, sizes are the published.

The fixtures are written by the peer libraries themselves (`make fixtures`, tests/peers/cases.py); a new network is one
line in CALLS, at its published size one line in LISTINGS.
"""

import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from diffusion.models import interchange
from diffusion.models.interchange import folders, rows
from tests.models.interchange import published

# (apply, inputs) -> outputs, by the names of the fixture; `apply` is the module's, with the loaded parameters.
CALLS = {
}
FAST = ()  # whose outputs are compared in the fast suite; round trips and listings always are
# the family of a listing: names and shapes at the published size
LISTINGS = {
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in CALLS])
def test_outputs_are_the_peers(name, tmp_path):
    case = published.case(name)
    module, params = interchange.load(case.folder(tmp_path))
    network = lambda params: lambda *arguments, **named: module.apply({"params": params}, *arguments, **named)
    outputs = jax.jit(lambda params, inputs: CALLS[name](network(params), inputs))(params, case.inputs)
    assert outputs.keys() == case.outputs.keys()
    for key, expected in case.outputs.items():
        assert outputs[key].shape == expected.shape
        assert np.abs(expected).max() > 0.05, "an output of zeros compares nothing"
        np.testing.assert_allclose(outputs[key], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", CALLS)
def test_what_is_written_is_what_was_read(name, tmp_path):
    case = published.case(name)
    module, params = interchange.load(case.folder(tmp_path / "theirs"))
    interchange.save(tmp_path / "ours", module, params)
    (file,) = (tmp_path / "ours").glob("*.safetensors")
    written, read = load_file(file), case.tensors()
    ignored = interchange.FAMILIES[folders.family_of(case.config, tmp_path)].ignored
    kept = {key for key in read if not any(re.fullmatch(pattern, key) for pattern in ignored)}
    assert written.keys() == kept
    for key in kept:
        np.testing.assert_array_equal(written[key], read[key], err_msg=key)
    again, _ = interchange.load(tmp_path / "ours")
    assert again == module
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    known = {key: value for key, value in case.config.items() if key in config and not key.startswith("_")}
    assert {key: config[key] for key in known} == known


@pytest.mark.parametrize("name", LISTINGS)
def test_the_published_size_has_the_published_names_and_shapes(name):
    config, shapes = published.listing(name)
    family = interchange.FAMILIES[LISTINGS[name]]
    module = family.build(config)
    leaves = folders.leaves_of(folders.shapes_of(family, module))
    table = family.tables[next(iter(family.tables))](module)
    rows.check_cover(table, leaves)
    expected = rows.their_shapes(table, leaves)
    expected |= {key: array.shape for key, array in (family.computed(module) if family.computed else {}).items()}
    ignored = lambda key: any(re.fullmatch(pattern, key) for pattern in family.ignored)
    assert expected == {key: shape for key, shape in shapes.items() if not ignored(key)}
