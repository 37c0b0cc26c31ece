"""LoRA files of kohya's and peft's layout: the same outputs as in diffusers with the file loaded, and back."""

import functools
import gzip
import itertools
import json
import pathlib
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion.adapters import lora, lora_files, lora_kinds, lora_layers, lora_names, lora_updates
from diffusion.adapters.layer_axes import separation
from diffusion.adapters.lora_files import Lora
from diffusion.io import limits
from diffusion.io.leaf_names import nested
from diffusion.models import interchange
from diffusion.models.dit import DiT
from diffusion.models.interchange import folders, rows
from diffusion.models.interchange.rows import Mismatch
from tests.metrics import torch_writer
from tests.models.interchange import published, test_families
from tests.peers.made_weights import made

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "text_to_image" / "lora.safetensors"
CLASSES = {"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel"}


@functools.cache
def fixture():
    """(what the fixture says, inputs, outputs by kind and component)."""
    arrays = load_file(FIXTURE)
    about = json.loads(gzip.decompress(arrays.pop("about").tobytes()))
    part = lambda which: {name[len(which) :]: value for name, value in arrays.items() if name.startswith(which)}
    return about, part("in/"), part("out/")


@functools.cache
def modules():
    about, _, _ = fixture()
    return {
        component: interchange.FAMILIES[name].build(about[f"{component.removesuffix('_encoder')}_config"])
        for component, name in CLASSES.items()
    }


def file(kind, place):
    """The file that diffusers wrote."""
    about, _, _ = fixture()
    tensors = {name: made(name, tuple(shape)) for name, shape in about["peft"].items()}
    if kind == "peft":
        save_file(tensors, place, metadata=about["metadata"])
    else:
        tensors = {name: tensors[key] for name, key in about["kohya"].items()}
        tensors |= {name: np.asarray(alpha, np.float32) for name, alpha in about["alphas"].items()}
        save_file(tensors, place, metadata={"format": "pt"})
    return place


def params(component, folder):
    """The network's own weights."""
    about, _, _ = fixture()
    shapes = about[f"{component}_shapes"]
    folder.mkdir()
    save_file({name: made(name, tuple(shape)) for name, shape in shapes.items()}, folder / "model.safetensors")
    config = about[f"{component.removesuffix('_encoder')}_config"]
    return interchange.load(folder, CLASSES[component], config=config)


def call(component, module, params):
    _, a, _ = fixture()
    if component == "unet":
        return jax.jit(module.apply)({"params": params}, a["x"], a["t"], {"text": a["text"]})
    return jax.jit(module.apply)({"params": params}, a["ids"]).tokens


@pytest.mark.slow
# The largest difference, as a part of the largest number: ten times what is measured on one CPU, for another rounds
# otherwise.
@pytest.mark.parametrize("component, within", [("unet", 3e-5), ("text_encoder", 6e-6)])
def test_a_network_with_a_file_merged_is_diffusers_with_it_loaded(component, within, tmp_path):
    _, _, outputs = fixture()
    module, base = params(component, tmp_path / component)
    load = lambda kind: lora_files.load(file(kind, tmp_path / f"{kind}.safetensors"), modules())
    found = {kind: load(kind) for kind in lora_files.LAYOUTS}
    networks = {"before": base} | {
        kind: lora.merge(base, loras[component].adapter, loras[component].scale) for kind, loras in found.items()
    }
    for kind, network in networks.items():
        expected = outputs[f"{kind}/{component}"]
        found = call(component, module, network)
        np.testing.assert_allclose(found, expected, rtol=0, atol=within * np.abs(expected).max())


