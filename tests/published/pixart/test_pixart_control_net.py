"""What PixArt's ControlNet reads of its base."""

import flax.linen as nn
import numpy as np

from diffusion.published.pixart import network
from diffusion.published.pixart.control_net import PixArtControlNet
from diffusion.published.pixart.network import PixArt
from tests.models.dit_oracle import gelu, silu
from tests.published.equations import applied, close, dense, normal, patches, timestep

SHOWN = np.array([[True, False, True], [True, True, True]])


class Step(nn.Module):
    """A layer that is small to trace: it adds a vector to the tokens."""

    heads: int
    mlp_ratio: float
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x, c, text, bias, masks):
        return x + self.param("step", nn.initializers.ones, x.shape[-1:]), None


def test_it_reads_the_tokens_after_the_first_layer_of_its_base_and_embedded_latents(monkeypatch):
    """And the vectors of the time, the text and its mask as the base's layers read them."""
    base = PixArt((4, 4, 3), 2, 12, 2, 2, 5, learn_sigma=False)
    x, seen, t = normal(2, 4, 6, 3), normal(2, 4, 6, 3), np.float32([30, 800])
    condition = {"text": normal(2, 3, 5), "text_mask": SHOWN}
    monkeypatch.setattr(network, "PixArtBlock", Step)
    monkeypatch.setattr(PixArtControlNet, "apply", lambda module, variables, *inputs: inputs)

    class Read:
        """What the ControlNet reads, by the parameters of the base."""

        init = staticmethod(base.init)

        @staticmethod
        def apply(variables, *inputs):
            return PixArtControlNet(1, 12, 2).residuals({}, base, *inputs, seen, variables["params"])

    p, (tokens, embedded, c, words, bias) = applied(Read, x, t, condition)
    np.testing.assert_array_equal(np.exp(bias).reshape(2, 3) > 0.5, SHOWN)
    positions = []
    for b in range(2):
        of_x, of_seen = (dense(p["patch_embedding"], patches(np.float64(a[b]))) for a in (x, seen))
        positions += [tokens[b] - p["blocks"]["step"][0] - of_x, embedded[b] - of_seen]
        embedding = timestep(p["timestep_embedding"], np.float64(t[b]))
        close(c[b], dense(p["modulation"], silu(embedding)))
        close(words[b], dense(p["text_out"], gelu(dense(p["text_hidden"], np.float64(condition["text"][b])))))
    np.testing.assert_allclose(positions[1:], [positions[0]] * 3, atol=1e-5)
    np.testing.assert_allclose(positions[0][0], [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3, atol=1e-5)  # the upper left
