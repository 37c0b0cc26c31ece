"""The kinds of update that LoRA files hold for one layer, each as one or two pairs of factors (A, B).

    LoRA    W + s B A                                   lora_down, lora_up
    LoCon   W + s B (t A), a convolution                lora_down, lora_mid (the core t), lora_up
    LoHa    W + s (B A) * (B' A')                       hada_w1_b, hada_w1_a, hada_w2_b, hada_w2_a
    LoKr    W + s kron(w1, w2) = W + s (B A) * (B' A')  lokr_w1, lokr_w2, or the two factors of either
    DoRA    m (W + s D) / |W + s D|                     one of these and a vector of magnitudes

* is the product of elements. A Kronecker product is such a product too, of w1 with each element repeated and of w2
tiled, so that two pairs (A, B) hold every kind. A is [r, in, ..] and B is [out, r].

Reference: Yeh et al. 2023, "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation".
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.interchange.rows import Mismatch

Parts = Mapping[str, np.ndarray]
"""A layer's tensors by the names of `lora_names.ENDS`."""

Pair = tuple[np.ndarray, np.ndarray]
"""(A, B), [r, in, ..] and [out, r]."""


class Update(NamedTuple):
    """One layer's update.

    Attributes:
        pairs: (A, B), one or two.
        rank: r of alpha / r; None for a LoKr whose two matrices are not factored.
    """

    pairs: tuple[Pair, ...]
    rank: int | None


def update(parts: Parts, theirs: tuple[int, ...], what: str) -> Update:
    """The update of one layer.

    Args:
        parts: the layer's tensors by the names of the table in `lora_names`.
        theirs: shape of the layer's weight, [out, in, ..].
        what: the file and the layer, for the message.

    Returns:
        The pairs of factors, and the rank.

    Raises:
        Mismatch: for tensors of no kind of update, or of several kinds, and for shapes that do not fit.
    """
    names = parts.keys() - {"alpha", "dora_scale", "magnitude", "up_bias"}
    if "up_bias" in parts and (not {"down", "up"} <= names or parts.keys() & {"dora_scale", "magnitude"}):
        raise Mismatch(
            f"{what} has lora_B.bias, which is read only beside lora_A and lora_B of a LoRA without magnitudes."
        )
    for tensors, read, cores in KINDS:
        if any(set(needed) <= names <= {*needed, *cores} for needed in tensors):
            return read(parts, theirs, what)
    raise Mismatch(
        f"{what} has only {', '.join(sorted(names)) or 'alpha or magnitudes'}. Valid: down and up; hada_w1_a to "
        "hada_w2_b; or lokr_w1 and lokr_w2, each as one matrix or as its factors _a and _b."
    )


def lora(parts: Parts, theirs: tuple[int, ...], what: str) -> Update:
    """The update B A, or, with a core t of a convolution (LoCon), B (t A)."""
    down = parts["down"]
    up = parts["up"]
    core = parts.get("mid")
    if core is not None:
        point = lambda array: array.reshape(array.shape[:2]) if array.size == math.prod(array.shape[:2]) else array
        down, up = _tucker(core, point(down), point(up).T, theirs, what)
    rank = down.shape[0] if down.ndim else 0
    _require_rank(rank, theirs, what)
    if not rank or down.size != rank * math.prod(theirs[1:]) or up.size != rank * theirs[0] or up.shape[1:2] != (rank,):
        raise Mismatch(
            f"{what}: factors of shapes {list(down.shape)} and {list(up.shape)} do not fit the weight "
            f"{list(theirs)}. Valid: [r, in, ..] and [out, r, ..]."
        )
    return Update(((down, up),), rank)


def loha(parts: Parts, theirs: tuple[int, ...], what: str) -> Update:
    """The update (B A) * (B' A'), an elementwise product."""
    updates = []
    for i in (1, 2):
        up = parts[f"hada_w{i}_a"]
        down = parts[f"hada_w{i}_b"]
        core = parts.get(f"hada_t{i}")
        down, up = _tucker(core, down, up, theirs, what) if core is not None else (down, up)
        updates.append(lora({"down": down, "up": up}, theirs, what))
    return Update((*updates[0].pairs, *updates[1].pairs), updates[0].rank)


def lokr(parts: Parts, theirs: tuple[int, ...], what: str) -> Update:
    """kron(w1, w2), of w1 [a, b] and w2 [out / a, in / b, ..]; a pure function of arrays of JAX too."""
    small, small_rank = _factors(parts, 1, theirs, what)
    large, large_rank = _factors(parts, 2, theirs, what)
    (down, up), (large_down, large_up) = small, large
    (a, b), c = (up.shape[0], down[:1].size), large_up.shape[0]
    if b == 0 or a * c != theirs[0] or theirs[1] % b or large_down[:1].size != theirs[1] // b * math.prod(theirs[2:]):
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in parts.items() if name.startswith("lokr"))
        raise Mismatch(f"{what}: {shapes} do not multiply to a matrix of shape {list(theirs)}.")
    d = theirs[1] // b
    pixels = theirs[2:]
    xp: Any = jnp if any(isinstance(part, jax.Array) for part in parts.values()) else np
    spread = xp.broadcast_to(down.reshape(-1, b, 1, 1), (len(down), b, d, math.prod(pixels)))
    tiled = xp.broadcast_to(large_down.reshape(-1, 1, d, math.prod(pixels)), (len(large_down), b, d, math.prod(pixels)))
    pairs = (
        (spread.reshape(len(down), *theirs[1:]), xp.repeat(up, c, axis=0)),
        (tiled.reshape(len(tiled), *theirs[1:]), xp.tile(large_up, (a, 1))),
    )
    return Update(pairs, large_rank or small_rank)


