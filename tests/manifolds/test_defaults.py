"""What manifolds and their samplers are where a config says nothing."""

import inspect

import pytest

from diffusion import manifolds
from diffusion.manifolds import heat_kernels, spherical_heat, wrapped

DEFAULTS = [
    (manifolds.riemannian_flow_matching, {"premetric_steps": 10}),
    (manifolds.frame_ancestral, {"scale": 1.0, "aligned": True}),
    (manifolds.centred, {"d": 3}),
    (manifolds.frame_prior, {"scale": 1.0}),
    (manifolds.check_targets, {"margin": 1e-3}),
    (heat_kernels.sphere, {"dimension": 2}),
    (heat_kernels.torus, {"dimension": 2}),
    (heat_kernels.varadhan, {"steps": 20}),
    (wrapped.require_scale, {"turns": 1}),
]


@pytest.mark.parametrize("function, expected", DEFAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_defaults(function, expected):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in expected} == expected


def test_where_series_become_images():
    """Where each form is exact to float32: the tests of kernels and wraps rely on both sides of these."""
    assert (heat_kernels.MOST, spherical_heat.SHORT, wrapped.WRAPS) == (5, 1.0, 3)