@pytest.mark.extended
@pytest.mark.parametrize("layout", lora_files.LAYOUTS)
def test_what_is_written_is_what_was_read(layout, tmp_path):
    theirs = file(layout, tmp_path / "theirs.safetensors")
    loras = lora_files.load(theirs, modules())
    lora_files.save(tmp_path / "ours.safetensors", loras, modules(), layout)
    written = load_file(tmp_path / "ours.safetensors")
    read = load_file(theirs)
    bare = lambda tensors: {
        name.replace("text_model.", "").replace("text_model_", "").replace("te1", "te"): value
        for name, value in tensors.items()
    }
    written = bare(written)
    read = bare(read)
    assert written.keys() == read.keys()
    for name, array in read.items():
        assert written[name].shape == array.shape, name
        np.testing.assert_array_equal(written[name], array, err_msg=name)
    torch_writer.archive(tmp_path / "ours.bin", *torch_writer.state(load_file(tmp_path / "ours.safetensors")))
    in_torch = lora_files.load(tmp_path / "ours.bin", modules())  # of torch.save, which is read and not executed
    again = lora_files.load(tmp_path / "ours.safetensors", modules())
    for component in loras:
        jax.tree.map(np.testing.assert_array_equal, in_torch[component].adapter, loras[component].adapter)
        assert again[component].scale == pytest.approx(loras[component].scale)
        jax.tree.map(np.testing.assert_array_equal, again[component].adapter, loras[component].adapter)


def test_layers_are_stacked_by_their_numbers_in_whatever_order_a_file_has_them():
    rng = np.random.default_rng(0)
    factors = [{"down": rng.normal(size=(4, 2)), "up": rng.normal(size=(2, 5))} for _ in range(3)]
    parts = [lora_layers.Part("blocks/kernel", (i,), (3, 4, 5), factors[i], 0.5) for i in (2, 0, 1)]
    adapter, scale = lora_layers.stacked(parts)
    assert scale == {"blocks/kernel": 0.5}
    for name in ("down", "up"):
        np.testing.assert_array_equal(adapter["blocks"]["kernel"][name], [layer[name] for layer in factors])


def test_a_layer_of_a_scan_that_stands_alone_keeps_its_number():
    """Of three layers two have factors; axes that are whole stand in no name."""
    factors = {"down": np.ones((4, 2)), "up": np.ones((2, 5))}
    leaf = (3, 4, 5)
    for at, place in (((1,), "b/kernel[1]"), ((1, slice(None)), "b/kernel[1]"), ((slice(None),) * 2, "b/kernel"),
                      ((1, slice(None), slice(0, 3)), "b/kernel[1, :, 0:3]")):  # fmt: skip
        _, scale = lora_layers.stacked([lora_layers.Part("b/kernel", at, leaf, factors, 0.5)])
        assert scale == {place: 0.5}


def test_layers_of_a_scan_are_stacked_with_their_alphas(tmp_path):
    loras = lora_files.load(file("peft", tmp_path / "peft.safetensors"), modules())
    places = lora.places_of(loras["unet"].adapter)
    place = "down_0_transformer_0/blocks/self_attention/query/kernel"
    assert places[place]["down"].shape == (2, 16, 3) and places[place]["up"].shape == (2, 3, 2, 8)
    assert places["middle_resnet_0/conv_1/kernel"]["down"].shape == (3, 3, 32, 2)
    scale = loras["unet"].scale
    assert scale["middle_resnet_0/conv_1/kernel"] == 0.5 and scale[place] == 2.0
    assert set(loras["text_encoder"].scale.values()) == {1.5}


@pytest.mark.slow
def test_layers_that_differ_in_rank_stay_apart_and_mean_the_same(tmp_path):
    path = file("peft", tmp_path / "peft.safetensors")
    tensors = load_file(path)
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.1.attn1.to_q"
    tensors[f"{name}.lora_A.weight"] = np.concatenate([tensors[f"{name}.lora_A.weight"]] * 2)
    tensors[f"{name}.lora_B.weight"] = np.concatenate([tensors[f"{name}.lora_B.weight"]] * 2, 1) / 2
    save_file(tensors, path)
    (tmp_path / "whole").mkdir()
    save_file({key: value for key, value in tensors.items()}, path)
    found = lora_files.load(path, modules())["unet"]
    whole = "down_0_transformer_0/blocks/self_attention/query/kernel"
    one, other = (lora.places_of(found.adapter)[f"{whole}[{i}]"] for i in (0, 1))
    assert one["down"].shape == (16, 3) and other["down"].shape == (16, 6)
    kernel = nested({whole: np.zeros((2, 16, 2, 8), np.float32)})
    kept = {place: factors for place, factors in lora.places_of(found.adapter).items() if place.startswith(whole)}
    merged = jax.tree.leaves(lora.merge(kernel, nested(kept), found.scale))[0]
    np.testing.assert_allclose(
        merged[1].reshape(16, 16).T, tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"], atol=1e-5
    )


