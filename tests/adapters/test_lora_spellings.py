"""Every spelling and kind of update in LoRA files: merged here as by hand in numpy, and as by a peer that reads it."""

import functools
import gzip
import json
import math
import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion.adapters import lora, lora_files, lora_kinds, lora_layers, lora_names
from diffusion.io.leaf_names import nested
from diffusion.models import interchange
from diffusion.models.interchange import folders, rows
from diffusion.models.interchange.rows import Mismatch
from tests.adapters import test_lora_files
from tests.peers.made_weights import made

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "text_to_image" / "lora_spellings.safetensors"
FLUX = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "axes_dims_rope": (4, 6, 6),
}
Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"  # [16, 16]
OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
K2 = "down_blocks.0.attentions.0.transformer_blocks.1.attn2.to_k"  # [16, 24]
CONV = "down_blocks.0.resnets.0.conv1"  # [16, 16, 3, 3]
UNDERSCORED = "lora_unet_" + Q.replace(".", "_")
QKV, LINEAR1 = "double_blocks.0.img_attn.qkv", "single_blocks.0.linear1"  # [96, 32], [224, 32]


@functools.cache
def networks():
    """The small networks: by name our module, its parameters, and the rows of its layouts."""
    found = {}
    unet = test_lora_files.modules()["unet"]
    for name, module in (("unet", unet), ("transformer", interchange.FAMILIES["FluxTransformer2DModel"].build(FLUX))):
        family = interchange.FAMILIES[{"unet": "UNet2DConditionModel", "transformer": "FluxTransformer2DModel"}[name]]
        shapes = folders.leaves_of(folders.shapes_of(family, module))
        tables = {layout: table(module) for layout, table in family.tables.items()}
        leaves = {path: np.zeros(leaf.shape, np.float32) for path, leaf in shapes.items()}
        theirs = rows.their_shapes(tables["diffusers"], shapes)
        for row in tables["diffusers"]:
            array = made(row.theirs, theirs[row.theirs])
            array = array if row.rows is None else array[slice(*row.rows)]
            leaves[row.ours][row.at] = row.layout.to_ours(array, rows.part_shape(leaves[row.ours].shape, row.at))
        found[name] = module, leaves, tables
    return found


def weights(name, leaves, layout):
    """Their weights of our leaves, by the names of a layout."""
    return {
        row.theirs: np.asarray(row.layout.to_theirs(np.asarray(leaves[row.ours])[row.at]))
        for row in networks()[name][2][layout]
        if row.rows is None
    }


def merged(tensors, path, name="unet", layout="diffusers", metadata=None, config=None):
    """Their weights that a file changes, before and after it is merged here."""
    module, leaves, _ = networks()[name]
    path.mkdir(exist_ok=True)
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, path / "a.safetensors", metadata)
    if config is not None:
        (path / "adapter_config.json").write_text(json.dumps(config))
    # The text encoder is there as in a pipeline, and nothing of the file is for it.
    modules = {name: module, "text_encoder": test_lora_files.modules()["text_encoder"]}
    found = lora_files.load(path / "a.safetensors", modules)
    assert found.keys() == {name}
    after = folders.leaves_of(lora.merge(nested(leaves), found[name].adapter, found[name].scale))
    old = weights(name, leaves, layout)
    new = weights(name, after, layout)
    changed = {key for key in old if not np.array_equal(old[key], new[key])}
    return {key: old[key] for key in changed}, {key: new[key] for key in changed}


def pair(down, up):
    """(A, B) of these shapes, from their own names."""
    return made(f"A {down}", down), made(f"B {up}", up)


