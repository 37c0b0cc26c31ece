"""What the processes, objectives and samplers of symbols are where a config says nothing."""

import inspect

import pytest

from diffusion import discrete

DEFAULTS = [
    (discrete.metric_path, {"scale": 3.0, "power": 1.0}),
    (discrete.line_distances, {"power": 2.0}),
    (discrete.embedded_distances, {"power": 2.0}),
    (discrete.banded_rates, {"band": 1}),
    (discrete.trained_masks, {"power": 1.0}),
    (discrete.masked_diffusion, {"chunk": 0}),
    (discrete.block_diffusion, {"block": 16}),
    (discrete.hybrid_bound, {"steps": 1000, "cross_entropy": 1.0}),
    (discrete.duo, {"temperature": 0.001}),
    (discrete.discrete_consistency, {"rounds": 5}),
    (discrete.corrected, {"corrections": 1, "size": 1.0}),
    (discrete.classifier, {"scale": 1.0, "exact": False}),
    (discrete.guided_rates, {"scale": 1.0, "exact": False}),
    (discrete.flow, {"stochasticity": 0.0}),
    (discrete.flow_rates, {"stochasticity": 0.0}),
    (discrete.theta_trapezoidal, {"theta": 0.5}),
]


@pytest.mark.parametrize("function, expected", DEFAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_defaults(function, expected):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in expected} == expected