def test_names_of_the_original_repositories_are_known(tmp_path):
    """As kohya's programs write them for networks that they have in that layout."""
    down = made("a", (2, 32))
    up = made("b", (32, 2))
    stem = "lora_unet_middle_block_1_transformer_blocks_1_attn2_to_out_0"
    save_file({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}, tmp_path / "a.safetensors")
    found = lora_files.load(tmp_path / "a.safetensors", {"unet": modules()["unet"]})["unet"]
    assert found.scale == {"middle_transformer/blocks/cross_attention/out/kernel[1]": 1.0}
    (factors,) = lora.places_of(found.adapter).values()
    np.testing.assert_array_equal(factors["down"].reshape(32, 2), down.T)


@pytest.mark.slow
def test_one_file_of_a_fused_layer_reaches_its_parts_and_back(tmp_path):
    """The original DiT has queries, keys and values in one layer, as ours has; diffusers' has three."""
    module = DiT(patch=2, width=32, depth=2, heads=2, num_classes=3, frequency_shift=1, shape=(8, 8, 4))
    factors = {"down": made("d", (2, 32, 4)), "up": made("u", (2, 4, 3, 2, 16))}
    adapter = nested({"blocks/attention/qkv/kernel": factors})
    lora_files.save(tmp_path / "a.safetensors", {"transformer": Lora(adapter, 0.5)}, {"transformer": module})
    tensors = load_file(tmp_path / "a.safetensors")
    assert len(tensors) == 2 * 2 * 3
    found = lora_files.load(tmp_path / "a.safetensors", {"transformer": module})["transformer"]
    assert set(found.scale) == {f"blocks/attention/qkv/kernel[:, :, {i}]" for i in range(3)}
    kernel = {"blocks": {"attention": {"qkv": {"kernel": np.zeros((2, 32, 3, 2, 16), np.float32)}}}}
    one, other = (jax.tree.leaves(lora.merge(kernel, a, s))[0] for a, s in ((adapter, 0.5), found))
    np.testing.assert_allclose(one, other, atol=1e-6)
    original = {
        f"base_model.model.blocks.{i}.attn.qkv.lora_{part}.weight": made(f"{i}{part}", shape)
        for i in range(2)
        for part, shape in (("A", (4, 32)), ("B", (96, 4)))
    }
    (tmp_path / "peft").mkdir()
    save_file(original, tmp_path / "peft" / "adapter_model.safetensors")
    (tmp_path / "peft" / "adapter_config.json").write_text('{"lora_alpha": 6, "r": 4, "use_rslora": true}')
    papers = module.clone(frequency_shift=0)  # the network of the paper's repository, with its names
    found = lora_files.load(tmp_path / "peft", {"transformer": papers})["transformer"]
    assert found.scale == {"blocks/attention/qkv/kernel": 3.0}
    merged = np.asarray(jax.tree.leaves(lora.merge(kernel, *found))[0])
    expected = 3 * np.stack([made(f"{i}B", (96, 4)) @ made(f"{i}A", (4, 32)) for i in range(2)])
    np.testing.assert_allclose(merged.reshape(2, 32, 96).transpose(0, 2, 1), expected, atol=1e-5)