A, B = pair((3, 16), (16, 3))
ALPHA = {"alpha": np.float32(1.5)}
LORA_SPELLINGS = {  # of Q: the file, and alpha / r
    "peft": ({f"unet.{Q}.lora_A.weight": A, f"unet.{Q}.lora_B.weight": B}, 1.0),
    "processor": (
        {f"unet.{Q[:-5]}.processor.to_q_lora.down.weight": A, f"unet.{Q[:-5]}.processor.to_q_lora.up.weight": B},
        1.0,
    ),
    "processor without prefix": (
        {f"{Q[:-5]}.processor.to_q_lora.down.weight": A, f"{Q[:-5]}.processor.to_q_lora.up.weight": B},
        1.0,
    ),
    "processor out": (
        {f"unet.{Q[:-5]}.processor.to_out_lora.down.weight": A, f"unet.{Q[:-5]}.processor.to_out_lora.up.weight": B},
        1.0,
    ),
    "diffusers": ({f"unet.{Q}.lora.down.weight": A, f"unet.{Q}.lora.up.weight": B}, 1.0),
    "kohya": (
        {
            f"{UNDERSCORED}.lora_down.weight": A,
            f"{UNDERSCORED}.lora_up.weight": B,
            f"{UNDERSCORED}.alpha": np.float32(1.5),
        },
        0.5,
    ),
    "lycoris": (
        {f"lycoris_{Q.replace('.', '_')}.lora_down.weight": A, f"lycoris_{Q.replace('.', '_')}.lora_up.weight": B},
        1.0,
    ),
    "ComfyUI": (
        {
            f"diffusion_model.{Q}.lora_A.weight": A,
            f"diffusion_model.{Q}.lora_B.weight": B,
            f"diffusion_model.{Q}.alpha": np.float32(6),
        },
        2.0,
    ),
    "peft's own": ({f"base_model.model.{Q}.lora_A.weight": A, f"base_model.model.{Q}.lora_B.weight": B}, 1.0),
    "without prefix": ({f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B}, 1.0),
}


@pytest.mark.extended
@pytest.mark.parametrize("name", LORA_SPELLINGS)
def test_a_spelling_is_the_layer_that_it_names(name, tmp_path):
    tensors, scale = LORA_SPELLINGS[name]
    old, new = merged(tensors, tmp_path)
    key = f"{OUT if 'out' in name.split() and 'processor' in name else Q}.weight"
    assert new.keys() == {key}
    np.testing.assert_allclose(new[key], old[key] + scale * B @ A, atol=1e-6)


FLUX_A, FLUX_B = pair((2, 32), (96, 2))
FLUX_SPELLINGS = {  # the file, the layer of the original repository, its factors
    f"{prefix}{spelling}": ({f"{prefix}{stem}{down}": FLUX_A, f"{prefix}{stem}{up}": FLUX_B}, layer)
    for spelling, stem, down, up, layer in (
        ("bfl", QKV, ".lora_A.weight", ".lora_B.weight", QKV),
        ("bfl kohya", QKV, ".lora_down.weight", ".lora_up.weight", QKV),
        ("xlabs image", "double_blocks.0.processor.qkv_lora1", ".down.weight", ".up.weight", QKV),
        (
            "xlabs text",
            "double_blocks.0.processor.qkv_lora2",
            ".down.weight",
            ".up.weight",
            "double_blocks.0.txt_attn.qkv",
        ),
        ("xlabs single", "single_blocks.0.processor.qkv_lora", ".down.weight", ".up.weight", LINEAR1),
    )
    for prefix in ("", "diffusion_model.")
}
FLUX_SPELLINGS["kohya"] = (
    {
        "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": FLUX_A,
        "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": FLUX_B,
    },
    QKV,
)


@pytest.mark.extended
@pytest.mark.parametrize("name", FLUX_SPELLINGS)
def test_a_spelling_of_flux_is_the_layer_that_it_names(name, tmp_path):
    tensors, layer = FLUX_SPELLINGS[name]
    old, new = merged(tensors, tmp_path, "transformer", "original")
    assert new.keys() == {f"{layer}.weight"}
    expected = old[f"{layer}.weight"].copy()
    expected[:96] += FLUX_B @ FLUX_A  # of a single block: queries, keys and values are the first rows
    np.testing.assert_allclose(new[f"{layer}.weight"], expected, atol=1e-6)


