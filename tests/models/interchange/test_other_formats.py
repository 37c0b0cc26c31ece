"""Checkpoints of PyTorch's and Flax's own formats, and REPA's SiT, whose projectors are left out."""

import pathlib
import re
import warnings

import flax.serialization
import flax.traverse_util
import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file, save_file

from diffusion.io import limits
from diffusion.io.leaf_names import leaves_of
from diffusion.models import DiT, interchange
from diffusion.models.interchange import families, flax_files, folders, tensor_files
from tests.metrics import torch_writer as writer

SIT = DiT(2, 16, 9, 2, 3, shape=(4, 4, 4))
CONFIG = {"input_size": 4, "hidden_size": 16, "depth": 9, "num_heads": 2, "num_classes": 3, "learn_sigma": False}


@pytest.fixture(scope="module")
def sit():
    """Parameters of a small SiT."""
    rng = np.random.default_rng(0)
    shapes = folders.shapes_of(interchange.FAMILIES["DiT"], SIT)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def named(params, folder, layout="original"):
    """The tensors of a file of the authors."""
    interchange.save(folder, SIT, params, layout=layout, family="DiT")
    return load_file(folder / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("layout", ["original", "legacy"])
def test_a_sit_of_repa_is_read_without_its_projectors(sit, tmp_path, layout):
    tensors = named(sit, tmp_path / "ours", layout)
    assert ("decoder_blocks.0.attn.qkv.weight" in tensors) == (layout == "legacy")
    projectors = {f"projectors.0.{i}.{kind}": np.ones(1, np.float32) for i in (0, 2, 4) for kind in ("weight", "bias")}
    save_file(tensors | projectors, tmp_path / "repa.safetensors")
    with pytest.warns(UserWarning, match=r"repa\.safetensors: 6 tensors are not read: the projectors of rep"):
        module, params = interchange.load(tmp_path / "repa.safetensors", "DiT", config=CONFIG)
    assert module == SIT
    jax.tree.map(np.testing.assert_array_equal, params, sit)


def nested(networks):
    """(pickle of a dictionary of state dictionaries, storages)."""
    arrays = [array for tensors in networks.values() for array in tensors.values()]
    keys = iter(range(len(arrays)))
    body = writer.dictionary(
        {
            part: writer.dictionary({n: writer.tensor(str(next(keys)), a.dtype, a.shape) for n, a in tensors.items()})
            for part, tensors in networks.items()
        }
    )
    return writer.whole(body), [array.tobytes() for array in arrays]


def test_the_average_of_a_pytorch_checkpoint_is_read(sit, tmp_path):
    average = named(sit, tmp_path / "ours")
    other = {name: array + 1 for name, array in average.items()}
    writer.archive(tmp_path / "0100000.pt", *nested({"model": other, "ema": average}))
    module, params = interchange.load(tmp_path / "0100000.pt", "DiT", config=CONFIG)
    assert module == SIT
    jax.tree.map(np.testing.assert_array_equal, params, sit)
    writer.archive(tmp_path / "plain.pt", *writer.state(other))
    plain = tensor_files.open_tensors(tmp_path / "plain.pt")
    np.testing.assert_array_equal(plain.read("pos_embed"), other["pos_embed"])
    writer.archive(tmp_path / "model.pt", *nested({"model": other}))
    assert tensor_files.open_tensors(tmp_path / "model.pt").shapes.keys() == other.keys()
    ldm = {"model.diffusion_model.0.weight": np.ones(2, np.float32), "first_stage_model.a": np.ones(2, np.float32)}
    writer.archive(tmp_path / "ldm.ckpt", *writer.state(ldm))
    assert tensor_files.open_tensors(tmp_path / "ldm.ckpt").shapes.keys() == ldm.keys()


TREE = {
    "step": 7,
    "ema_params": {"net": {"a_0": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}}},
    "half": np.asarray([1.5, -2], ml_dtypes.bfloat16),
}


