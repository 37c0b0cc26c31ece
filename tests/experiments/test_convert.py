"""experiments.convert: folders, single files with several networks, runs, and what is left over."""

import contextlib
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file

from configs import digits
from diffusion.experiments import convert
from diffusion.models import interchange
from diffusion.models.interchange import FAMILIES, folder_writing, folders
from diffusion.recipe import ConfigError
from diffusion.recipe.parts import Resolver
from diffusion.recipe.values import to_json
from diffusion.training import warm_start
from diffusion.training.checkpointing.checkpoint_writer import Checkpoints
from tests import command_flags
from tests.adapters import test_lora_files
from tests.drawn_parameters import drawn
from tests.models.interchange import published
from tests.training import toys

SMALL = {"UNet2DConditionModel": "conditional_unet_original_sd1", "AutoencoderKL": "autoencoder_kl_original"}


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def small_networks(monkeypatch):
    """One small U-Net and one small autoencoder are published, and nothing else of their families."""
    configs = {name: published.case(case).config for name, case in SMALL.items()}
    for name, config in configs.items():
        monkeypatch.setitem(FAMILIES, name, FAMILIES[name]._replace(published={"small": config}, beside={}))
    return configs


def whole_file(place, configs, extra=()):
    """A single file as ldm's: both networks under their prefixes, with the schedule's tables beside them."""
    tensors = {"betas": np.zeros(3, np.float32), **{name: np.zeros(2, np.float32) for name in extra}}
    for name, prefix in (("UNet2DConditionModel", "model.diffusion_model."), ("AutoencoderKL", "first_stage_model.")):
        family = FAMILIES[name]
        module = family.build(configs[name])
        params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), folders.shapes_of(family, module))
        written = folder_writing.write(family, module, "original", params)
        tensors |= {prefix + key: np.ascontiguousarray(array) for key, array in written}
    save_file(tensors, place)
    return place


@pytest.mark.slow
def test_a_file_with_several_networks_becomes_one_folder_each(small_networks, tmp_path):
    path = whole_file(tmp_path / "all.safetensors", small_networks)
    found = {name: (module, params) for name, module, params in convert.networks(path)}
    assert found.keys() == small_networks.keys()
    for name, (module, params) in found.items():
        assert module == FAMILIES[name].build(small_networks[name])
        assert all((leaf == 0.5).all() for leaf in jax.tree.leaves(params))


@pytest.mark.extended
def test_what_no_network_takes_is_named(small_networks, tmp_path):
    path = whole_file(tmp_path / "all.safetensors", small_networks, extra=("cond_stage_model.secret",))
    with pytest.raises(interchange.Mismatch, match=r"1 tensors belong to no known network, such as cond_stage"):
        list(convert.networks(path))


@pytest.mark.slow
def test_the_command_and_back(tmp_path):
    """diffusers' names in half precision, then our own names: the numbers are those of the source, rounded once."""
    source = published.case("dit").folder(tmp_path / "theirs")
    command = lambda *flags: subprocess.run(
        [sys.executable, "-m", "experiments.convert", *flags], capture_output=True, text=True, timeout=300
    )
    done = command(f"--source={source}", f"--out={tmp_path / 'half'}", "--dtype=float16")
    assert done.returncode == 0, done.stderr
    module, params = interchange.load(source)
    half, rounded = interchange.load(tmp_path / "half")
    assert half == module and "DiT" in done.stdout
    equal(rounded, jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16).astype(np.float32), params))

    again = command(f"--source={source}", f"--out={tmp_path / 'half'}")
    assert again.returncode == 1 and "holds a network already" in again.stderr and "Traceback" not in again.stderr


def test_our_own_names(tmp_path):
    """The layout that a run's config.init_from.path reads: names of our leaves."""
    module, params = interchange.load(published.case("dit").folder(tmp_path / "theirs"))
    interchange.save(tmp_path / "ours", module, params, layout="ours")
    (file,) = (tmp_path / "ours").glob("*.safetensors")
    assert load_file(file).keys() == {name.replace("/", ".") for name in folders.leaves_of(params)}
    assert "_class_name" in json.loads((tmp_path / "ours" / "config.json").read_text())
    again, read = interchange.load(tmp_path / "ours")
    assert again == module
    equal(read, params)