@pytest.mark.parametrize("part", ["q", "out"])
def test_old_names_of_a_text_encoder_are_its_layers(part, tmp_path):
    a, b = pair((2, 24), (24, 2))
    spellings = {"old": f"to_{part}_lora.down to_{part}_lora.up", "peft": f"{part}_proj.lora_A {part}_proj.lora_B"}
    found = []
    for spelling, ends in spellings.items():
        stem = "text_encoder.text_model.encoder.layers.1.self_attn"
        tensors = {f"{stem}.{end}.weight": array for end, array in zip(ends.split(), (a, b))}
        save_file(tensors, tmp_path / f"{spelling}.safetensors")
        found.append(lora_files.load(tmp_path / f"{spelling}.safetensors", test_lora_files.modules())["text_encoder"])
    assert found[0].scale == found[1].scale
    for (place, one), (_, other) in zip(*(lora.places_of(lora_of.adapter).items() for lora_of in found)):
        np.testing.assert_array_equal(one["down"], other["down"], err_msg=place)
        np.testing.assert_array_equal(one["up"], other["up"], err_msg=place)


@pytest.mark.extended
@pytest.mark.parametrize(
    ("stem", "layer", "shape"),
    [
        ("double_blocks.0.processor.proj_lora1", "double_blocks.0.img_attn.proj", (32, 32)),
        ("double_blocks.0.processor.proj_lora2", "double_blocks.0.txt_attn.proj", (32, 32)),
        ("single_blocks.0.processor.proj_lora", "single_blocks.0.linear2", (32, 160)),
    ],
)
def test_the_projections_of_xlabs_are_the_layers_that_they_name(stem, layer, shape, tmp_path):
    a, b = pair((2, shape[1]), (shape[0], 2))
    old, new = merged({f"{stem}.down.weight": a, f"{stem}.up.weight": b}, tmp_path, "transformer", "original")
    assert new.keys() == {f"{layer}.weight"}
    np.testing.assert_allclose(new[f"{layer}.weight"], old[f"{layer}.weight"] + b @ a, atol=1e-6)


@pytest.mark.extended
@pytest.mark.parametrize(("layer", "down", "up"), [(Q, (3, 16), (16, 3)), (CONV, (2, 16, 3, 3), (16, 2, 1, 1))])
@pytest.mark.parametrize("whose", ["peft", "outputs", "inputs"])
def test_a_dora_has_the_norms_that_its_tool_gave_it(whose, layer, down, up, tmp_path):
    a, b = pair(down, up)
    size = 16
    ones = [1] * (len(down) - 1)
    m = 1 + 0.5 * made("m", (size,))
    stem = f"lora_unet_{layer.replace('.', '_')}"
    if whose == "peft":
        shape = (size,) if len(down) == 2 else (1, size, 1, 1)
        tensors = {
            f"unet.{layer}.lora_A.weight": a,
            f"unet.{layer}.lora_B.weight": b,
            f"unet.{layer}.lora_magnitude_vector": m.reshape(shape),
        }
        metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 4, "unet.use_dora": True})}
        scale = 4 / down[0]
    else:
        shape = (size, *ones) if whose == "outputs" else (1, size, *ones[1:])
        tensors = {
            f"{stem}.lora_down.weight": a,
            f"{stem}.lora_up.weight": b,
            f"{stem}.alpha": np.float32(1),
            f"{stem}.dora_scale": m.reshape(shape),
        }
        metadata = None
        scale = 1 / down[0]
    old, new = merged(tensors, tmp_path, metadata=metadata)
    (key,) = new
    w = old[key].astype(np.float64) + scale * (b.reshape(size, -1) @ a.reshape(down[0], -1)).reshape(old[key].shape)
    axes = tuple(axis for axis in range(w.ndim) if axis != (1 if whose == "inputs" else 0))
    expected = np.expand_dims(m, axes) * w / np.sqrt((w**2).sum(axes, keepdims=True))
    np.testing.assert_allclose(new[key], expected, atol=2e-6)


