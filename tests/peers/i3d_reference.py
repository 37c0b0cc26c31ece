"""I3D in PyTorch, with made weights: what tests/metrics/test_i3d.py compares with.

It runs in the peers' environment, without this library:

    python -m tests.peers.i3d_reference tests/fixtures/i3d.safetensors

The network has its published structure and the names of piergiaj/pytorch-i3d, written from the tables of Carreira and
Zisserman (2017); the weights are those of made_weights.py, the clips are small. Padding is computed by TensorFlow's
rule; every pool pads with zeros. At the end the last block is averaged over all pixels and two steps.
"""

import sys

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from tests.peers.made_weights import drawn, made

CLIPS = {"whole": (2, 16, 32, 32, 3), "uneven": (1, 11, 45, 38, 3)}
TABLE = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}


def same(x, kernel, stride):
    """Zeros around x as TensorFlow's "same" has them: ceil(n / stride) outputs, the odd zero behind."""
    widths = []
    for length, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride)):
        total = max((-(-length // s) - 1) * s + k - length, 0)
        widths += [total // 2, total - total // 2]
    return F.pad(x, widths)


class Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs, outputs, kernel=1, stride=1):
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=0.001)

    def forward(self, x):
        return torch.relu(self.bn(self.conv3d(same(x, self.conv3d.kernel_size, self.conv3d.stride))))


class Pool(nn.Module):
    """Maxima."""

    def __init__(self, kernel, stride):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x):
        return F.max_pool3d(same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Four branches, joined."""

    def __init__(self, inputs, b0, b1a, b1b, b2a, b2b, b3b):
        super().__init__()
        self.b0 = Unit(inputs, b0)
        self.b1a, self.b1b = Unit(inputs, b1a), Unit(b1a, b1b, 3)
        self.b2a, self.b2b = Unit(inputs, b2a), Unit(b2a, b2b, 3)
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(inputs, b3b)

    def forward(self, x):
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], 1)


class Logits(nn.Module):
    """The last layer."""

    def __init__(self):
        super().__init__()
        self.conv3d = nn.Conv3d(1024, 400, 1)


class I3D(nn.Module):
    """The whole."""

    def __init__(self):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        for name, sizes in TABLE.items():
            setattr(self, name, Mixed(*sizes))
        self.logits = Logits()

    def forward(self, x):
        flat = Pool((1, 3, 3), (1, 2, 2))
        x = flat(self.Conv3d_1a_7x7(x))
        x = flat(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)))
        x = self.Mixed_3c(self.Mixed_3b(x))
        x = Pool((3, 3, 3), (2, 2, 2))(x)
        for name in ("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"):
            x = getattr(self, name)(x)
        x = Pool((2, 2, 2), (2, 2, 2))(x)
        x = self.Mixed_5c(self.Mixed_5b(x))
        x = F.avg_pool3d(x, (2, *x.shape[3:]), 1)
        return self.logits.conv3d(x)[..., 0, 0].mean(2)


def main(path: str) -> None:
    """Writes the outputs, and the names and shapes of the state as its metadata."""
    torch.set_num_threads(1)
    network = I3D().eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(made(name, tuple(tensor.shape))))
        outputs = {
            name: network(torch.from_numpy(drawn(f"i3d {name}", *shape)).permute(0, 4, 1, 2, 3))
            for name, shape in CLIPS.items()
        }
    shapes = {
        name: str(list(tensor.shape)) for name, tensor in network.state_dict().items() if tensor.is_floating_point()
    }
    save_file({name: output.contiguous() for name, output in outputs.items()}, path, metadata=shapes)


if __name__ == "__main__":
    main(*sys.argv[1:])
