"""Weights made from their names, the same here and in a peer's environment, so that no fixture needs to hold them.

Each number is an integer of Philox's stream, keyed by a hash of the tensor's name, as a fraction: the same on every
machine and in every version of numpy. Matrices and kernels have the variance 1 / fan-in, scales of norms and the
variances of batch norms lie around one, all other vectors around zero.
"""

import hashlib
import math

import numpy as np

LAST, SMALL = ("conv_out.", "proj_out.", "all_final_layer.", "norm_out.linear_2.", "clf.1."), 0.1
DENOISERS = ("unet", "transformer", "transformer_2", "prior_prior", "decoder")


def made(name: str, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """The tensor of that name and shape.

    Args:
        name: as the peer's checkpoint has it.
        shape: of the tensor, output features first.
        dtype: to round to.
    """
    uniform = _uniform(name, shape)
    if len(shape) >= 2:
        values = uniform * math.sqrt(3 / max(math.prod(shape[1:]), 1))
    elif name.endswith(("weight", "running_var")):
        values = 1 + 0.2 * uniform
    else:
        values = 0.2 * uniform
    return np.asarray(values, np.float32).astype(dtype)  # an array also where it has no axis


def made_in(part: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of a part of a pipeline, such as "unet"; the last layer of a denoiser is small.

    So a trajectory follows the noise, and not the rounding.
    """
    small = part in DENOISERS and name.startswith(LAST)
    return np.asarray(made(f"{part}.{name}", shape) * np.float32(SMALL if small else 1))


def drawn(name: str, *shape: int) -> np.ndarray:
    """An input float32 of that shape, of mean 0 and variance 1, made from its name."""
    return (_uniform(f"input {name}", shape) * math.sqrt(3)).astype(np.float32)


def _uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [-1, 1) of 24 bits."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    raw = np.random.Philox(key=key).random_raw(max(math.prod(shape), 1))
    return ((raw >> np.uint64(40)).astype(np.float64) / 2**23 - 1)[: math.prod(shape)].reshape(shape)