def test_an_rslora_has_alpha_over_the_root_of_the_rank(tmp_path):
    tensors = {f"base_model.model.{Q}.lora_A.weight": A, f"base_model.model.{Q}.lora_B.weight": B}
    old, new = merged(tensors, tmp_path, config={"r": 3, "lora_alpha": 6, "use_rslora": True})
    np.testing.assert_allclose(new[f"{Q}.weight"], old[f"{Q}.weight"] + 6 / math.sqrt(3) * B @ A, atol=1e-6)


def tucker(t, a, b):
    """[out, in, H, W] of a core [r, r, H, W] and factors [r, out] and [r, in]: LyCORIS' rebuild_tucker."""
    return np.einsum("ijkl,ip,jq->pqkl", t, a, b)


def loha_file(case):
    """(layer, tensors, product by hand, rank)."""
    layer, inputs, outputs, pixels = {
        "dense": (K2, 24, 16, ()),
        "conv": (CONV, 16, 16, (3, 3)),
        "tucker": (CONV, 16, 16, (3, 3)),
    }[case]
    if case == "tucker":
        t1 = made("t1", (3, 3, 3, 3))
        t2 = made("t2", (3, 3, 3, 3))
        a1, b1, a2, b2 = (made(n, (3, 16)) for n in ("a1", "b1", "a2", "b2"))
        parts = {"hada_t1": t1, "hada_t2": t2, "hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}
        return layer, parts, tucker(t1, a1, b1) * tucker(t2, a2, b2), 3
    a1 = made("a1", (outputs, 3))
    a2 = made("a2", (outputs, 3))
    b1, b2 = (3 * made(n, (3, inputs * math.prod(pixels))) for n in ("b1", "b2"))
    parts = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}
    return layer, parts, ((a1 @ b1) * (a2 @ b2)).reshape(outputs, inputs, *pixels), 3


def lokr_file(case):
    """(layer, tensors, product by hand, rank or None)."""
    w1 = made("w1", (4, 6))
    w2 = made("w2", (4, 4))
    w1_a = made("w1a", (4, 2))
    w1_b = made("w1b", (2, 6))
    w2_a = made("w2a", (4, 2))
    w2_b = made("w2b", (2, 4))
    if case == "whole":
        return K2, {"lokr_w1": w1, "lokr_w2": w2}, np.kron(w1, w2), None
    if case == "large factored":
        return K2, {"lokr_w1": w1, "lokr_w2_a": w2_a, "lokr_w2_b": w2_b}, np.kron(w1, w2_a @ w2_b), 2
    if case == "small factored":
        return K2, {"lokr_w1_a": w1_a, "lokr_w1_b": w1_b, "lokr_w2": w2}, np.kron(w1_a @ w1_b, w2), 2
    if case == "both factored":
        parts = {"lokr_w1_a": w1_a, "lokr_w1_b": w1_b, "lokr_w2_a": w2_a, "lokr_w2_b": w2_b}
        return K2, parts, np.kron(w1_a @ w1_b, w2_a @ w2_b), 2
    small = made("w1", (2, 4))
    outer = lambda large: np.einsum("ab,cdkl->acbdkl", small, large).reshape(16, 16, 3, 3)
    if case == "conv":
        large = made("w2", (8, 4, 3, 3))
        return CONV, {"lokr_w1": small, "lokr_w2": large}, outer(large), None
    if case == "conv factored":
        a = made("w2a", (8, 3))
        b = made("w2b", (3, 36))
        return CONV, {"lokr_w1": small, "lokr_w2_a": a, "lokr_w2_b": b}, outer((a @ b).reshape(8, 4, 3, 3)), 3
    t = made("t2", (3, 3, 3, 3))
    a = made("w2a", (3, 8))
    b = made("w2b", (3, 4))
    return CONV, {"lokr_w1": small, "lokr_t2": t, "lokr_w2_a": a, "lokr_w2_b": b}, outer(tucker(t, a, b)), 3


