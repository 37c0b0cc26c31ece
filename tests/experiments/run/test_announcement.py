"""What the start of a run says: the data with its classes by name, the network's size and work, the devices."""

import jax
import numpy as np
import pytest

from diffusion.experiments import train as training
from diffusion.experiments.run import networks
from diffusion.models import MLP, DiT
from tests.data.sources import stored
from tests.experiments.run.test_every_source import config_of

pytestmark = pytest.mark.usefixtures("compilation_cache")


@pytest.mark.extended
def test_a_run_says_what_it_trains_on_what_it_trains_and_where(tmp_path, capsys):
    source = stored.class_folders(tmp_path / "photos")
    assert training.run(config_of(source, **{"train.steps": 1}), tmp_path / "run") == 0
    data, network, *_ = capsys.readouterr().out.splitlines()
    assert data == (
        f"training on photos (train): 6 pictures of 2 classes (cat, dog), 4 x 4 x 3, in {tmp_path / 'photos'}"
    )
    # By hand, with width 4: 48 -> 4; the block 4 -> 16 -> 4 and its modulation 4 -> 12; the output 4 -> 48 and its
    # modulation 4 -> 8; the time 256 -> 4 -> 4. The class is looked up. Two norms sum 4 numbers and their squares.
    products = 48 * 4 + 2 * 4 * 16 + 4 * 12 + 4 * 48 + 4 * 8 + 256 * 4 + 4 * 4
    norms = 2 * 2 * 4
    biases = 4 + (16 + 4) + 12 + 48 + 8 + (4 + 4)
    classes = 3 * 4
    parameters = products + biases + classes
    assert network == (
        f"a network of {parameters:,} parameters and {2 * (products + norms) / 1000:.3g} kFLOP an example, forward, on "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    )


def test_conditions_and_many_classes_are_named(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", x=np.zeros((12, 2)), kind=[f"k{i:02}" for i in range(12)], vector=np.zeros((12, 3)))
    from diffusion.data import sources
    from diffusion.experiments.run.examples import Examples

    said = lambda source: str(Examples(source, source.spec, (), where=source.where))
    of_kinds = sources.arrays(str(tmp_path / "a.npz"), x="x", label="kind")
    assert (
        "12 examples of 12 classes (k00, k01, k02, k03, k04, k05, k06, k07, k08, k09, ...), 2 numbers each, in"
        in said(of_kinds)
    )
    conditional = sources.arrays(str(tmp_path / "a.npz"), x="x", condition=("vector",))
    assert "12 examples, 2 numbers each, with a condition {'vector': 'float64 3'}, in" in said(conditional)


def test_the_work_of_attention_is_counted_whatever_computes_it():
    work = []
    for attention in ("matmul", "xla"):
        network = DiT(patch=2, width=8, depth=2, heads=2, num_classes=0, attention=attention)
        params = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 8, 8, 1)), np.zeros(1), None)
        work.append(networks.flops_of(network, params, (8, 8, 1), None))
    assert work[0] == work[1] > 0


def test_an_unconditional_network_of_points_has_its_work():
    network = MLP(width=4, depth=1)
    params = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 2)), np.zeros(1), None)
    assert networks.flops_of(network, params, (2,), None) == 2 * (
        2 * 4 + 2 * 4 * 16 + 4 * 12 + 4 * 2 + 4 * 8 + 256 * 4 + 4 * 4 + 2 * 2 * 4
    )
