"""Folders and files as people have them: what is read, and what is refused, of a family of two layers (toy.py)."""

import json
import os
import pathlib
import re
import weakref

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion.io import limits, safetensors_files
from diffusion.models import interchange
from diffusion.models.dit import DiT
from diffusion.models.interchange import dit_tables, families, folders, tensor_files
from diffusion.published.flux.network import Flux
from diffusion.published.pixart.network import PixArt
from tests.models.interchange import published, toy

CONFIG = {"_class_name": "ToyModel", "_diffusers_version": "0.1", "width": 3, "act": "linear", "dropout": 0.1}
FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The toy among a few families; all of them are tried in one test below."""
    few = {family.name: family for family in (toy.FAMILY, *dit_tables.FAMILIES)}
    monkeypatch.setattr(families, "FAMILIES", few)


def folder(place, tensors=None, config=CONFIG):
    """A folder as `save_pretrained` writes it."""
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    save_file(toy.tensors() if tensors is None else tensors, place / FILE)
    return place


def check(params, dtype="float32"):
    """The parameters are those of `toy.tensors`, each where it belongs."""
    theirs = toy.tensors(dtype=dtype)
    for i, name in enumerate("ab"):
        np.testing.assert_array_equal(params[name]["kernel"], theirs[f"layers.{i}.weight"].T)
        np.testing.assert_array_equal(params[name]["bias"], theirs[f"layers.{i}.bias"])


def test_a_folder_is_read(tmp_path):
    module, params = interchange.load(folder(tmp_path))
    assert module == toy.Toy(3)
    check(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_and_written(tmp_path, dtype):
    stored = getattr(ml_dtypes, dtype, None) or dtype
    _, params = interchange.load(folder(tmp_path / "half", toy.tensors(dtype=stored)))
    check(params, stored)
    assert params["a"]["kernel"].dtype == "float32"
    module, params = interchange.load(tmp_path / "half", dtype=dtype)
    check(params, stored)
    assert params["a"]["kernel"].dtype == dtype
    interchange.save(tmp_path / "again", module, params, dtype=dtype)
    assert {tensor.dtype for tensor in load_file(tmp_path / "again" / FILE).values()} == {np.dtype(stored)}
    check(interchange.load(tmp_path / "again", dtype=dtype)[1], stored)


def test_what_is_written_is_what_was_read(tmp_path):
    module, params = interchange.load(folder(tmp_path / "theirs"))
    interchange.save(tmp_path / "ours", module, params)
    written = load_file(tmp_path / "ours" / FILE)
    assert written.keys() == toy.tensors().keys()
    for name, tensor in toy.tensors().items():
        np.testing.assert_array_equal(written[name], tensor)
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config == {"_class_name": "ToyModel", "width": 3, "act": "linear"}


@pytest.mark.parametrize("layout", ["original", "ours"])
def test_other_layouts(tmp_path, layout):
    module, params = interchange.load(folder(tmp_path / "theirs"))
    interchange.save(tmp_path / "written", module, params, layout=layout)
    written = load_file(tmp_path / "written" / FILE)
    theirs = toy.tensors()
    if layout == "ours":
        assert written.keys() == {"a.kernel", "a.bias", "b.kernel", "b.bias"}
    else:
        both = np.concatenate([theirs["layers.0.weight"], theirs["layers.1.weight"]])
        np.testing.assert_array_equal(written["both.weight"], both)
        assert written.keys() == {"both.weight", "both.bias", "table"}
    check(interchange.load(tmp_path / "written")[1])
    with pytest.raises(ValueError, match=r"layout='origin' is not known.*'diffusers', 'original', 'ours'.*'original'"):
        interchange.save(tmp_path / "other", module, params, layout="origin")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_numbers_of_eight_bits_are_read_exactly(tmp_path, dtype):
    """All that are finite, as ml_dtypes says what they are, among float32 of other lengths."""
    every = np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, dtype))
    every = every[np.isfinite(every)].reshape(2, -1)
    others = {"a": np.arange(3, dtype=np.float32), "z": np.ones(5, np.float32)}
    save_file({"every": every, **others}, tmp_path / "small.safetensors")
    tensors = tensor_files.open_tensors(tmp_path / "small.safetensors")
    found = tensors.read("every")
    assert found.dtype == every.dtype
    np.testing.assert_array_equal(found.view(np.uint8), every.view(np.uint8))
    np.testing.assert_array_equal(tensors.read("a"), others["a"])
    stored = {name: tensor.astype(getattr(ml_dtypes, dtype)) for name, tensor in toy.tensors().items()}
    for wanted in ("float32", "bfloat16"):
        _, params = interchange.load(folder(tmp_path / wanted, stored), dtype=wanted)
        assert params["a"]["kernel"].dtype == wanted
        np.testing.assert_array_equal(params["a"]["kernel"], stored["layers.0.weight"].T.astype(wanted))


def test_a_type_that_is_not_read_is_refused(tmp_path):
    header = json.dumps({"x": {"dtype": "F8_E8M0", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"12")
    with pytest.raises(limits.Refused, match="stored as F8_E8M0, which is not supported; save it as float32"):
        tensor_files.open_tensors(tmp_path / "x.safetensors").read("x")


@pytest.mark.parametrize(
    "shards, index",
    [  # of diffusers 0.42 and transformers 5; of older ones
        ("diffusion_pytorch_model.fp16-{}.safetensors", "diffusion_pytorch_model.safetensors.index.fp16.json"),
        ("diffusion_pytorch_model-{}.fp16.safetensors", "diffusion_pytorch_model.safetensors.fp16.index.json"),
    ],
)
def test_shards_of_a_variant_are_read_through_their_index(tmp_path, shards, index):
    place = shard(
        tmp_path,
        [{name: tensor.astype(np.float16) for name, tensor in part.items()} for part in halves()],
        shards=shards,
        index=index,
    )
    check(interchange.load(place)[1], "float16")
    check(interchange.load(place / index, config=CONFIG)[1], "float16")
    save_file(
        {name: 2 * tensor for name, tensor in toy.tensors().items() if name != "table"}
        | {"table": toy.tensors()["table"]},
        place / FILE,
    )
    doubled = interchange.load(place)[1]  # what is no variant goes first
    np.testing.assert_array_equal(doubled["a"]["bias"], 2 * toy.tensors()["layers.0.bias"])


def shard(place, parts, weight_map=None, shards="diffusion_pytorch_model-{}.safetensors", index=f"{FILE}.index.json"):
    """A folder with an index and numbered files, one for each of the dicts of tensors."""
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(CONFIG))
    files = [shards.format(f"{i + 1:05d}-of-{len(parts):05d}") for i in range(len(parts))]
    for file, part in zip(files, parts):
        save_file(part, place / file)
    weight_map = {name: file for file, part in zip(files, parts) for name in part} | (weight_map or {})
    (place / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return place


def halves():
    tensors = list(toy.tensors().items())
    return [dict(tensors[:4]), dict(tensors[4:])]


def test_shards_are_read_through_their_index(tmp_path):
    check(interchange.load(shard(tmp_path, halves()))[1])


def test_large_networks_are_written_in_shards(tmp_path, monkeypatch):
    module, params = interchange.load(folder(tmp_path / "theirs"))
    monkeypatch.setattr(tensor_files, "SHARD", 100)
    interchange.save(tmp_path / "ours", module, params)
    names = sorted(path.name for path in (tmp_path / "ours").glob("*.safetensors"))
    assert len(names) > 1 and names[0].endswith(f"model-00001-of-{len(names):05d}.safetensors")
    index = json.loads((tmp_path / "ours/diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == toy.tensors().keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in toy.tensors().values())
    check(interchange.load(tmp_path / "ours")[1])


def test_a_header_is_read_once_and_a_file_written_tensor_after_tensor(tmp_path, monkeypatch):
    """SDXL's 1,680 tensors read its header as often; what is written is let go of before the next is made."""
    opened = []
    true = safetensors_files.header
    monkeypatch.setattr(safetensors_files, "header", lambda path: opened.append(path) or true(path))
    check(interchange.load(folder(tmp_path / "theirs"))[1])
    assert opened == [tmp_path / "theirs" / FILE]
    held = []

    def tensors():
        for name in "abc":
            assert all(array() is None for array in held)
            array = np.full((2, 3), ord(name), np.float32)
            held.append(weakref.ref(array))
            yield name, array
            del array

    tensor_files.write_tensors(tmp_path, "a", dict.fromkeys("abc", (2, 3)), "float32", tensors())
    written = load_file(tmp_path / "a.safetensors")
    assert len(held) == 3 and all((written[name] == ord(name)).all() for name in "abc")


