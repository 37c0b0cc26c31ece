"""Facts of Qwen 2.5 VL for the tests of all families."""

import jax.numpy as jnp

from diffusion.data.transforms import to_model
from tests.models.interchange.calls import OWN, Call


def tower(apply, inputs):
    """The tokens of each picture, row by row."""
    tokens = {name: apply(to_model(picture)[None])[0] for name, picture in inputs.items()}
    return {name: one.reshape(-1, one.shape[-1]) for name, one in tokens.items()}


def whole(apply, inputs):
    """States after every layer where the mask shows the text, and those of a text without pictures."""
    pictures = tuple(apply(to_model(inputs[f"picture_{i}"])[None], method="see")[0] for i in range(2))
    ids, mask = inputs["ids"], inputs["mask"]
    states = apply(ids, mask, pictures=pictures, layers=range(4)).tokens
    found = {f"state_{i}": state * mask[..., None] for i, state in enumerate(jnp.split(states, 4, axis=-1))}
    return found | {"plain": apply(ids % 40, mask).tokens * mask[..., None]}


CALLS = {
    "qwen_vl_vision": Call(tower, 1e-5, layouts=OWN, longer=True),
    "qwen_vl": Call(whole, 1e-5, layouts=OWN, slow=True, longer=True),
}
LISTINGS = {"qwen_vl_full": "Qwen2_5_VLModel"}
