"""Floating-point operations of a DiT by formula: only matrix products, a multiply-add counted as two.

With N tokens of D features, hidden width M and L layers, in multiply-adds for one image:

    each layer  N D (3 D + D)  (q, k, v, out)  +  2 N^2 D  (attention)  +  N (2 D M)  (MLP)  +  6 D^2  (modulation)
    the rest    N (p^2 C) D  +  256 D + D^2  (each time)  +  2 D^2 + N D (p^2 C_out)

A SwiGLU MLP has three matrices of 2 M / 3 instead of two of M. The strength of the guidance and the two ends of its
interval are embedded as times are; with `own_embeddings` each layer embeds them.
"""

from diffusion.models.dit import DiT


def flops(model: DiT, image_shape: tuple[int, int, int]) -> int:
    """Counts the operations of one forward pass of a DiT over one image, by the equation above.

    Args:
        model: the network.
        image_shape: height, width and channels of one image.

    Returns:
        Operations, twice the multiply-adds. (The "Gflops" of the DiT paper's tables are multiply-adds.)

    Reference: Peebles & Xie, 2023, table 4.
    """
    n = tokens(model, image_shape)
    d = model.width
    pixels = model.patch**2 * image_shape[2]
    outputs = pixels * (2 if model.learn_sigma else 1)
    embeddings = (model.times + model.strength + 2 * model.interval) * (model.depth if model.own_embeddings else 1)
    ends = n * pixels * d + embeddings * (256 * d + d * d) + 2 * d * d + n * d * outputs
    return 2 * (model.depth * (_dense(model, n) + _attention(model, n)) + ends)


def train_flops(model: DiT, image_shape: tuple[int, int, int]) -> int:
    """Counts the operations that training on one image takes: three times the forward pass.

    The backward pass of a product Y = X W is two products of its size, dY W^T and X^T dY. Model utilisation counts
    these operations (Chowdhery et al., "PaLM", 2022, appendix B), without the operations of rematerialisation.

    Args:
        model: the network.
        image_shape: height, width and channels of one image.

    Returns:
        Operations.
    """
    return 3 * flops(model, image_shape)


def recomputed_flops(model: DiT, image_shape: tuple[int, int, int]) -> int:
    """Counts the operations that the backward pass repeats for one image, by the model's `remat`.

    "full" repeats every layer. "narrow" repeats attention with its queries, keys and values, and the hidden layer of
    the MLP. "dots" repeats only the two products of attention, as its policy does not keep products with batch
    dimensions. "elementwise" and "none" repeat no product. Fused attention is not repeated by "narrow", which this
    count does not know.

    Args:
        model: the network.
        image_shape: height, width and channels of one image.

    Returns:
        Operations, beyond `train_flops`.
    """
    n = tokens(model, image_shape)
    ends = n * model.width * (model.width + hidden(model))  # outputs of attention and of the MLP, as wide as the tokens
    again = {
        "none": 0,
        "elementwise": 0,
        "dots": _attention(model, n),
        "narrow": _dense(model, n) - ends + _attention(model, n),
        "full": _dense(model, n) + _attention(model, n),
    }
    return 2 * model.depth * again[model.remat]


def tokens(model: DiT, image_shape: tuple[int, int, int]) -> int:
    """Returns the number N of tokens of one image."""
    return (image_shape[0] // model.patch) * (image_shape[1] // model.patch)


def hidden(model: DiT) -> int:
    """Returns the hidden width M of the MLP; two thirds of it for a SwiGLU."""
    hidden = model.mlp_ratio * model.width
    return int(2 * hidden / 3 if model.mlp == "swiglu" else hidden)


def _dense(model: DiT, n: int) -> int:
    """Multiply-adds of a layer's products with parameters."""
    d = model.width
    return n * (4 * d * d + (3 if model.mlp == "swiglu" else 2) * d * hidden(model)) + 6 * d * d


def _attention(model: DiT, n: int) -> int:
    """Multiply-adds of the two products of attention: queries with keys, probabilities with values."""
    return 2 * n * n * model.width