@pytest.mark.extended
def test_what_is_wrong_with_a_file_is_said_by_name(tmp_path):
    path = file("peft", tmp_path / "peft.safetensors")
    good = load_file(path)
    layer = "unet.down_blocks.0.attentions.0.proj_in"

    def refused(change, match, metadata=None):
        save_file(
            {
                **{k: v for k, v in good.items() if k not in change or change[k] is not None},
                **{k: v for k, v in change.items() if v is not None},
            },
            path,
            metadata=metadata,
        )
        with pytest.raises((Mismatch, limits.Refused), match=match):
            lora_files.load(path, modules())

    some = np.zeros((2, 2), np.float32)
    refused({"unet.down_blocks.7.proj_in.lora_A.weight": some}, r"1 of its \d+ tensors .*down_blocks.7.proj_in.lora_A")
    refused({"lora_unet_nothing.lora_down.weight": some}, "lora_unet_nothing")
    refused({f"{layer}.lora_magnitude_vector": some}, "proj_in.lora_magnitude_vector")
    refused({"text_encoder_2.encoder.layers.0.mlp.fc1.lora_A.weight": some}, "text_encoder_2")
    refused({f"{layer}.lora_B.weight": None}, f"{layer[5:]} of unet has only down")
    refused({f"{layer}.lora_A.weight": made("x", (3, 17, 1, 1))}, r"\[3, 17, 1, 1\] and \[16, 3, 1, 1\] do not fit")
    refused({f"{layer}.lora_B.weight": made("x", (16, 4, 1, 1))}, r"do not fit the weight \[16, 16, 1, 1\]")
    metadata = lambda **fields: {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in fields.items()})}
    refused({}, "sets use_dora", metadata(use_dora=True))
    refused({}, "not the name of a layer", metadata(lora_alpha=1, alpha_pattern={"(a+)+$": 2}))
    huge = {"lora_adapter_metadata": '{"unet.r": 4, "unet.lora_alpha": 1' + "0" * 400 + "}"}
    refused({}, r"has lora_alpha = 10+ \.\.\.\. Valid: a finite number", huge)
    refused({}, r"lora_alpha = inf\. Valid: a finite number", metadata(lora_alpha=float("inf")))
    refused({}, r"lora_alpha = '3'\. Valid: a finite number", metadata(lora_alpha="3"))
    refused({}, r"lora_alpha = True\. Valid: a finite number", metadata(lora_alpha=True))
    refused({}, r"its config: use_rslora = 'false'\. Valid: true or false", metadata(lora_alpha=6, use_rslora="false"))
    refused({}, r"its config: use_dora = 1\. Valid: true or false", metadata(use_dora=1))
    refused({}, r"config's alpha_pattern is \[1, 2\].*a table of", metadata(alpha_pattern=[1, 2]))
    many = {f"layer.{i}": 1 for i in range(2**14 + 1)}
    refused({}, "its config's rank_pattern is a table of 16,385", metadata(rank_pattern=many))
    rankless = {f"{layer}.lora_A.weight": made("x", (0, 16, 1, 1)), f"{layer}.lora_B.weight": made("x", (16, 0, 1, 1))}
    refused(rankless, r"factors of shapes \[0, 16, 1, 1\] and \[16, 0, 1, 1\] do not fit")
    save_file(good, path, metadata={"lora_adapter_metadata": "[" * 10_000})
    with pytest.raises(ValueError, match="not valid JSON"):
        lora_files.load(path, modules())


def test_of_several_alphas_that_mean_a_layer_the_first_does_as_in_peft(tmp_path):
    """peft.utils.other.get_pattern_key takes the first key of the table that ends the layer's name."""
    path = file("peft", tmp_path / "a.safetensors")
    unet = {"unet": modules()["unet"]}
    good = {name: array for name, array in load_file(path).items() if name.startswith("unet.")}
    layer = "down_blocks.0.attentions.0.proj_in"
    scales = []
    for keys in (("proj_in", layer), (layer, "proj_in"), (f"^{layer}", layer)):
        about = {"unet.r": 3, "unet.lora_alpha": 3, "unet.alpha_pattern": dict(zip(keys, (6, 12)))}
        save_file(good, path, metadata={"lora_adapter_metadata": json.dumps(about)})
        scale = lora_files.load(path, unet)["unet"].scale
        scales.append(scale["down_0_transformer_0/in/kernel"])
    assert scales == [2.0, 2.0, 2.0]


def test_a_file_without_tensors_is_refused(tmp_path):
    save_file({}, tmp_path / "a.safetensors")
    with pytest.raises(Mismatch, match=r"a\.safetensors holds no LoRA: it has no tensors"):
        lora_files.load(tmp_path / "a.safetensors", {"unet": modules()["unet"]})


def test_a_folder_of_several_files_is_refused(tmp_path):
    """The shortest name would be taken; a variant of it in half precision is the same adapter."""
    factors = {"unet.down_blocks.0.attentions.0.proj_in.lora_A.weight": np.zeros((1, 32), np.float32)}
    several = r"several files, style\.safetensors, style-000001\.safetensors.*\. Valid: the path of one of them"
    names = {
        "style": "has only down",
        "style.fp16": "has only down",
        "style-000001": several,
        "style-again-000001": several,
    }
    for name, words in names.items():
        save_file(factors, tmp_path / f"{name}.safetensors")
        with pytest.raises(Mismatch, match=words):
            lora_files.load(tmp_path, modules())


