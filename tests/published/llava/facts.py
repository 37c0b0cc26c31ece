"""Facts of Llava for the tests of all families."""

import jax.numpy as jnp

from diffusion.data.transforms import to_model
from tests.models.interchange.calls import OWN, Call


def states(apply, inputs):
    """States after every layer where the mask shows the text, those of a text without picture, and what is seen."""
    ids, mask = inputs["ids"], inputs["mask"]
    seen = apply(to_model(inputs["picture"])[None], method="see")[0]
    every = apply(ids, mask, pictures=(seen,), layers=range(4)).tokens
    found = {f"state_{i}": state * mask[..., None] for i, state in enumerate(jnp.split(every, 4, axis=-1))}
    plain = apply(ids % 50, mask).tokens * mask[..., None]
    return found | {"plain": plain, "seen": seen.reshape(-1, seen.shape[-1])}


CALLS = {"llava": Call(states, 1e-5, layouts=OWN, longer=True)}
LISTINGS = {"llava_full": "LlavaForConditionalGeneration"}