@pytest.mark.extended
def test_a_run_becomes_a_network_and_the_start_of_another_run(tmp_path):
    config = digits.get_config("tiny")
    config.data.shape = (8, 8, 1)
    module = Resolver(config).model((8, 8, 1))
    inputs = (jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
    average = drawn(module.init, *inputs)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(to_json(config))
    with contextlib.closing(Checkpoints(tmp_path / "run")) as saver:
        saver.save(toys.make_state()._replace(ema=average))
    ((name, found, params),) = convert.networks(tmp_path / "run")
    assert (name, type(found)) == ("", type(module))
    equal(params, average["params"])
    interchange.save(tmp_path / "ours", found, params, layout="ours")
    (file,) = (tmp_path / "ours").glob("*.safetensors")
    fresh = jax.tree.map(jnp.zeros_like, average)
    started, taken, skipped = warm_start.warm_start(fresh, warm_start.read(file))
    equal(started, average)
    assert len(taken) == len(jax.tree.leaves(average)) and skipped == []


def test_a_lora_file_needs_the_pipeline_that_it_belongs_to(tmp_path):
    save_file({"unet.a.lora_A.weight": np.zeros((1, 2), np.float32)}, tmp_path / "style.safetensors")
    words = [f"--source={tmp_path}/style.safetensors", f"--out={tmp_path}/out"]
    with command_flags.of("diffusion.experiments.convert", *words) as (_, start):
        with pytest.raises(
            ConfigError, match=r"style\.safetensors is a LoRA file\. Valid: --base=FOLDER, the pipeline"
        ):
            start.args[0]([])


@pytest.mark.slow
def test_a_lora_file_of_kohya_becomes_that_of_peft(tmp_path):
    """Tensor for tensor diffusers' own file, but for a prefix that transformers dropped in version 5."""
    about, _, _ = test_lora_files.fixture()
    for component, name in test_lora_files.CLASSES.items():
        (tmp_path / "base" / component).mkdir(parents=True)
        config = about[f"{component.removesuffix('_encoder')}_config"]
        about_it = {"_class_name": name} if component == "unet" else {"architectures": [name]}
        (tmp_path / "base" / component / "config.json").write_text(json.dumps({**config, **about_it}))
    kohya = test_lora_files.file("kohya", tmp_path / "kohya.safetensors")
    theirs = load_file(test_lora_files.file("peft", tmp_path / "theirs.safetensors"))
    save_file(load_file(kohya), kohya, metadata={"format": "pt", "trigger_words": "<cat>", "base_model": "sd"})
    changed = convert.convert_lora(kohya, tmp_path / "base", tmp_path / "peft.safetensors")
    assert set(changed) == set(test_lora_files.CLASSES)
    bare = lambda tensors: {name.replace("text_model.", ""): array for name, array in tensors.items()}
    ours = bare(load_file(tmp_path / "peft.safetensors"))
    theirs = bare(theirs)
    with safetensors.safe_open(tmp_path / "peft.safetensors", "np") as file:
        assert {"trigger_words": "<cat>", "base_model": "sd"}.items() <= file.metadata().items()
    assert ours.keys() == theirs.keys()
    equal(ours, theirs)
    card = (tmp_path / "peft.md").read_text()
    for line in (
        'license: "unknown"',
        'base_model: "sd"',
        'instance_prompt: "<cat>"',
        "Converted from `kohya.safetensors`",
    ):
        assert line in card
    with pytest.raises(ConfigError, match=r"--out=.*/peft: .*Valid: a name that ends in \.safetensors"):
        convert.convert_lora(kohya, tmp_path / "base", tmp_path / "peft")
    with pytest.raises(FileExistsError, match="exists already"):
        convert.convert_lora(kohya, tmp_path / "base", tmp_path / "peft.safetensors")
    with pytest.raises(FileNotFoundError, match="no folder of a known network"):
        convert.convert_lora(kohya, tmp_path / "nothing", tmp_path / "other.safetensors")