def test_a_file_cut_short_is_refused_when_it_is_opened_and_later(tmp_path):
    path = folder(tmp_path) / FILE
    content = path.read_bytes()
    found = tensor_files.open_tensors(path)
    path.write_bytes(content[:-4])
    with pytest.raises(limits.Refused, match=f"{FILE} is not a whole safetensors file"):
        tensor_files.open_tensors(path)
    last = max(found.readers, key=lambda name: found.readers[name].__self__.begin)
    with pytest.raises(limits.Refused, match=f"{FILE} is truncated: it ends within {last}"):
        found.read(last)


def test_shapes_are_computed_of_one_network_where_nothing_distinguishes_more(tmp_path, monkeypatch):
    """Each takes seconds for a U-Net, and four published ones have the names of Stable Diffusion 1."""
    traced = []
    true = folders.shapes_of
    monkeypatch.setattr(folders, "shapes_of", lambda family, module: traced.append(module) or true(family, module))
    save_file(toy.tensors(), tmp_path / "a.safetensors")
    assert folders.find(tmp_path / "a.safetensors").module == toy.Toy(3) and traced == [toy.Toy(3)]
    save_file(toy.tensors(5), tmp_path / "b.safetensors")
    assert folders.find(tmp_path / "b.safetensors").module == toy.Toy(5) and traced[1:] == [toy.Toy(3), toy.Toy(5)]


