"""Floating-point operations of a forward pass by formula: matrix products alone, a multiply-add counted as two."""

from diffusion.models.dit import DiT


def flops(model: DiT, image_shape: tuple[int, int, int]) -> int:
    """Counts the operations of one forward pass of a DiT over one image.

    With N tokens of D features, hidden width M and L layers, in multiply-adds:

        each layer  N D (3 D + D)  (q, k, v, out)  +  2 N^2 D  (attention)  +  N (2 D M)  (MLP)  +  6 D^2  (modulation)
        the rest    N (p^2 C) D  +  256 D + D^2  (time)  +  2 D^2 + N D (p^2 C_out)

    A SwiGLU MLP has three matrices of 2 M / 3 instead of two of M. A train step costs three times as much.

    Args:
        model: the network.
        image_shape: height, width and channels of one image.

    Returns:
        Operations, twice the multiply-adds. (The "Gflops" of the DiT paper's tables are multiply-adds.)

    Reference: Peebles & Xie, 2023, table 4.
    """
    height, width, channels = image_shape
    n = (height // model.patch) * (width // model.patch)
    d = model.width
    pixels = model.patch**2 * channels
    if model.mlp == "swiglu":
        mlp = 3 * d * int(2 * model.mlp_ratio * d / 3)
    else:
        mlp = 2 * d * int(model.mlp_ratio * d)
    layer = n * (4 * d * d + mlp) + 2 * n * n * d + 6 * d * d
    ends = n * pixels * d + (256 * d + d * d) + 2 * d * d + n * d * pixels * (2 if model.learn_sigma else 1)
    return 2 * (model.depth * layer + ends)
