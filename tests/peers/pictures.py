"""Images and weights that two programs make alike, each for itself, from NumPy alone."""

import zlib

import numpy as np

KINDS = 5


def pictures(count: int, side: int = 299) -> np.ndarray:
    """Gradients, stripes, a disc, blocks and noise, uint8 [count, side, side, 3]; equal in every program."""
    y, x = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    made = np.empty((count, side, side, 3), np.uint8)
    for i in range(count):
        random = np.random.RandomState(i)  # its numbers never change
        tint = random.randint(64, 256, 3)
        kind = i % KINDS
        if kind == 0:
            level = (x * (i + 1) + y * 2) * 255 // ((i + 3) * side)
        elif kind == 1:
            level = ((x + i * y) // (3 + i) % 2) * 255
        elif kind == 2:
            level = ((x - side // 2) ** 2 + (y - side // 3) ** 2 < (side // 4 + i) ** 2) * 255
        elif kind == 3:
            level = np.kron(random.randint(0, 256, (8, 8)), np.ones((side // 8 + 1,) * 2, int))[:side, :side]
        else:
            level = random.randint(0, 256, (side, side))
        made[i] = level[..., None] * tint // 255
    return made


def enlarge(images: np.ndarray, side: int = 299) -> np.ndarray:
    """Bilinear in float32, between pixel centres, clamped at the border: [N, H, W, 3] -> float32 [N, side, side, 3]."""
    x = images.astype(np.float32)
    for axis in (1, 2):
        size = x.shape[axis]
        place = np.clip((np.arange(side) + 0.5) * size / side - 0.5, 0, size - 1)
        low = np.minimum(place.astype(int), size - 1)
        part = (place - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(4)])
        x = x.take(low, axis) * (1 - part) + x.take(np.minimum(low + 1, size - 1), axis) * part
    return x


def scaled(images: np.ndarray) -> np.ndarray:
    """As the graph of TensorFlow scales its input: (byte - 128) / 128, float32."""
    return (images.astype(np.float32) - 128) / 128


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The made-up tensor of this name, as pytorch-fid names it, at scales that keep the activations near one."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if name.endswith(".bn.weight"):
        return np.ones(shape, np.float32)
    scale = np.sqrt((1 if name.startswith("fc") else 2) / np.prod(shape[1:])) if len(shape) > 1 else 0.1
    return (scale * random.standard_normal(shape)).astype(np.float32)