# The tensors of a layer, the function that reads them, and the optional cores of a Tucker decomposition.
KINDS = (
    ((("down", "up"),), lora, ("mid",)),
    ((("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),), loha, ("hada_t1", "hada_t2")),
    (
        tuple(
            (*first, *second)
            for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
            for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
        ),
        lokr,
        ("lokr_t2",),
    ),
)


def magnitude(parts: Parts, theirs: tuple[int, ...], what: str) -> tuple[str, np.ndarray] | None:
    """The magnitudes of a DoRA, and their axis, "outputs" or "inputs"; None without magnitudes.

    peft's `lora_magnitude_vector` has a norm for each output. LyCORIS' `dora_scale` has one for each output, [out, 1,
    ..], or, in older files, for each input, [1, in, ..].
    """
    if "magnitude" in parts:
        values = parts["magnitude"]
        outputs = True
    elif "dora_scale" in parts:
        values = parts["dora_scale"]
        outputs = values.shape[:1] == theirs[:1]
    else:
        return None
    if values.size != theirs[0 if outputs else 1]:
        raise Mismatch(
            f"{what}: its magnitudes have the shape {list(values.shape)}. Valid: [{theirs[0]}, 1, ..], one for each "
            f"output, or [1, {theirs[1]}, ..], one for each input."
        )
    return ("outputs" if outputs else "inputs"), values.reshape(-1)


def first_rows(up: np.ndarray, theirs: tuple[int, ...], what: str) -> np.ndarray:
    """B of XLabs' queries, keys and values, [3 in, r], with zeros for the rows of the weight [out, in] that follow."""
    if up.ndim != 2 or len(up) != 3 * theirs[1] or len(up) > theirs[0]:
        raise Mismatch(
            f"{what}: the factor B of queries, keys and values, of shape {list(up.shape)}, does not fit the weight "
            f"{list(theirs)}. Valid: [{3 * theirs[1]}, r]."
        )
    return np.pad(up, ((0, theirs[0] - len(up)), (0, 0)))


def largest_rank(theirs: tuple[int, ...]) -> int:
    """The largest rank of factors that a weight [out, in, ..] may have; no update needs more than its own rank."""
    return max(theirs[0], math.prod(theirs[1:]))


def _require_rank(rank: int, theirs: tuple[int, ...], what: str) -> None:
    """Refuses a rank that no update of a weight needs: small factors of it would become large ones."""
    if rank > (most := largest_rank(theirs)):
        raise Mismatch(
            f"{what}: its factors have rank {rank}. Valid: at most {most}, the rank of the weight {list(theirs)}."
        )


def _factors(parts: Parts, i: int, theirs: tuple[int, ...], what: str) -> tuple[Pair, int | None]:
    """w_i of a LoKr as a pair, and its rank where the file has w_i in two factors."""
    product = parts.get(f"lokr_w{i}")
    if product is not None:
        product = product.reshape(len(product), -1) if product.ndim > 1 else np.empty((0, 0), np.float32)
        pair = (product, np.eye(len(product), dtype=product.dtype))
        return pair, None
    up = parts[f"lokr_w{i}_a"]
    down = parts[f"lokr_w{i}_b"]
    core = parts.get(f"lokr_t{i}")
    if core is not None:
        down, up = _tucker(core, down, up, theirs, what)
    _require_rank(len(down) if down.ndim else 0, theirs, what)
    if up.ndim != 2 or down.ndim < 2 or up.shape[1] != len(down):
        raise Mismatch(
            f"{what}: lokr_w{i}_a {list(up.shape)} and lokr_w{i}_b {list(down.shape)} do not multiply. Valid: [out, "
            "r] and [r, in]."
        )
    return (down, up), len(down)


def _tucker(core: np.ndarray, down: np.ndarray, up: np.ndarray, theirs: tuple[int, ...], what: str) -> Pair:
    """A [r, in, H, W] and B [out, r] of a convolution's core t [r, r, H, W], b [r, in] and a [r, out]."""
    if core.ndim < 3 or down.ndim != 2 or up.ndim != 2 or core.shape[:2] != (len(up), len(down)):
        raise Mismatch(
            f"{what}: a core of shape {list(core.shape)} does not fit factors of shapes {list(up.shape)} and "
            f"{list(down.shape)}. Valid: [r, r, H, W], [r, out] and [r, in]."
        )
    _require_rank(len(core), theirs, what)
    if down.shape[1] * math.prod(core.shape[2:]) > math.prod(theirs[1:]):
        raise Mismatch(
            f"{what}: a core of shape {list(core.shape)} and a factor of shape {list(down.shape)} do not fit the "
            f"weight {list(theirs)}."
        )
    return np.einsum("ij...,jn->in...", core, down), up.T