def test_a_header_of_more_names_than_the_networks_have_is_refused_before_a_name_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(lora_names, "parsed", lambda *_: pytest.fail("a name was read"))
    unet = modules()["unet"]
    layers = len({name.rpartition(".")[0] for name in lora_layers.tensors_of(unet)})
    names = {f"down_blocks.{i}.lora_A.weight": np.zeros(1, "f4") for i in range(26 * layers + 1)}
    save_file(names, tmp_path / "many.safetensors")
    with pytest.raises(Mismatch, match=rf"{len(names):,} tensors, and .*{layers} layers .* most {26 * layers:,}"):
        lora_files.load(tmp_path / "many.safetensors", {"unet": unet})


def test_factors_that_would_grow_beyond_the_weight_are_refused(tmp_path):
    """A LoKr whose small factors of a high rank stand for large ones, and a convolution's core likewise."""
    layer = "lora_unet_down_blocks_0_attentions_0_proj_in"  # [16, 16, 1, 1]
    ones = lambda *shape: np.ones(shape, np.float32)
    small = {"lokr_w1_a": ones(1, 400), "lokr_w1_b": ones(400, 1), "lokr_w2": ones(16, 16)}
    core = {"lora_down.weight": ones(400, 16, 1, 1), "lora_up.weight": ones(16, 400, 1, 1)}
    loha = {"hada_w1_a": ones(400, 16), "hada_w1_b": ones(1, 16), "hada_t1": ones(400, 1, 1, 1)}
    for number, parts in enumerate((small, core, loha | {name.replace("1", "2"): x for name, x in loha.items()})):
        path = tmp_path / f"{number}.safetensors"
        save_file({f"{layer}.{name}": array for name, array in parts.items()}, path)
        with pytest.raises(Mismatch, match=r"rank 400\. Valid: at most 16, the rank of the weight \[16, 16, 1, 1\]"):
            lora_files.load(path, {"unet": modules()["unet"]})


def test_what_their_layers_cannot_say_is_not_written(tmp_path):
    unet = {"unet": modules()["unet"]}
    place = "conv_in/kernel[:, :, :, 0:4]"
    adapter = nested({place: {"down": made("d", (3, 3, 4, 2)), "up": made("u", (2, 4))}})
    with pytest.raises(ValueError, match=r"conv_in/kernel.* is not a layer of UNet2DConditionModel"):
        lora_files.save(tmp_path / "a.safetensors", {"unet": Lora(adapter, 1.0)}, unet)
    plain = {"down": made("d", (3, 3, 32, 2)), "up": made("u", (2, 32))}
    dora = plain | {"magnitude": made("m", (32,))}
    convs = {"middle_resnet_0/conv_1/kernel": dora, "middle_resnet_0/conv_2/kernel": plain}
    with pytest.raises(ValueError, match=r'has a magnitude \(DoRA\) and .* has none.*layout = "kohya"'):
        lora_files.save(tmp_path / "a.safetensors", {"unet": Lora(nested(convs), 1.0)}, unet)
    with pytest.raises(ValueError, match=r"layout='kohia' is not known.*'kohya'"):
        lora_files.save(tmp_path / "a.safetensors", {}, unet, "kohia")


# Transposed convolutions, whose weights are [in, out, ..], have no mapping to an update of low rank.
TRANSPOSED = r"(^|/)(lengthen_\d+|up_\d+_resize|decoder/up_\d+)/kernel$"


