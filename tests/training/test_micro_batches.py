"""The rule that cuts a step's batch."""

import jax
import pytest
from jax.sharding import AbstractMesh, Mesh

from configs import digits
from diffusion.training import micro_batches, sharding
from experiments import resolve


@pytest.mark.parametrize(
    ("batch_size", "block", "expected"), [(64, 1, 4), (2, 1, 1), (66, 1, 1), (64, 16, 4), (64, 32, 1)]
)
def test_a_cpu_takes_four_parts_where_they_divide(batch_size, block, expected):
    assert micro_batches.number(batch_size, Mesh(jax.devices()[:1], "data"), block) == expected


@pytest.mark.parametrize(
    ("platform", "devices", "expected"), [("cpu", 1, 4), ("gpu", 1, 1), ("tpu", 1, 1), ("cpu", 2, 1)]
)
def test_accelerators_and_several_devices_take_the_batch_whole(monkeypatch, platform, devices, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert micro_batches.number(64, AbstractMesh((devices,), ("data",))) == expected


def test_a_config_names_the_number_or_leaves_it_to_the_rule():
    one = sharding.make_mesh({"data": 1}, jax.devices()[:1])
    config = digits.get_config()
    assert resolve.micro_batches(config, one) == 4
    config.train.accumulate = 2
    assert resolve.micro_batches(config, one) == 2
    config.train.accumulate = 0
    config.objective["coupling"] = {"name": "optimal_transport", "block": 32}
    assert resolve.micro_batches(config, one) == 1