def test_broken_shards_are_refused(tmp_path):
    first, second = halves()
    place = shard(tmp_path / "missing", [first, second])
    (place / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="names 2 files; missing: diffusion_pytorch_model-00002-of-00002"):
        interchange.load(place)
    twice = {**second, "layers.0.bias": first["layers.0.bias"]}
    with pytest.raises(limits.Refused, match=r"layers\.0\.bias is stored twice, in the shards .*00001.*00002"):
        interchange.load(shard(tmp_path / "twice", [first, twice]))
    file = "diffusion_pytorch_model-00001-of-00002.safetensors"
    with pytest.raises(limits.Refused, match=r"places lost\.weight in .*00001.*, which does not contain it"):
        interchange.load(shard(tmp_path / "lost", [first, second], {"lost.weight": file}))
    with pytest.raises(
        limits.Refused, match=r"names the file '\.\./elsewhere\.safetensors', which does not lie beside it"
    ):
        interchange.load(shard(tmp_path / "outside", [first, second], {"x": "../elsewhere.safetensors"}))
    (place / "diffusion_pytorch_model.safetensors.index.json").write_text("[]")
    with pytest.raises(limits.Refused, match="is not an index of safetensors files"):
        interchange.load(place)


def test_missing_superfluous_and_misshapen_tensors_are_named(tmp_path):
    tensors = toy.tensors()
    bias = tensors.pop("layers.1.bias")
    tensors["layers.2.bias"], tensors["layers.0.weight"] = bias, tensors["layers.0.weight"].T.copy()
    with pytest.raises(interchange.Mismatch) as error:
        interchange.load(folder(tmp_path, tensors))
    for part in (
        "as ToyModel",
        "layers.1.bias [3] is missing",
        "layers.2.bias [3] is superfluous",
        "layers.0.weight has shape [4, 3], not [3, 4]",
    ):
        assert part in str(error.value)


