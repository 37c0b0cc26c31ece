"""The autoencoder of a trained decoder: the run's own encoder, and statistics of its training pictures."""

import types

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.experiments.sampling import encoder_features, representation_autoencoders
from diffusion.recipe import ConfigError


class Source:
    """Pictures whose value is their row."""

    def __init__(self, number):
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, row):
        return {"image": np.full((2, 2, 1), row % 256, np.uint8)}


def batches(monkeypatch, number, most=10_000, size=64):
    splits = []
    monkeypatch.setattr(representation_autoencoders, "MEASURED", most)
    monkeypatch.setattr(representation_autoencoders, "BATCH", size)
    monkeypatch.setattr(
        representation_autoencoders.data, "source", lambda config, split: splits.append(split) or Source(number)
    )
    made = list(representation_autoencoders._pictures({"data": {"split": "train[:9]"}}))
    assert splits == ["train[:9]"]
    return [batch[:, 0, 0, 0].tolist() for batch in made]


@pytest.mark.parametrize(
    "number, most, rows", [(5, 9, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (101, 5, [0, 25, 50, 75, 100]), (1, 5, [0])]
)
def test_pictures_are_evenly_spaced_over_all(monkeypatch, number, most, rows):
    assert np.concatenate(batches(monkeypatch, number, most)).tolist() == rows


def test_pictures_come_in_batches(monkeypatch):
    assert [len(batch) for batch in batches(monkeypatch, 7, size=3)] == [3, 3, 1]


# ==== The autoencoder ====


class Encoder(nn.Module):
    patch: int = 2
    channels: int = 1

    @nn.compact
    def __call__(self, x):
        return x * self.param("w", nn.initializers.ones, (x.shape[-1],))


@pytest.fixture
def run(monkeypatch):
    """What stands for the autoencoder, whose features are those of the encoder; the weights in its file."""
    weights = {"w": np.array([3.0], np.float32)}
    encoder = types.SimpleNamespace(path="E", module=Encoder(), channels=1)
    monkeypatch.setattr(representation_autoencoders, "Resolver", lambda config: types.SimpleNamespace(encoder=encoder))
    monkeypatch.setattr(
        encoder_features.warm_start, "read", lambda path: {f"params/{k}": v for k, v in weights.items()}
    )

    class Autoencoder:
        def __init__(self, encoder, decoder):
            self.parts = (encoder, decoder)

        def apply(self, variables, x, method):
            assert method == "features"
            return Encoder().apply({"params": variables["params"]["encoder"]}, x)

    seen = []

    def with_statistics(module, params, mean, std):
        seen.append((mean, std))
        return module, params

    monkeypatch.setattr(representation_autoencoders, "AutoencoderRAE", Autoencoder)
    monkeypatch.setattr(representation_autoencoders.autoencoder_rae, "with_statistics", with_statistics)
    monkeypatch.setattr(representation_autoencoders.data, "source", lambda config, split: Source(4))
    return encoder, weights, seen


CONFIG = {"data": {"split": "train"}}


def test_statistics_are_of_the_encoder_s_features_of_training_pictures(run):
    """Pictures of value v in bytes are v / 127.5 - 1, and the encoder has three times that."""
    encoder, _, seen = run
    module, params = representation_autoencoders.build_autoencoder("decoder", "its parameters", CONFIG)
    assert module.parts == (encoder.module, "decoder") and params["decoder"] == "its parameters"
    np.testing.assert_array_equal(params["encoder"]["w"], [3])
    ((mean, std),) = seen
    features = 3 * (np.arange(4) / 127.5 - 1)
    np.testing.assert_allclose(mean, np.full((2, 2, 1), features.mean()), atol=1e-5)
    np.testing.assert_allclose(std, np.full((2, 2, 1), features.std()), rtol=1e-4)


def test_an_encoder_that_is_in_no_file_or_another_is_refused(run, monkeypatch):
    encoder, weights, _ = run
    digest = encoder_features.digest({"params/w": weights["w"]})
    representation_autoencoders.build_autoencoder("decoder", None, CONFIG, digest)
    with pytest.raises(ConfigError, match="holds another encoder than the one that the run was trained with"):
        representation_autoencoders.build_autoencoder("decoder", None, CONFIG, "0" * 64)
    weights["v"] = jnp.zeros(2)
    with pytest.raises(ConfigError, match=r"config\.encoder\.path = 'E' holds another encoder: .*v"):
        representation_autoencoders.build_autoencoder("decoder", None, CONFIG)
    encoder.path = ""
    with pytest.raises(ConfigError, match="has initial weights, which no file stores"):
        representation_autoencoders.build_autoencoder("decoder", None, CONFIG)
    encoder.path = "E"

    def gone(path):
        raise FileNotFoundError("no E")

    monkeypatch.setattr(encoder_features.warm_start, "read", gone)
    with pytest.raises(ConfigError, match=r"config\.encoder\.path = 'E': no E"):
        representation_autoencoders.build_autoencoder("decoder", None, CONFIG)