LYCORIS = [(loha_file, case) for case in ("dense", "conv", "tucker")] + [
    (lokr_file, case)
    for case in ("whole", "large factored", "small factored", "both factored", "conv", "conv factored", "conv tucker")
]


@pytest.mark.extended
@pytest.mark.parametrize(("make", "case"), LYCORIS)
def test_loha_and_lokr_are_the_products_of_their_papers(make, case, tmp_path):
    layer, parts, product, rank = make(case)
    stem = f"lora_unet_{layer.replace('.', '_')}"
    tensors = {f"{stem}.{name}": value for name, value in parts.items()} | {f"{stem}.alpha": np.float32(1.5)}
    scale = 1.5 / rank if rank else 1.0
    old, new = merged(tensors, tmp_path)
    assert new.keys() == {f"{layer}.weight"}
    np.testing.assert_allclose(new[f"{layer}.weight"], old[f"{layer}.weight"] + scale * product, atol=2e-6)
    # And as peft writes them, with its config beside.
    own = {f"base_model.model.{layer}.{name}": value for name, value in parts.items()}
    _, new = merged(own, tmp_path / "peft", config={"r": 4, "alpha": 2, "peft_type": "LOKR"})
    expected = old[f"{layer}.weight"] + 2 / (rank or 4) * product
    np.testing.assert_allclose(new[f"{layer}.weight"], expected, atol=2e-6)


def test_a_fused_layer_may_be_any_kind_and_reaches_its_parts(tmp_path):
    """LoKr of the original queries, keys and values; a DoRA of it, of whose magnitudes each part has its own."""
    w1 = made("w1", (8, 4))
    w2 = made("w2", (12, 8))
    m = 1 + made("m", (96,))
    tensors = {
        f"diffusion_model.{QKV}.lokr_w1": w1,
        f"diffusion_model.{QKV}.lokr_w2": w2,
        f"diffusion_model.{QKV}.dora_scale": m[:, None],
    }
    old, new = merged(tensors, tmp_path, "transformer", "diffusers")
    names = [f"transformer_blocks.0.attn.to_{part}.weight" for part in "qkv"]
    assert new.keys() == set(names)
    w = np.concatenate([old[name] for name in names]) + np.kron(w1, w2)
    expected = m[:, None] * w / np.linalg.norm(w, axis=1, keepdims=True)
    np.testing.assert_allclose(np.concatenate([new[name] for name in names]), expected, atol=2e-6)