def test_many_differences_are_counted(tmp_path):
    tensors = {**toy.tensors(), **{f"more.{i}": np.zeros(1, np.float32) for i in range(9)}}
    with pytest.raises(interchange.Mismatch, match=r"more\.0 \[1\] is superfluous.*and 3 more"):
        interchange.load(folder(tmp_path, tensors))


def test_tensors_that_carry_nothing_are_left_out(tmp_path):
    check(interchange.load(folder(tmp_path, {**toy.tensors(), "steps.count": np.zeros(1, np.float32)}))[1])


def test_copies_and_computed_tensors_are_checked(tmp_path):
    tensors = toy.tensors()
    with pytest.raises(interchange.Mismatch, match=r"again\.bias and layers\.0\.bias differ"):
        interchange.load(folder(tmp_path / "copy", {**tensors, "again.bias": tensors["again.bias"] + 1}))
    with pytest.raises(interchange.Mismatch, match=r"table/.*from the table that ToyModel computes"):
        interchange.load(folder(tmp_path / "table", {**tensors, "table": tensors["table"] + 0.1}))


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({**CONFIG, "act": "gelu"}, interchange.Refusal, "act = 'gelu' is not supported; supported: 'linear'"),
        ({**CONFIG, "rope": True}, interchange.Refusal, "sets rope = True, which this version does not know"),
        ({**CONFIG, "rope": False, "more": None}, None, ""),
        (
            {**CONFIG, "_class_name": "ToyModle"},
            ValueError,
            "'ToyModle' is not known. Valid: 'ToyModel', or another of the ",
        ),
        ({"width": 3}, interchange.Mismatch, "names no architecture.*; give .* names in docs.models.md"),
        ([1], limits.Refused, "holds list"),
        ("{", limits.Refused, "is not valid JSON"),
    ],
)
def test_configs(tmp_path, config, error, message):
    place = folder(tmp_path, config=config)
    if error is None:
        return check(interchange.load(place)[1])
    with pytest.raises(error, match=message):
        interchange.load(place)


@pytest.mark.parametrize("name", ["AllegroTransformer3DModel", "PriorTransformer2DModel", "AutoencoderKLMagvit"])
def test_strangers_are_not_answered_with_a_family_of_like_spelling(tmp_path, monkeypatch, name):
    monkeypatch.setattr(families, "FAMILIES", interchange.FAMILIES)
    listed = rf"one of the {len(interchange.FAMILIES)} names in docs/models\.md, models\.interchange\.FAMILIES"
    with pytest.raises(ValueError, match=f"'{name}' is not known. Valid: {listed}$"):
        interchange.load(folder(tmp_path, config={"_class_name": name}))


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("FluxTransfomer2DModel", "'FluxTransformer2DModel'"),
        ("fluxx", "'FluxTransformer2DModel'"),
        ("SD3", "'SD3Transformer2DModel'"),
        ("wan", "'(WanTransformer3DModel|AutoencoderKLWan)'"),
        ("UNet3DConditionModel", "'UNet2DConditionModel'"),
    ],
)
def test_a_misspelt_family_is_answered_with_the_nearest_first_and_where_the_others_are(monkeypatch, name, nearest):
    monkeypatch.setattr(families, "FAMILIES", interchange.FAMILIES)
    number = len(interchange.FAMILIES)
    listed = rf"Valid: {nearest}.*, or another of the {number} names in docs/models\.md"
    with pytest.raises(ValueError, match=listed) as raised:
        families.find(name)
    assert len(str(raised.value)) < 300


def test_the_page_lists_all_families():
    page = (pathlib.Path(__file__).parents[3] / "docs" / "models.md").read_text()
    assert [name for name in interchange.FAMILIES if name not in page] == []


