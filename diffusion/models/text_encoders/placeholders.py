"""The tokens of pictures in the places that a text keeps for them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def in_places(ids: jax.Array, placeholder: int, pictures: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The argument `replaced` of `DecoderEncoder`: the places of the placeholders, and the pictures' tokens there.

    Args:
        ids: integers [B, N]; each row has as many placeholders as the pictures have tokens.
        placeholder: id of the tokens that are replaced.
        pictures: tokens [h, w, D] of the pictures of every text, in its order; they stand row by row.

    Returns:
        (Bool [B, N], [B, N, D]); at other places the second has no meaning.
    """
    standing = ids == placeholder
    tokens = jnp.concatenate([picture.reshape(-1, picture.shape[-1]) for picture in pictures])
    number = jnp.clip(jnp.cumsum(standing, axis=1) - 1, 0, len(tokens) - 1)
    return standing, tokens[number]
