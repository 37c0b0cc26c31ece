"""Which layers of FLUX.1 have which residual of a ControlNet."""

import numpy as np
import pytest

from diffusion.published.flux.control_net import FluxControlNet
from diffusion.published.flux.network import Flux

BASE = Flux(3, 3, 12, 5, 4, 2, 5, 4, (2, 2, 2))


@pytest.mark.parametrize(("pixels", "joint"), [(0, [0, 0, 0, 1, 1]), (2, [0, 1, 0, 1, 0])])
def test_residuals_are_spread_over_the_layers_and_those_of_pixels_take_turns(pixels, joint, monkeypatch):
    """As diffusers does: i // ceil(5 / 2) for layer i of five, and i mod 2 for XLabs's ControlNets."""
    outputs = (np.float32(0), np.float32(1)), (np.float32(2), np.float32(3))
    monkeypatch.setattr(FluxControlNet, "apply", lambda module, variables, *arguments: outputs)
    module = FluxControlNet(BASE.clone(depth=2, singles=2), 2, 2, pixels=pixels)
    nothing = np.zeros(1, np.float32)
    found = module.residuals({}, BASE, nothing, nothing, {"text": nothing, "pooled": nothing}, nothing)
    assert [list(map(float, residuals)) for residuals in found] == [joint, [2, 2, 3, 3]]