# Z-Image and Lumina have three scans of layers, and Lumina keys and values in one kernel.
@pytest.mark.extended
@pytest.mark.parametrize("name", test_families.CALLS)
def test_kernels_are_read_as_the_tables_of_their_family_have_them(name, tmp_path):
    """`lora.init` goes by names what axes are inputs; the layouts of the tables know it."""
    config = published.case(name).config
    family = interchange.FAMILIES[folders.family_of(config, tmp_path)]
    module = family.build(config)
    leaves = folders.leaves_of(folders.shapes_of(family, module))
    adapter = lora.places_of(jax.eval_shape(lambda: lora.init(jax.random.key(0), nested(leaves), 1, "kernel$")))
    seen = 0
    for table in family.tables.values():
        table = [row for row in table(module) if row.ours.endswith("kernel")]
        shapes = rows.their_shapes(table, leaves)
        for row in table:
            if row.rows is not None or len(shapes[row.theirs]) < 2 or not row.theirs.endswith(".weight"):
                continue
            part = rows.part_shape(leaves[row.ours].shape, row.at)
            how = separation(row.layout, shapes[row.theirs], part)
            if how is None:
                assert re.search(TRANSPOSED, row.ours), row
                continue
            down = adapter[row.ours]["down"].shape
            layers = len(down) + len(adapter[row.ours]["up"].shape) - len(leaves[row.ours].shape) - 2
            assert np.prod(down[layers:-1]) == np.prod(how.inputs), (row, down)
            layer = itertools.takewhile(lambda index: isinstance(index, int), row.at)  # and the expert
            assert layers == len(list(layer)), row
            seen += 1
    assert seen


@pytest.mark.parametrize("swap", ["inputs", "outputs"])
def test_a_layout_that_mixes_inputs_or_outputs_alone_has_no_mapping(swap):
    """The second row or column is read backwards, as no mapping of one axis can."""

    class Layout:
        def to_ours(self, theirs, shape):
            ours = np.array(theirs).T.reshape(shape)
            if swap == "outputs":
                ours[1] = ours[1, ::-1].copy()
            else:
                ours[:, 1] = ours[::-1, 1].copy()
            return ours

    assert separation(Layout(), (2, 2), (2, 2)) is None


def test_a_number_for_each_input_of_a_convolution_stands_along_its_inputs_alone():
    """[out, in, 2, 2] is [2, 2, in, out] here; a number for each of three inputs becomes [1, 1, 3]."""
    values = np.array([1.0, 2.0, 3.0])
    how = separation(rows.CONV, (4, 3, 2, 2), (2, 2, 3, 4))
    np.testing.assert_array_equal(how.inputs_to_ours(values, (4, 3, 2, 2)), values[None, None])
    dense = separation(rows.DENSE, (4, 3), (3, 4))
    np.testing.assert_array_equal(dense.inputs_to_ours(values, (4, 3)), values)


@pytest.mark.parametrize("ours, theirs", [((2, 3, 5), (5, 6)), ((1, 1, 6, 5), (5, 6, 1, 1))])
def test_a_number_for_each_input_of_a_layer_without_pixels_has_the_shape_of_its_inputs(ours, theirs):
    """Six inputs, in two heads of three or as those of a convolution with one pixel."""
    how = separation(rows.CONV if len(theirs) == 4 else rows.DENSE, theirs, ours)
    values = np.arange(6.0)
    np.testing.assert_array_equal(how.inputs_to_ours(values, theirs), values.reshape(ours[:-1]))


def test_rows_of_queries_keys_and_values_come_first():
    """XLabs' B for a weight [40, 10] has 30 rows; the other ten of our layer get none."""
    up = np.arange(60.0).reshape(30, 2)
    padded = lora_kinds.first_rows(up, (40, 10), "a file")
    assert padded.shape == (40, 2) and (padded[:30] == up).all() and not padded[30:].any()
    np.testing.assert_array_equal(lora_kinds.first_rows(up, (30, 10), "a file"), up)
    for wrong, theirs in ((up, (40, 11)), (up, (29, 10)), (up.ravel(), (40, 10)), (up[:, None], (40, 10))):
        with pytest.raises(Mismatch, match=rf"a file: the factor B .* Valid: \[{3 * theirs[1]}, r\]"):
            lora_kinds.first_rows(wrong, theirs, "a file")


def test_a_layer_of_one_output_has_a_mapping():
    how = separation(rows.DENSE, (1, 3), (3, 1))
    np.testing.assert_array_equal(how.inputs_to_ours(np.array([1.0, 2.0, 3.0]), (1, 3)), [1.0, 2.0, 3.0])


@pytest.mark.parametrize("theirs, rank", [((7, 3), 7), ((3, 7), 7), ((2, 3, 5), 15), ((40, 3, 5), 40)])
def test_factors_have_at_most_as_many_rows_as_the_larger_side(theirs, rank):
    assert lora_kinds.largest_rank(theirs) == rank