def test_a_checkpoint_of_flax_is_read(tmp_path):
    path = tmp_path / "checkpoint_100"
    path.write_bytes(flax.serialization.msgpack_serialize(TREE))
    tensors = tensor_files.open_tensors(path)
    assert dict(tensors.shapes) == {"ema_params.net.a_0.kernel": (2, 3), "half": (2,)}
    inner = tensors.under("ema_params.net.")
    np.testing.assert_array_equal(inner.read("a_0.kernel"), TREE["ema_params"]["net"]["a_0"]["kernel"])
    assert tensors.read("half").dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("damage", ["truncated", "garbage", "list", "numbers for names", "shape"])
def test_damaged_checkpoints_of_flax_are_refused(tmp_path, damage):
    whole = flax.serialization.msgpack_serialize(TREE)
    content = {
        "truncated": whole[:-3],
        "garbage": b"\xc1" + whole,
        "list": flax.serialization.msgpack_serialize([1, 2]),
        "numbers for names": flax.serialization.msgpack_serialize({"params": {1: np.ones(2, np.float32)}}),
        "shape": whole.replace(b"\x92\x02\x03", b"\x92\x02\x7f"),
    }[damage]
    assert content != whole
    (tmp_path / "a.msgpack").write_bytes(content)
    with pytest.raises(limits.Refused, match=re.escape("a.msgpack is")):
        tensor_files.open_tensors(tmp_path / "a.msgpack")


def test_a_folder_of_orbax_is_refused_by_what_its_arrays_take(tmp_path, monkeypatch):
    """Zeros are compressed: the folder is a hundredth of its arrays."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint_7", {"a": np.zeros((512, 1024), np.float32)})
    monkeypatch.setattr(limits, "memory", lambda: 2**20)
    with pytest.raises(limits.Refused, match=r"^\S+/checkpoint_7 declares 2 MiB, and this machine has 1 MiB of memory"):
        flax_files.read(tmp_path / "checkpoint_7")


def test_a_folder_of_orbax_is_read(tmp_path):
    tree = {"ema_params": TREE["ema_params"], "step": np.int32(7)}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint_7", tree)
    read = flax_files.read(tmp_path / "checkpoint_7")
    np.testing.assert_array_equal(
        read["ema_params.net.a_0.kernel"], flax.traverse_util.flatten_dict(tree, sep=".")["ema_params.net.a_0.kernel"]
    )
    (tmp_path / "checkpoint_7" / "_METADATA").write_text("{")
    with pytest.raises(limits.Refused, match="checkpoint_7 is damaged"):
        flax_files.read(tmp_path / "checkpoint_7")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "network", "layout", "prefixes", "beside"),
    [
        ("DiT", "SiT-XL/2 of REPA, 256 x 256", "legacy", ("",), "projectors.0.0.weight"),
        ("LightningDiT", "LightningDiT-XL/1, 256 x 256", "original", ("",), ""),
        ("DDT", "DDT-XL/2, 256 x 256", "original", ("ema_denoiser.", "denoiser."), ""),
        ("DiTwDDTHead", "DiT^DH-XL, DINOv2-B", "original", ("",), ""),
        ("MeanFlowDiT", "MeanFlow-B/4, 256 x 256", "flax", ("ema_params.net.", "params.net."), ""),
        (
            "imfDiT",
            "iMF-B/2, 256 x 256",
            "flax",
            ("ema_params.net.", "params.net."),
            "ema_params.net.v_heads_0.attn_scale",
        ),
        ("pmfDiT", "pMF-B/16, 256 x 256", "flax", ("net.",), ""),
    ],
)
def test_published_networks_are_recognised_by_their_names(name, network, layout, prefixes, beside):
    """Of the networks in a file the average is taken, and what only training uses is left out with a warning."""
    family = families.find(name)
    module = folders.built(family, family.published[network])
    expected = folders.expected_of(family, module, layout, leaves_of(folders.shapes_of(family, module)))
    shapes = {prefix + key: shape for prefix in prefixes for key, shape in expected.items()}
    shapes |= {beside: (768,)} if beside else {}
    file = pathlib.Path("file")
    tensors = tensor_files.Tensors(file, dict.fromkeys(shapes, file), {key: key for key in shapes}, shapes)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = folders.recognise(tensors)
    assert (found.family.name, found.layout, found.module) == (name, layout, module)
    assert all(stored.startswith(prefixes[0]) for stored in found.tensors.names.values())
    assert len(said) == bool(beside)
