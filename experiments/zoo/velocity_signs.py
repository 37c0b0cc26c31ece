"""Parameters of networks that predict a velocity of the other sign, as networks whose output is our velocity."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def toward_noise(network: nn.Module, params: Any) -> Any:
    """The parameters of SiT or LightningDiT as a network whose output is our velocity.

    The first C channels of the authors' output are the velocity from the noise to the data, and ours is the velocity
    from the data to the noise. So the first C outputs of each pixel in the last layer remain, negated; SiT's last layer
    has C others, which are left out.

    Args:
        network: ours, with C channels.
        params: the parameters in the file.

    Reference: willisma/SiT, transport/path.py (x_t = t x_1 + (1 - t) x_0, x_0 the noise) and models.py;
    hustvl/LightningDiT, which has the same transport.
    """

    def ours(leaf):
        pixels = leaf.reshape(*leaf.shape[:-1], network.patch**2, -1)
        return -pixels[..., : network.shape[-1]].reshape(*leaf.shape[:-1], -1)

    final = {name: jnp.asarray(ours(leaf)) for name, leaf in params["final"].items()}
    return {**params, "final": final}


def negated(network: nn.Module, params: Any) -> Any:
    """The parameters of DDT or PixNerd as a network whose output is our velocity, the negative of theirs.

    Reference: MCG-NJU/DDT, stateful_flow_matching/training_repa.py (x_t = t x + (1 - t) noise, v = x - noise).
    """
    return {**params, "final": jax.tree.map(jnp.negative, params["final"])}