@pytest.mark.parametrize(
    "parts, rank, config, expected",
    [({"alpha": np.float32([6])}, 4, None, 1.5), ({"alpha": np.float32([6])}, None, None, 1.0), ({}, 4, None, 1.0),
     ({}, 4, {"lora_alpha": 8, "r": 2}, 2.0), ({}, 4, {"lora_alpha": 8, "use_rslora": True}, 4.0),
     ({"magnitude": np.ones(2)}, 4, {"lora_alpha": 8, "use_dora": True}, 2.0),
     ({"dora_scale": np.ones(2)}, 4, {"lora_alpha": 8, "use_dora": True}, 2.0), ({}, 4, {"alpha": 2}, 0.5),
     ({}, 4, {"alpha": 2, "lora_alpha": 8}, 0.5), ({}, 4, {"use_dora": False}, 1.0), ({}, None, {"lora_alpha": 8}, 8.0),
     ({}, None, {"lora_alpha": 8, "r": 4}, 2.0), ({}, None, {"r": 4}, 1.0),
     ({}, None, {"lora_alpha": 8, "r": 4, "rank_pattern": {"b": 2}}, 4.0),
     ({}, 4, {"lora_alpha": 8, "alpha_pattern": {"a.b": 4}}, 1.0)],
)  # fmt: skip
def test_a_scale_is_alpha_over_the_rank_or_its_root(parts, rank, config, expected):
    assert lora_names.scale(parts, rank, config, "a.b", "a file: a.b") == expected


def test_a_config_of_dora_needs_a_magnitude():
    with pytest.raises(Mismatch, match="its config sets use_dora, but the file has no lora_magnitude_vector"):
        lora_names.scale({}, 4, {"lora_alpha": 8, "use_dora": True}, "a.b", "a file: a.b")


@pytest.mark.parametrize("shape, up", [((6, 4), (6, 2)), ((6, 4, 3), (6, 2, 1)), ((6, 4, 3, 3), (6, 2, 1, 1))])
def test_an_update_has_the_axes_of_the_kernel_in_its_file(shape, up):
    inputs = np.prod(shape[1:])
    update = lora_updates.Update(((np.ones((2, inputs)), np.ones((6, 2))),), None, 1.0)
    ((down, made_up),) = lora_updates._as_one([update], shape, "a layer").pairs
    assert (down.shape, made_up.shape) == ((2, *shape[1:]), up)


@pytest.mark.parametrize("pixels", [(), (3,), (3, 3)])
def test_norms_stand_in_a_file_as_its_programs_have_them(pixels):
    """LyCORIS has [out, 1, ..] with as many axes as the weight, peft [out], or [1, out, 1, ..] of a convolution."""
    ones = (1,) * len(pixels)
    down, up, norms = made("a", (2, 4, *pixels)), made("b", (6, 2, *ones)), made("m", (6,))
    update = lora_updates.Update(((down, up),), norms, 1.0)
    for tensors, names, shape in (
        (lora_files._kohya(update), ("lora_down.weight", "lora_up.weight", "dora_scale"), (6, 1, *ones)),
        (lora_files._peft(update, "a layer"), ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector"),
         (1, 6, *ones) if pixels else (6,)),
    ):  # fmt: skip
        assert tuple(tensors) == names
        for name, expected in zip(names, (down, up, norms.reshape(shape))):
            np.testing.assert_array_equal(tensors[name], expected)
        assert tensors[names[2]].shape == shape


def test_the_factors_of_two_products_are_matrices_in_lycoris_and_not_in_peft():
    pairs = tuple((made(f"a{i}", (2, 4, 3, 3)), made(f"b{i}", (6, 2, 1, 1))) for i in (1, 2))
    update = lora_updates.Update(pairs, None, 1.0)
    tensors = lora_files._kohya(update)
    assert tensors.keys() == {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
    for i, (down, up) in enumerate(pairs, 1):
        np.testing.assert_array_equal(tensors[f"hada_w{i}_a"], up.reshape(6, 2))
        np.testing.assert_array_equal(tensors[f"hada_w{i}_b"], down.reshape(2, 36))
    with pytest.raises(ValueError, match="a layer has a LoHa or LoKr update, which diffusers does not read"):
        lora_files._peft(update, "a layer")