@pytest.mark.parametrize(
    "norm_type, family, module",
    [("ada_norm_zero", "DiTTransformer2DModel", DiT), ("ada_norm_single", "PixArtTransformer2DModel", PixArt)],
)
def test_a_class_that_was_divided_is_what_its_norm_says(monkeypatch, tmp_path, norm_type, family, module):
    """As the configs of DiT-XL-2-256 and PixArt-XL-2-1024-MS were published, in 2022 and 2023."""
    monkeypatch.setattr(families, "FAMILIES", interchange.FAMILIES)
    config = {
        "_class_name": "Transformer2DModel",
        "_diffusers_version": "0.22.0.dev0",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": 72,
        "attention_type": "default",
        "caption_channels": None,
        "cross_attention_dim": None,
        "double_self_attention": False,
        "dropout": 0.0,
        "in_channels": 4,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-06,
        "norm_num_groups": 32,
        "norm_type": norm_type,
        "num_attention_heads": 16,
        "num_embeds_ada_norm": 1000,
        "num_layers": 28,
        "num_vector_embeds": None,
        "only_cross_attention": False,
        "out_channels": 8,
        "patch_size": 2,
        "sample_size": 32,
        "upcast_attention": False,
        "use_linear_projection": False,
    }
    if module is PixArt:
        config |= {"caption_channels": 4096, "cross_attention_dim": 1152, "sample_size": 128}
    assert folders.family_of(config, tmp_path) == family
    assert type(interchange.FAMILIES[family].build(config)) is module
    with pytest.raises(ValueError, match="'Transformer2DModel' is not known"):  # of Versatile Diffusion
        interchange.load(folder(tmp_path / "other", config=config | {"norm_type": "layer_norm"}))


