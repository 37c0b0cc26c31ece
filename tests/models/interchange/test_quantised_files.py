"""Files of GGUF and of layers in fp8 with scales: their numbers, what stays in 8 bits, and what is refused."""

import json
import re
import sys
import types
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion.io import limits
from diffusion.io.leaf_names import leaves_of
from diffusion.models import interchange
from diffusion.models.interchange import families, folders, quantised_rows, quantised_tensors, rows, tensor_files
from diffusion.models.quantised import is_quantised, quantised
from diffusion.published.flux import table as flux_tables
from tests.models.interchange import toy

FLUX = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "axes_dims_rope": (8, 12, 12),
}
RNG = np.random.default_rng(0)


def write(path, tensors, kinds=None, architecture="flux", heads=()):
    """A file as llama.cpp's programs write it; `kinds`: of the tensors that are bytes of blocks.

    `heads` are numbers of heads, of queries and of keys, for the header.
    """
    writer = gguf.GGUFWriter(path, architecture)
    for add, number in zip((writer.add_head_count, writer.add_head_count_kv), heads):
        add(number)
    for name, array in tensors.items():
        writer.add_tensor(name, array, raw_dtype=(kinds or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def q8_0(array):
    """(bytes, the numbers that they stand for): int8 rounded by the largest of 32, its scale in float16."""
    blocks = array.reshape(*array.shape[:-1], -1, 32)
    scale = (np.abs(blocks).max(-1, keepdims=True) / 127).astype(np.float16)
    values = np.clip(np.rint(blocks / scale.astype(np.float32)), -127, 127).astype(np.int8)
    content = np.concatenate([scale.view(np.uint8), values.view(np.uint8)], -1)
    return content.reshape(*array.shape[:-1], -1), (values * scale.astype(np.float32)).reshape(array.shape)


def block(kind):
    """(bytes of a block, its values) by the formats' definitions, at values that are equal within it."""
    half = lambda *numbers: np.array(numbers, np.float16).view(np.uint8)
    byte = lambda value, count: np.full(count, value, np.uint8)
    six = np.concatenate([byte(1, 8), byte(0x11, 4)])  # eight scales and minima of 6 bits, all 1
    return {
        "Q4_0": ((half(0.5), byte(0xBB, 16)), np.full(32, 0.5 * (11 - 8))),
        "Q4_1": ((half(0.5, -3), byte(0xBB, 16)), np.full(32, 0.5 * 11 - 3)),
        "Q5_0": ((half(0.5), byte(0xFF, 4), byte(0xBB, 16)), np.full(32, 0.5 * (16 + 11 - 16))),
        "Q5_1": ((half(0.5, -3), byte(0xFF, 4), byte(0xBB, 16)), np.full(32, 0.5 * (16 + 11) - 3)),
        "Q8_0": ((half(0.5), np.arange(-16, 16, dtype=np.int8).view(np.uint8)), 0.5 * np.arange(-16, 16)),
        "Q4_K": ((half(0.5, 0.25), six, byte(0xBB, 128)), np.full(256, 0.5 * 11 - 0.25)),
        "Q5_K": ((half(0.5, 0.25), six, byte(0xFF, 32), byte(0xBB, 128)), np.full(256, 0.5 * 27 - 0.25)),
        "Q6_K": ((byte(0xBB, 128), byte(0, 64), byte(2, 16), half(0.5)), np.full(256, 0.5 * 2 * (11 - 32))),
    }[kind]


def test_the_blocks_of_gguf_stand_for_their_numbers(tmp_path):
    kinds = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
    tensors = {kind: np.stack([np.concatenate(block(kind)[0])] * 3) for kind in kinds}
    plain = {"F32": RNG.normal(size=(2, 3)).astype(np.float32), "F16": RNG.normal(size=4).astype(np.float16)}
    half = RNG.normal(size=(2, 4)).astype(ml_dtypes.bfloat16)
    types = {kind: gguf.GGMLQuantizationType[kind] for kind in (*kinds, "BF16")}
    path = write(tmp_path / "a.gguf", {**tensors, **plain, "BF16": half.view(np.uint8)}, types)
    found = tensor_files.open_tensors(path)
    for kind in kinds:
        values = block(kind)[1]
        assert found.shapes[kind] == (3, len(values))
        np.testing.assert_array_equal(found.read(kind), np.stack([values] * 3), err_msg=kind)
        assert (found.read_quantised(kind) is None) == (kind != "Q8_0")
    for kind, array in {**plain, "BF16": half}.items():
        assert found.read(kind).dtype == array.dtype and found.read_quantised(kind) is None
        np.testing.assert_array_equal(found.read(kind), array)


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    """(file of GGUF by the original names, parameters with its numbers), matrices in Q8_0."""
    family = flux_tables.FAMILY
    module = folders.built(family, FLUX)
    shapes = folders.expected_of(family, module, "original", leaves_of(folders.shapes_of(family, module)))
    theirs, stored, kinds = {}, {}, {}
    for name, shape in shapes.items():
        theirs[name] = stored[name] = RNG.normal(size=shape).astype(np.float32)
        if len(shape) == 2 and shape[1] % 32 == 0:
            stored[name], theirs[name] = q8_0(theirs[name])
            kinds[name] = gguf.GGMLQuantizationType.Q8_0
    folder = tmp_path_factory.mktemp("flux")
    save_file(theirs, folder / "whole.safetensors")
    _, params = interchange.load(folder / "whole.safetensors", family.name, config=FLUX)
    return write(folder / "few.gguf", stored, kinds), params


@pytest.mark.extended
def test_a_gguf_file_of_flux_is_read(flux):
    path, expected = flux
    module, params = interchange.load(path, "FluxTransformer2DModel", config=FLUX)
    assert module == folders.built(flux_tables.FAMILY, FLUX)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.extended
def test_kernels_in_q8_0_stay_so_in_memory(flux):
    """The same numbers to the bit, out of values of 8 bits and a scale for 32 inputs of an output."""
    path, expected = flux
    _, params = interchange.load(path, "FluxTransformer2DModel", config=FLUX, quantised=True)
    kept = [leaf for leaf in jax.tree.leaves(params, is_leaf=is_quantised) if is_quantised(leaf)]
    assert len(kept) > 15 and all(leaf.values.dtype == np.int8 for leaf in kept)
    assert all(leaf.scale.size * 32 == leaf.values.size for leaf in kept)
    jax.tree.map(
        lambda leaf, whole: np.testing.assert_array_equal(jnp.asarray(leaf), whole),
        params,
        expected,
        is_leaf=is_quantised,
    )
    with pytest.raises(ValueError, match="are already quantised"):
        quantised(params, "int8")


def fp8(scale, kind=ml_dtypes.float8_e4m3fn, **more):
    """A toy's file with its first layer in 8 bits; one in int8 has nothing in fp8."""
    mark = {} if kind == np.int8 else {"scaled_fp8": np.zeros(0, kind)}
    tensors = {**toy.tensors(), **mark, **more}
    tensors["layers.0.weight"] = tensors["layers.0.weight"].astype(kind)
    return {
        **tensors,
        "layers.0.scale_weight": np.asarray(scale, np.float32),
        "layers.0.scale_input": np.ones((), "f4"),
    }


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", {toy.FAMILY.name: toy.FAMILY})


@pytest.mark.parametrize("kind", [ml_dtypes.float8_e4m3fn, np.int8])
@pytest.mark.parametrize("scale", [0.25, [0.25, 2.0, 0.5], [[0.25], [2.0], [0.5]]])
def test_layers_in_8_bits_are_multiplied_with_their_scales(tmp_path, known, scale, kind):
    tensors = fp8(scale, kind)
    save_file(tensors, tmp_path / "a.safetensors")
    expected = tensors["layers.0.weight"].astype(np.float32) * np.asarray(scale, np.float32).reshape(-1, 1)
    _, params = interchange.load(tmp_path / "a.safetensors", config={"width": 3}, family="ToyModel")
    np.testing.assert_array_equal(params["a"]["kernel"], expected.T)
    _, few = interchange.load(tmp_path / "a.safetensors", config={"width": 3}, family="ToyModel", quantised=True)
    assert few["a"]["kernel"].values.dtype == kind
    assert few["a"]["kernel"].scale.shape == (1, np.size(scale)) and not is_quantised(few["b"]["kernel"])
    np.testing.assert_array_equal(jnp.asarray(few["a"]["kernel"]), expected.T)


KERNELS = {f"{name}.weight": RNG.integers(-9, 9, (4, 64)).astype(np.int8) for name in "abc"}
SCALES = {  # one for each output and 32 inputs, and one for each output
    "a.weight": np.float32([[0.5, 2], [0.5, 4], [1, 2], [1, 4]]),
    "b.weight": np.float32([[1], [2], [3], [4]]), "c.weight": np.float32([[4], [3], [5], [2]]),
}  # fmt: skip


def assembled(table, shape, kernels=KERNELS):
    read = lambda name: quantised_tensors.Quantised(kernels[name], SCALES[name])
    tensors: Any = types.SimpleNamespace(shapes=kernels, read_quantised=read)
    return quantised_rows.assembled(table, tensors, shape)


def test_scales_follow_the_rows_the_layers_and_the_blocks_of_their_values():
    numbers = {name: KERNELS[name] * np.repeat(SCALES[name], 64 // SCALES[name].shape[1], 1) for name in KERNELS}
    (_, second) = rows.cut("b.", ("first", "second"), 2, bias=False)
    kernel = assembled([second], (64, 2))
    assert kernel.scale.shape == (1, 2)
    np.testing.assert_array_equal(jnp.asarray(kernel), numbers["b.weight"][2:].T)
    kernel = assembled(rows.linear("a", "a", bias=False), (64, 4))
    assert kernel.scale.shape == (2, 4)
    np.testing.assert_array_equal(jnp.asarray(kernel), numbers["a.weight"].T)
    one = lambda name, layer: rows.stacked(rows.linear(name, "l", bias=False), layer)
    table = one("b", 1) + one("c", 0)
    kernel = assembled(table, (2, 64, 4))
    np.testing.assert_array_equal(jnp.asarray(kernel), np.stack([numbers["c.weight"].T, numbers["b.weight"].T]))
    for name in ("b.weight", "c.weight"):
        assert assembled(table, (2, 64, 4), KERNELS | {name: KERNELS[name].astype(ml_dtypes.float8_e4m3fn)}) is None


def test_what_is_not_read_of_quantised_files_is_said(tmp_path, known, monkeypatch):
    save_file(fp8([1.0, 2.0]), tmp_path / "two.safetensors")
    with pytest.raises(limits.Refused, match=r"layers\.0\.scale_weight has 2 numbers for layers\.0\.weight"):
        interchange.load(tmp_path / "two.safetensors", "ToyModel", config={"width": 3})
    four = fp8(1.0, **{"layers.1.weight": np.zeros((3, 2), np.uint8), "layers.1.weight_scale": np.ones((), "f4")})
    save_file(four, tmp_path / "four.safetensors")
    with pytest.raises(
        limits.Refused, match=r"layers\.1\.weight is stored in 4 bits with scales, which is not supported"
    ):
        tensor_files.open_tensors(tmp_path / "four.safetensors")
    for kind, said in ((np.int8, "I8"), (np.uint8, "U8")):
        bare = {"layers.0.weight": np.ones((3, 3), kind), "layers.0.bias": np.zeros(3, "f4")}
        save_file(bare, tmp_path / "bare.safetensors")
        with pytest.raises(
            limits.Refused, match=rf"layers\.0\.weight is stored as integers \({said}\) without a scale"
        ):
            tensor_files.open_tensors(tmp_path / "bare.safetensors")
    eight = gguf.GGMLQuantizationType.Q8_K
    path = write(tmp_path / "a.gguf", {"a": np.zeros((1, gguf.GGML_QUANT_SIZES[eight][1]), np.uint8)}, {"a": eight})
    with pytest.raises(
        limits.Refused, match=r"a\.gguf: a is stored as Q8_K, which is not supported; use the file in Q8_0"
    ):
        tensor_files.open_tensors(path).read("a")
    content = path.read_bytes()
    for cut in (3, 20, 60, len(content) - 40):  # behind a block of 292 bytes are 28 of padding
        (tmp_path / "cut.gguf").write_bytes(content[:cut])
        with pytest.raises(limits.Refused, match=r"cut\.gguf is not a complete GGUF file"):
            tensor_files.open_tensors(tmp_path / "cut.gguf")
    found = tensor_files.open_tensors(path)
    path.write_bytes(content[:-40])
    with pytest.raises(limits.Refused, match=r"a\.gguf is truncated: it ends within a"):
        found.read("a")
    (tmp_path / "other.gguf").write_bytes(b"GGUX" + content[4:])
    with pytest.raises(limits.Refused, match=r"other\.gguf is not a complete GGUF file: GGUF magic invalid"):
        tensor_files.open_tensors(tmp_path / "other.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(limits.Refused, match=r"the package gguf: pip install 'jax-diffusion\[gguf\]'"):
        tensor_files.open_tensors(path)


def test_a_length_beyond_the_end_of_a_gguf_file_is_not_counted_to(tmp_path):
    """A list of 2^60 bytes in a file of a hundred."""
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "flux")
    writer.add_array("list", [1, 2, 3])  # of int32, whose number is 5, and their number in 64 bits
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    content = (tmp_path / "a.gguf").read_bytes()
    head = (5).to_bytes(4, "little") + (3).to_bytes(8, "little")
    assert content.count(head) == 1
    (tmp_path / "a.gguf").write_bytes(content.replace(head, head[:4] + (2**60).to_bytes(8, "little")))
    with pytest.raises(limits.Refused, match=r"a\.gguf is not a complete GGUF file: .*it has \d+ bytes"):
        tensor_files.open_tensors(tmp_path / "a.gguf")


T5 = {"vocab_size": 64, "d_model": 32, "num_layers": 2, "num_heads": 2, "d_kv": 16, "d_ff": 64}


@pytest.mark.extended
@pytest.mark.parametrize("name, mlp", [("T5EncoderModel", "relu"), ("T5EncoderModel", "gated-gelu"),
                                       ("UMT5EncoderModel", "gated-gelu")])  # fmt: skip
def test_an_encoder_by_the_names_of_llama_cpp_is_that_of_transformers(name, mlp, tmp_path):
    """The package gguf has the names of transformers' tensors, with which llama.cpp converts."""
    config = {"architectures": [name], "feed_forward_proj": mlp, **T5}
    module = folders.built(families.FAMILIES[name], config)
    shapes = leaves_of(folders.shapes_of(families.FAMILIES[name], module))
    theirs = {
        key: RNG.normal(size=shape).astype(np.float32)
        for key, shape in folders.expected_of(families.FAMILIES[name], module, "transformers", shapes).items()
    }
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 2)
    (tmp_path / "gguf").mkdir()
    (tmp_path / "whole").mkdir()
    named = {known.get_name(key, try_suffixes=(".weight",)): array for key, array in theirs.items()}
    assert None not in named
    write(tmp_path / "gguf" / "model.gguf", named)
    save_file(theirs, tmp_path / "whole" / "model.safetensors")
    for folder in ("gguf", "whole"):
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
    few, whole = (leaves_of(interchange.load(tmp_path / folder)[1]) for folder in ("gguf", "whole"))
    for path, leaf in whole.items():
        np.testing.assert_array_equal(few[path], leaf, err_msg=path)


DECODERS = {  # transformers' class: llama.cpp's architecture
    "LlamaModel": gguf.MODEL_ARCH.LLAMA,
    "Qwen2Model": gguf.MODEL_ARCH.QWEN2VL,
    "Qwen3Model": gguf.MODEL_ARCH.QWEN3,
    "Qwen3VLTextModel": gguf.MODEL_ARCH.QWEN3VL,
    "Gemma2Model": gguf.MODEL_ARCH.GEMMA2,
    "Gemma3TextModel": gguf.MODEL_ARCH.GEMMA3,
}
DECODER = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8,
           "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
HEADS = (4, 2)


def of_llama_cpp(arch, key, array):
    """The tensor as convert_hf_to_gguf.py writes it: `LlamaModel.permute`, and `Gemma3Model.modify_tensors`."""
    if arch is gguf.MODEL_ARCH.LLAMA and re.search("[qk]_proj", key):
        heads = HEADS["k_proj" in key]
        return array.reshape(heads, 2, len(array) // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
    return array + 1 if "GEMMA" in arch.name and key.endswith("norm.weight") else array


@pytest.mark.extended
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_by_the_names_of_llama_cpp_is_that_of_transformers(name, tmp_path):
    family, arch = families.FAMILIES[name], DECODERS[name]
    config = {"architectures": [name], **DECODER}
    module = folders.built(family, config)
    shapes = leaves_of(folders.shapes_of(family, module))
    expected = folders.expected_of(family, module, "of a whole one", shapes)
    theirs = {key: RNG.integers(-99, 99, shape).astype(np.float32) / 64 for key, shape in expected.items()}
    known = gguf.get_tensor_name_map(arch, 2)
    own = lambda key: known.get_name(key, try_suffixes=(".weight", ".bias"))
    named = {own(key): of_llama_cpp(arch, key, array) for key, array in theirs.items()}
    assert None not in named
    named |= {"output.weight": np.zeros((32, 32), np.float32), "rope_freqs.weight": np.ones(4, np.float32)}
    for place in ("gguf", "whole"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "config.json").write_text(json.dumps(config))
    write(tmp_path / "gguf" / "model.gguf", named, None, gguf.MODEL_ARCH_NAMES[arch], HEADS)
    save_file(theirs, tmp_path / "whole" / "model.safetensors")
    few, whole = (leaves_of(interchange.load(tmp_path / folder)[1]) for folder in ("gguf", "whole"))
    assert few.keys() == whole.keys()
    for path, leaf in whole.items():
        np.testing.assert_array_equal(few[path], leaf, err_msg=path)


def test_rows_in_8_bits_move_with_their_scales(tmp_path):
    array = RNG.normal(size=(32, 32)).astype(np.float32)
    content, values = q8_0(of_llama_cpp(gguf.MODEL_ARCH.LLAMA, "q_proj", array))
    kinds = {"blk.0.attn_q.weight": gguf.GGMLQuantizationType.Q8_0}
    path = write(tmp_path / "a.gguf", {"blk.0.attn_q.weight": content}, kinds, "llama", HEADS)
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors = tensor_files.open_tensors(path)
    read = tensors.read(name)
    np.testing.assert_array_equal(of_llama_cpp(gguf.MODEL_ARCH.LLAMA, "q_proj", read), values)
    few = tensors.read_quantised(name)
    assert few is not None
    np.testing.assert_array_equal(few.values * few.repeated(), read)


@pytest.mark.parametrize("architecture, heads, name, match", [
    ("chatglm", HEADS, "blk.0.attn_q.weight", r"blk\.0\.attn_q\.weight is a tensor of a language model.*chatglm"),
    ("llama", (), "blk.0.attn_q.weight", r"of the architecture 'of no name'\. Valid: qwen2, .*gemma3, or its safe"),
    ("qwen3", HEADS, "blk.0.ffn_gate_exps.weight", r"'blk\.0\.ffn_gate_exps\.weight' is no tensor of a qwen3 model"),
    ("llama", (3, 3), "blk.0.attn_k.weight", r"has the sides \[2, 2\], which 3 heads cannot share"),
])  # fmt: skip
def test_a_language_model_that_is_not_read_is_refused_by_name(architecture, heads, name, match, tmp_path):
    path = write(tmp_path / "a.gguf", {name: np.zeros((2, 2), np.float32)}, None, architecture, heads)
    with pytest.raises(limits.Refused, match=match):
        tensor_files.open_tensors(path)


@pytest.mark.parametrize("beside, match", [
    ({"a.weight.absmax": np.ones(1, np.float32), "a.weight.quant_state.bitsandbytes__nf4": np.zeros(9, np.uint8)},
     r"a\.weight is stored by bitsandbytes in nf4"),
    ({"a.SCB": np.ones(4, np.float32)}, r"a\.weight is stored by bitsandbytes in int8"),
    ({"a.weight_scale": np.ones((4, 1), ml_dtypes.float8_e4m3fn), "a.weight_scale_2": np.ones((), np.float32)},
     r"a\.weight is stored in 4 bits with scales \(NVFP4\)"),
])  # fmt: skip
def test_formats_of_few_bits_are_refused_by_name(beside, match, tmp_path):
    kind = np.int8 if "a.SCB" in beside else np.uint8
    save_file({"a.weight": np.zeros((4, 8), kind), **beside}, tmp_path / "a.safetensors")
    with pytest.raises(limits.Refused, match=match):
        tensor_files.open_tensors(tmp_path / "a.safetensors")