def test_layers_of_a_scan_are_stacked_whatever_their_kind(tmp_path):
    stems = [f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_{i}_attn2_to_k" for i in (0, 1)]
    _, parts, _, _ = loha_file("dense")
    tensors = {f"{stem}.{name}": value * (i + 1) for i, stem in enumerate(stems) for name, value in parts.items()}
    tensors |= {f"{stem}.dora_scale": np.full((16, 1), i + 2.0, np.float32) for i, stem in enumerate(stems)}
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    found = lora_files.load(path, {"unet": networks()["unet"][0]})["unet"]
    ((place, factors),) = lora.places_of(found.adapter).items()
    assert place == "down_0_transformer_0/blocks/cross_attention/key/kernel"
    assert {name: array.shape for name, array in factors.items()} == {
        "down": (2, 24, 3),
        "up": (2, 3, 2, 8),
        "down_2": (2, 24, 3),
        "up_2": (2, 3, 2, 8),
        "magnitude": (2, 2, 8),
    }
    _, new = merged(tensors, tmp_path)
    for i in (0, 1):
        norms = np.linalg.norm(new[K2.replace("blocks.1", f"blocks.{i}") + ".weight"], axis=1)
        np.testing.assert_allclose(norms, i + 2.0, rtol=1e-5)
    modules = {"unet": networks()["unet"][0]}
    with pytest.raises(ValueError, match="has a LoHa or LoKr update, which diffusers does not read"):
        lora_files.save(path, {"unet": found}, modules)
    lora_files.save(path, {"unet": found}, modules, "kohya")
    again = lora_files.load(path, modules)["unet"]
    jax.tree.map(np.testing.assert_array_equal, again.adapter, found.adapter)


@pytest.mark.parametrize("first, second", [((), (1,)), ((1,), ()), ((1,), (1,)), ((0, 2), (0,)), ((0,), (0, 2))])
def test_a_part_of_what_another_spelling_covers_is_refused(first, second):
    parts = [(name, lora_layers.Part("kernel", at, (2, 3, 4), {}, 1.0)) for name, at in (("a", first), ("b", second))]
    with pytest.raises(Mismatch, match=r"layers are named in two spellings; the second one begins with b\."):
        lora_files._check_once(parts, "file: unet")


def test_parts_beside_each_other_are_no_spellings_of_one_another():
    part = lambda at, path="kernel": ("a", lora_layers.Part(path, at, (2, 3, 4), {}, 1.0))
    lora_files._check_once([part((0,)), part((1, 0)), part((1, 2)), part((0,), "other")], "file: unet")


def test_unknown_and_mixed_spellings_are_refused_by_their_first_name(tmp_path):
    def refused(tensors, match, name="unet"):
        with pytest.raises(Mismatch, match=match):
            merged(tensors, tmp_path, name)

    peft, _ = LORA_SPELLINGS["peft"]
    kohya, _ = LORA_SPELLINGS["kohya"]
    refused(peft | kohya, f"{UNDERSCORED}.lora_down.weight|{Q}.lora_A.weight")
    flux, _ = FLUX_SPELLINGS["bfl"]
    part = "transformer.transformer_blocks.0.attn.to_q.lora"
    both = {f"{part}_A.weight": made("a", (2, 32)), f"{part}_B.weight": made("b", (32, 2))}
    refused(flux | both, r"named in two spellings.*(to_q|qkv)\.lora_A\.weight", "transformer")
    refused({f"unet.{Q}.hada_w1_a": A, **peft}, "has only down, hada_w1_a,.*its factors")
    refused({f"unet.{Q}.lokr_w1": A}, r"has only lokr_w1\. Valid: down and up")
    refused({f"unet.{Q}.lokr_w1": A, f"unet.{Q}.lokr_w2": A}, r"lokr_w1 \[3, 16\], lokr_w2 \[3, 16\].*a matrix")
    refused({f"unet.{Q}.oft_blocks": A}, f"unet.{Q}.oft_blocks")
    refused(peft | {f"unet.{Q}.dora_scale": A}, r"its magnitudes have the shape \[3, 16\]\. Valid: \[16, 1")
    refused(peft | {f"unet.{Q}.alpha": A}, r"alpha has the shape \[3, 16\]")
    tensors = {f"unet.{CONV}.hada_{n}": A for n in ("w1_a", "w1_b", "w2_a", "w2_b", "t1")}
    refused(tensors, r"a core of shape \[3, 16\]")
    bad = {"single_blocks.0.processor.qkv_lora.down.weight": FLUX_A, "single_blocks.0.processor.qkv_lora.up.weight": A}
    refused(bad, r"queries, keys and values, of shape \[3, 16", "transformer")


@functools.cache
def peers():
    """What diffusers and peft made of files: by case what it says of the file, and the weights that it changed."""
    arrays = load_file(FIXTURE)
    about = json.loads(gzip.decompress(arrays.pop("about").tobytes()))
    of = lambda case: {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{case}/")}
    return {case: (said, of(case)) for case, said in about.items()}


PEERS = ("processors", "xlabs", "comfyui", "dora", "rslora", "loha", "loha tucker", "lokr", "lokr tucker", "lokr whole")


@pytest.mark.extended
@pytest.mark.parametrize("case", PEERS)
def test_a_file_is_merged_as_by_diffusers_or_peft(case, tmp_path):
    said, expected = peers()[case]
    tensors = {name: made(name, tuple(shape)) if shape else np.float32(1.5) for name, shape in said["shapes"].items()}
    _, new = merged(tensors, tmp_path, said["component"], config=said.get("config"))
    assert new.keys() == expected.keys() and len(peers()) == len(PEERS)
    for name, array in expected.items():
        np.testing.assert_allclose(new[name], array, rtol=0, atol=1e-6 * np.abs(array).max(), err_msg=name)


def test_files_of_every_kind_are_known_as_lora():
    assert all(lora_names.is_lora(tensors) for tensors, _ in [*LORA_SPELLINGS.values(), *FLUX_SPELLINGS.values()])
    assert lora_names.is_lora(["lycoris_blocks_0_attn.lokr_w1"]) and lora_names.is_lora(["a.hada_w1_a", "a.alpha"])
    assert not lora_names.is_lora([f"{Q}.weight", "a.alpha", "down_blocks.0.down.weight"])


@pytest.mark.extended
@pytest.mark.parametrize("shared", [True, False])
def test_a_flux_lora_in_kohyas_layout_has_the_original_names_and_the_same_weights(shared, tmp_path):
    """What diffusers and kohya's programs read: fused layers, of which some parts may have no update."""
    module = networks()["transformer"][0]
    layers = {
        "transformer_blocks.0.attn.to_q": (32, 32),
        "transformer_blocks.0.attn.to_v": (32, 32),
        "transformer_blocks.0.attn.add_k_proj": (32, 32),
        "transformer_blocks.0.ff.net.0.proj": (128, 32),
        "single_transformer_blocks.0.attn.to_k": (32, 32),
        "single_transformer_blocks.0.proj_mlp": (128, 32),
        "single_transformer_blocks.0.proj_out": (32, 160),
        "x_embedder": (32, 16),
    }
    tensors = {}
    for layer, (outputs, inputs) in layers.items():
        tensors[f"transformer.{layer}.lora_A.weight"] = made("A" if shared else layer, (2, inputs))
        tensors[f"transformer.{layer}.lora_B.weight"] = made(f"{layer}B", (outputs, 2))
    about = {"transformer.lora_alpha": 4, "transformer.r": 2, "transformer.alpha_pattern": {"proj_mlp": 3}}
    _, expected = merged(tensors, tmp_path, "transformer", metadata={"lora_adapter_metadata": json.dumps(about)})
    found = lora_files.load(tmp_path / "a.safetensors", {"transformer": module})
    lora_files.save(tmp_path / "b.safetensors", found, {"transformer": module}, "kohya")
    written = load_file(tmp_path / "b.safetensors")
    assert {name.split(".")[0] for name in written} == {
        f"lora_unet_{name}"
        for name in (
            "double_blocks_0_img_attn_qkv",
            "double_blocks_0_txt_attn_qkv",
            "double_blocks_0_img_mlp_0",
            "single_blocks_0_linear1",
            "single_blocks_0_linear2",
            "img_in",
        )
    }
    assert written["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"].shape == (2 if shared else 4, 32)
    _, new = merged(written, tmp_path / "again", "transformer")
    assert new.keys() == expected.keys() == {f"{layer}.weight" for layer in layers}
    for key, value in expected.items():
        np.testing.assert_allclose(new[key], value, atol=2e-6, err_msg=key)


@pytest.mark.parametrize("known", ["text_model.encoder.layers.0.fc1", "encoder.layers.0.fc1"])
@pytest.mark.parametrize("written", ["text_model.encoder.layers.0.fc1", "encoder.layers.0.fc1"])
def test_layers_of_clip_are_known_with_and_without_their_prefix(known, written):
    """In diffusers' spelling, and in kohya's with "_" for "."; a name of another layer is none."""
    names = {"text_encoder": lora_names.spelled([known])}
    for prefix in ("text_encoder." + written, "lora_te_" + written.replace(".", "_")):
        assert lora_names.parsed(f"{prefix}.lora_A.weight", names) == ("text_encoder", known, "down")
        assert lora_names.parsed(f"{prefix.replace('fc1', 'fc3')}.lora_A.weight", names) is None


def test_a_prefix_that_names_networks_is_not_of_another_one():
    """Alone, peft's own files are of whatever network is there; a prefix such as lora_te_ says which one."""
    names = {"text_encoder_2": lora_names.spelled(["mlp.fc1"])}
    for prefix in ("", "base_model.model."):
        assert lora_names.parsed(f"{prefix}mlp.fc1.lora_A.weight", names) == ("text_encoder_2", "mlp.fc1", "down")
    for prefix in ("lora_te_", "lora_unet_"):
        assert lora_names.parsed(f"{prefix}mlp_fc1.lora_A.weight", names) is None
    both = names | {"unet": lora_names.spelled(["conv_in"])}
    assert lora_names.parsed("mlp.fc1.lora_A.weight", both) is None
    assert lora_names.parsed("base_model.model.conv_in.lora_A.weight", both) == ("unet", "conv_in", "down")


@pytest.mark.parametrize("inputs, fits", [(4, True), (5, False)])
def test_a_core_and_a_factor_are_of_a_convolution_s_size(inputs, fits):
    core, down, up = np.ones((2, 2, 3, 3)), np.ones((2, inputs)), np.ones((2, 6))
    if fits:
        found, _ = lora_kinds._tucker(core, down, up, (6, 4, 3, 3), "layer")
        assert found.shape == (2, 4, 3, 3)
    else:
        with pytest.raises(Mismatch, match="do not fit"):
            lora_kinds._tucker(core, down, up, (6, 4, 3, 3), "layer")


def test_a_number_of_a_config_is_below_two_to_the_31st():
    read = lambda value: lora_names._number({"r": value}, "r", "rank_pattern", 1, "layer", "what")
    assert read(2**31 - 1) == 2**31 - 1 and read(-(2**31) + 1) == -(2**31) + 1
    for value in (2**31, -(2**31), float("nan"), "4"):
        with pytest.raises(Mismatch, match="Valid: a finite number"):
            read(value)


@pytest.mark.parametrize("r", [0, -1])
def test_a_config_without_a_positive_rank_is_refused(r):
    with pytest.raises(Mismatch, match=f"a file, a layer: its config has r = {r}. Valid: a positive number"):
        lora_names.scale({}, None, {"r": r, "alpha": 2}, "layer", "a file, a layer")


def test_a_file_with_a_vector_of_norms_is_a_dora():
    for end in ("lora_magnitude_vector", "dora_scale"):
        assert lora_names.has_magnitudes([f"unet.{Q}.lora_A.weight", f"unet.{Q}.{end}"])
    assert not lora_names.has_magnitudes([f"unet.{Q}.lora_A.weight", f"unet.{Q}.alpha"])


@pytest.mark.parametrize(
    "component, components, original, prefix",
    [
        ("unet", ["unet"], False, "lora_unet_"),
        ("unet", ["unet"], True, "lora_unet_"),
        ("transformer", ["transformer"], False, "lora_transformer_"),
        ("transformer", ["transformer"], True, "lora_unet_"),
        ("text_encoder", ["text_encoder", "unet"], False, "lora_te_"),
        ("text_encoder", ["text_encoder", "text_encoder_2"], False, "lora_te1_"),
        ("text_encoder_2", ["text_encoder", "text_encoder_2"], False, "lora_te2_"),
    ],
)
def test_kohyas_prefix_names_the_network(component, components, original, prefix):
    assert lora_names.prefix_of(component, components, original) == prefix


def test_what_a_file_says_is_its_metadata_without_its_form(tmp_path):
    metadata = {"base_model": "made", "format": "pt", lora_names.METADATA: "{}"}
    save_file({"a": A}, tmp_path / "a.safetensors", metadata)
    assert lora_names.said(tmp_path / "a.safetensors") == {"base_model": "made"}
    save_file({"a": A}, tmp_path / "b.safetensors")
    assert lora_names.said(tmp_path / "b.safetensors") == {}