def test_a_config_may_be_passed_as_an_argument(tmp_path):
    place = folder(tmp_path)
    (place / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json does.*it describes the weights beside"):
        interchange.load(place)
    check(interchange.load(place, config=CONFIG)[1])
    check(interchange.load(place, "ToyModel", config={"width": 3})[1])


@pytest.mark.parametrize("prefix", ["", "model.toy."])
def test_a_single_file_is_recognised_by_names_and_shapes(tmp_path, prefix):
    tensors = {prefix + name: tensor for name, tensor in toy.tensors().items()}
    others = {"first_stage_model.conv": np.zeros(1, np.float32)} if prefix else {}
    save_file(tensors | others, tmp_path / "toy.safetensors")
    module, params = interchange.load(tmp_path / "toy.safetensors")
    assert module == toy.Toy(3)
    check(params)


def test_the_nearest_known_architecture_is_named(tmp_path):
    tensors = toy.tensors(5)
    tensors.pop("layers.1.bias")
    save_file(tensors, tmp_path / "toy.safetensors")
    with pytest.raises(
        interchange.Mismatch,
        match=(
            r"is not a known network; the nearest is ToyModel, the toy of five \(diffusers names\): "
            r"layers\.1\.bias \[5\] is missing"
        ),
    ):
        interchange.load(tmp_path / "toy.safetensors")
    save_file({"other.weight": np.zeros(1, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(interchange.Mismatch, match=r"no known architecture has tensors named like other\.weight"):
        interchange.load(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"'Toymodel' is not known. Valid: 'ToyModel', or"):
        interchange.load(tmp_path / "toy.safetensors", "Toymodel")


def test_nothing_is_unpickled(tmp_path):
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "pickled" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(FileNotFoundError, match=r"but config\.json, diffusion_pytorch_model\.bin.*Pickled"):
        interchange.load(tmp_path / "pickled")
    (tmp_path / "one.ckpt").write_bytes(b"\x80\x04N.")
    with pytest.raises(
        limits.Refused, match=r"one\.ckpt: is damaged, or is not a PyTorch file|it is not a PyTorch file"
    ):
        interchange.load(tmp_path / "one.ckpt")
    with pytest.raises(FileNotFoundError, match=r"nothing: there is no such file or folder"):
        interchange.load(tmp_path / "nothing")


@pytest.mark.parametrize("damage", ["truncated", "garbage", "header"])
def test_damaged_files_are_refused(tmp_path, damage):
    file = folder(tmp_path) / FILE
    content = file.read_bytes()
    file.write_bytes({"truncated": content[:-4], "garbage": b"no tensors", "header": b"\xff" * 8 + content[8:]}[damage])
    with pytest.raises(limits.Refused, match=f"{re.escape(FILE)} is not a whole safetensors file"):
        interchange.load(tmp_path)


def test_an_occupied_folder_is_left_alone(tmp_path):
    module, params = interchange.load(folder(tmp_path))
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(FileExistsError, match="holds a network already"):
        interchange.save(tmp_path, module, jax.tree.map(lambda leaf: 0 * leaf, params))
    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize("layout", ["diffusers", "ours"])
@pytest.mark.parametrize("name, own", [("dit", False), ("dit_diffusers", True)])
def test_embeddings_that_differ_from_block_to_block_are_each_blocks_own(tmp_path, name, own, layout):
    case = published.case(name)
    module, params = interchange.load(case.folder(tmp_path / "theirs"))
    assert module.own_embeddings == own
    table = case.tensors()["transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"]
    found = params["label_embedding"]["embedding"]
    np.testing.assert_array_equal(found[1] if own else found, table)
    interchange.save(tmp_path / "ours", module, params, layout=layout)
    again, read = interchange.load(tmp_path / "ours")
    assert again == module
    jax.tree.map(np.testing.assert_array_equal, read, params)


def test_what_no_family_describes_is_not_written(tmp_path):
    _, params = interchange.load(folder(tmp_path / "theirs"))
    with pytest.raises(interchange.Refusal, match="trained = False cannot be written to it"):
        interchange.save(tmp_path / "ours", toy.Toy(3, trained=False), params)
    with pytest.raises(ValueError, match=r"no family describes a Dense\. Valid: DiT, Toy"):
        interchange.save(tmp_path / "ours", folders.nn.Dense(3), params)
    with pytest.raises(ValueError, match="dtype='float64' is not known"):
        interchange.save(tmp_path / "ours", toy.Toy(3), params, dtype="float64")
    assert not (tmp_path / "ours").exists()


def sparse(path, shapes):
    """A safetensors file of float32 zeros that takes no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + end)


@pytest.mark.slow
def test_a_published_file_is_recognised_among_all_families(tmp_path, monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", interchange.FAMILIES)
    _, shapes = published.listing("dit_original_xl_2")
    shapes["pos_embed"] = (1, 1024, 1152)  # of 512 x 512 pixels
    sparse(tmp_path / "dit.safetensors", shapes)
    found = folders.find(tmp_path / "dit.safetensors")
    assert (found.family.name, found.layout, found.module.shape) == ("DiT", "original", (64, 64, 4))
    del shapes["blocks.7.attn.proj.bias"]
    sparse(tmp_path / "dit.safetensors", shapes)
    with pytest.raises(
        interchange.Mismatch,
        match=(
            r"the nearest is DiT, DiT-XL/2, 512 x 512 \(original names\): blocks\.7\.attn\.proj\.bias \[1152\] is "
            r"missing\."
        ),
    ):
        folders.find(tmp_path / "dit.safetensors")


def test_a_dit_is_written_for_the_library_that_fits_its_clock():
    paper = DiT(2, 32, 1, 2, 3, shape=(8, 8, 4))
    assert families.family_of(paper).name == "DiT"
    assert families.family_of(paper.clone(frequency_shift=1)).name == "DiTTransformer2DModel"
    with pytest.raises(interchange.Refusal, match="own_embeddings = True cannot be written in this format"):
        interchange.FAMILIES["DiT"].describe(paper.clone(own_embeddings=True))
    with pytest.raises(
        interchange.Refusal, match=r"positions = 'rope' cannot be written in this format\. Valid: 'sincos'"
    ):
        families.family_of(paper.clone(positions="rope"))


def test_all_families_that_describe_a_network(monkeypatch):
    """Flux and Chroma have one class; no family can write a DiT of rotary positions."""
    monkeypatch.setattr(families, "FAMILIES", interchange.FAMILIES)
    flux = Flux(channels=16, width=32, depth=1, singles=1, heads=2, axes=(4, 6, 6))
    names = lambda module: [family.name for family in families.describing(module)]
    assert names(flux) == ["FluxTransformer2DModel"]
    assert names(flux.clone(strength=False, pooled_width=0, approximator=(8, 8, 1))) == ["ChromaTransformer2DModel"]
    paper = DiT(2, 32, 1, 2, 3, shape=(8, 8, 4))
    assert names(paper) == ["DiT", "LightningDiT"]
    assert names(paper.clone(positions="rope")) == names(folders.nn.Dense(3)) == []
    assert all(families.family_of(module) is families.describing(module)[0] for module in (flux, paper))


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn,
                                  ml_dtypes.float8_e5m2])  # fmt: skip
def test_a_number_that_is_not_finite_is_refused(tmp_path, kind):
    largest = float(ml_dtypes.finfo(kind).max)
    save_file({"a.weight": np.asarray([[-largest, 0.0, largest]], kind)}, tmp_path / "largest.safetensors")
    read = tensor_files.open_tensors(tmp_path / "largest.safetensors").read("a.weight")
    np.testing.assert_array_equal(read.astype(np.float64), [[-largest, 0.0, largest]])
    for wrong in (np.nan, -np.nan, np.inf, -np.inf):
        save_file({"a.weight": np.asarray([[0.0, wrong, 1.0]]).astype(kind)}, tmp_path / "wrong.safetensors")
        with pytest.raises(limits.Refused, match=r"wrong\.safetensors: a\.weight holds NaN or an infinite number"):
            tensor_files.open_tensors(tmp_path / "wrong.safetensors").read("a.weight")


@pytest.mark.parametrize("dtype, number, words", [
    ("float16", 65504, None), ("float16", -65520, r"layers\.0\.weight holds -65520\. Valid: .* 65504 in float16"),
    ("bfloat16", 65520, None), ("float32", np.nan, r"layers\.0\.weight holds nan\. Valid: finite numbers"),
    ("bfloat16", np.inf, r"layers\.0\.weight holds inf\. "),
])  # fmt: skip
def test_a_number_that_a_file_cannot_hold_is_not_written(tmp_path, dtype, number, words):
    """It would be infinite in the file, which no reader takes."""
    module, params = interchange.load(folder(tmp_path / "theirs"))
    params = {**params, "a": {**params["a"], "kernel": params["a"]["kernel"].at[2, 1].set(number)}}
    if words is None:
        interchange.save(tmp_path / "ours", module, params, dtype=dtype)
        assert float(interchange.load(tmp_path / "ours")[1]["a"]["kernel"][2, 1]) == pytest.approx(number, rel=2**-8)
        return
    with pytest.raises(ValueError, match=words):
        interchange.save(tmp_path / "ours", module, params, dtype=dtype)
    assert not (tmp_path / "ours" / FILE).exists()


def test_a_scale_that_is_not_finite_is_refused(tmp_path):
    tensors = {"a.weight": np.ones((2, 3), np.int8), "a.scale_weight": np.asarray([np.inf], np.float32)}
    save_file(tensors, tmp_path / "a.safetensors")
    stored = tensor_files.open_tensors(tmp_path / "a.safetensors")
    for read in (stored.read, stored.read_quantised):
        with pytest.raises(limits.Refused, match=r"a\.safetensors: a\.weight holds NaN or an infinite number"):
            read("a.weight")
