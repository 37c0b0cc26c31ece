"""Runs that teach a denoiser to follow a control: what trains, what stays, what is written and sampled."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from diffusion import text_to_image
from diffusion.adapters import control
from diffusion.adapters.inpainting import inpainting as inpainting_of
from diffusion.data import sources
from diffusion.data.transforms import to_model
from diffusion.experiments import train
from diffusion.experiments.sampling import tuned_run
from diffusion.models import interchange
from diffusion.published.pixart.control_net import PixArtControlNet
from diffusion.published.pixart.network import PixArt
from diffusion.recipe import ConfigError, checks
from diffusion.training.checkpointing import checkpoints
from tests.experiments.run.made_tuning import config as config_of, pictures
from tests.experiments.run.test_tuning import begun, same
from tests.text_to_image import made_pipelines

UNETS = ("sd", "xl")
TRANSFORMERS = ("pixart", "mmdit", "flux")
WRITTEN = {
    "sd": "ControlNetModel",
    "xl": "ControlNetModel",
    "pixart": "PixArtControlNetAdapterModel",
    "mmdit": "SD3ControlNetModel",
    "flux": "FluxControlNetModel",
}


def config(place, pipeline="sd", **changes):
    made = config_of(place, {"name": "control_net"}, pipeline, **changes)
    made.data.source = {"name": "controlled", "of": made.data.source.to_dict(), "control": {"name": "edges"}}
    return made


def received(batch):
    """The condition of a batch as the train step has it."""
    scaled = lambda leaf: to_model(leaf) if leaf.dtype == np.uint8 else leaf
    return jax.tree.map(scaled, batch["condition"])


@pytest.mark.extended
def test_a_control_net_begins_as_a_copy_with_zero_convolutions(tmp_path):
    tuning = checks.validate(config(tmp_path)).companions.tuned.tuning
    draw = lambda leaf: np.random.default_rng(leaf.size).standard_normal(leaf.shape).astype(np.float32)
    base = {"unet": jax.tree.map(draw, tuning.base.params["unet"])}
    begun = jax.jit(tuning.init)(jax.random.key(0), base)
    copied = {name for name in begun if not name.startswith(("hint", "residual"))}
    assert copied == {name for name in base["unet"] if not name.startswith(("up", "norm_out", "conv_out"))}
    for name in copied:
        same(begun[name], base["unet"][name])
    zero = [name for name in begun if name.startswith("residual") or name == "hint_out"]
    assert len(zero) == 6 and not any(leaf.any() for name in zero for leaf in jax.tree.leaves(begun[name]))
    assert all(np.ptp(begun[f"hint_{name}"]["kernel"]) > 0 for name in ("in", "0_same", "0_half"))


@pytest.mark.extended
@pytest.mark.parametrize("pipeline", TRANSFORMERS)
def test_a_transformers_control_net_begins_as_its_first_layers_with_zeros_behind(tmp_path, pipeline):
    tuning = checks.validate(config(tmp_path, pipeline)).companions.tuned.tuning
    draw = lambda leaf: np.random.default_rng(leaf.size).standard_normal(leaf.shape).astype(np.float32)
    base = jax.tree.map(draw, tuning.base.params["transformer"])
    begun = jax.jit(tuning.init)(jax.random.key(0), {"transformer": base})
    for name, part in begun.items():
        if name in base:
            jax.tree.map(lambda leaf, of: np.testing.assert_array_equal(leaf, of[: len(leaf)]), part, base[name])
        else:
            assert name.startswith(("before", "hint_embedding", "residual", "single_residual"))
            assert not any(leaf.any() for leaf in jax.tree.leaves(part))
    assert "blocks" in begun and begun.keys() - base.keys()


class OwnPixArt(PixArt):
    """A network of a user's that is a PixArt."""


class OwnControlNet(PixArtControlNet):
    """A ControlNet of a user's."""


class Named(OwnPixArt):
    """A network of a user's that names its ControlNet."""

    control_net = OwnControlNet


@pytest.mark.parametrize("kind, module", [(OwnPixArt, PixArtControlNet), (Named, OwnControlNet)])
def test_a_network_of_a_users_has_the_control_net_of_its_class_or_its_own(kind, module, monkeypatch):
    made = []
    monkeypatch.setattr(control.module_folder, "writer", lambda of, name: made.append(of))
    denoiser = kind((8, 8, 4), width=24, depth=3, heads=2, text_width=8)
    base = types.SimpleNamespace(
        denoiser=denoiser, kind=types.SimpleNamespace(denoiser=types.SimpleNamespace(folder="transformer"))
    )
    assert control.control_net(base).latents == (control.NAME,)
    assert [type(one) for one in made] == [module] and (made[0].depth, made[0].heads) == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", [*UNETS, *TRANSFORMERS])
def test_a_control_net_trains_alone(tmp_path, pipeline):
    """Step 0 is the base to the bit, operation by operation; then the new weights train, and no bit of the base."""
    recipe, made, state, batch = begun(config(tmp_path, pipeline), tmp_path)
    assert batch["condition"]["control"].dtype == (jnp.uint8 if pipeline in UNETS else jnp.float32)
    kept = jax.tree.map(np.array, state.unsaved["base"])
    x = jax.random.normal(jax.random.key(0), batch["x"].shape)
    clock = jnp.full(len(x), 0.5 if pipeline == "flux" else 500.0)
    captions = received(batch)
    other = {**captions, "control": -captions["control"]}
    prompts = {name: entry for name, entry in captions.items() if name != "control"}
    plain = recipe.network.plain(kept, x, clock, prompts)
    np.testing.assert_array_equal(plain, recipe.network.apply(kept, state.params, x, clock, captions))
    tuned = jax.jit(lambda weights, captions: recipe.network.apply(kept, weights, x, clock, captions))
    before = tuned(state.params, captions)
    np.testing.assert_array_equal(before, tuned(state.params, other))
    np.testing.assert_allclose(before, plain, rtol=0, atol=1e-6)  # one program, whose sums have another order
    state, metrics = made.step(state, batch, made.seed)
    assert float(metrics["grad_norm"]) > 0
    same(state.unsaved["base"], kept)
    residuals = [name for name in state.params if "residual_" in name]
    assert residuals and all(np.abs(state.params[name]["bias"]).max() > 0 for name in residuals)
    assert np.abs(tuned(state.params, captions) - before).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", [*UNETS, *TRANSFORMERS])
def test_a_run_is_sampled_as_its_file_and_goes_on(tmp_path, pipeline):
    """A run of two steps is, bit for bit, the one that stopped after its first."""
    made = config(tmp_path, pipeline)
    run = tmp_path / "run"
    assert train.run(made, run) == 0
    folder = run / "tuning" / control.FOLDER
    with safetensors.safe_open(folder / "diffusion_pytorch_model.safetensors", "np") as file:
        about = file.metadata()
    assert about["base_model"].startswith(f"{pipeline} (") and len(about["config_sha256"]) == 64
    assert json.loads((folder / "config.json").read_text())["_class_name"] == WRITTEN[pipeline]
    by_run, *_ = tuned_run.load(run)
    by_file = text_to_image.load(made.base.path, attachments={"control": folder})
    same(by_run.attachments["control"].params, by_file.attachments["control"].params)
    edges = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    draw = lambda model, *controls: text_to_image.generate(
        model, "a cat", steps=2, guidance=1.0, height=16, width=16, controls=controls
    )
    followed = draw(by_run, ("control", edges))
    np.testing.assert_array_equal(followed, draw(by_file, ("control", edges)))
    plain = draw(by_file)
    assert (followed != plain).any()
    np.testing.assert_array_equal(draw(by_file, ("control", edges, 0.0)), plain)
    if pipeline != "sd":
        parted = config(tmp_path, pipeline, **{"train.steps": 1})
        assert train.run(parted, tmp_path / "parted") == 0
        assert train.run(made, tmp_path / "parted") == 0
        same(checkpoints.load_ema(tmp_path / "parted")[0], checkpoints.load_ema(run)[0])


def sketched(place, pipeline):
    made = config_of(place, {"name": "t2i_adapter"}, pipeline)
    made.data.source = {"name": "controlled", "of": made.data.source.to_dict(), "control": {"name": "sketch"}}
    return made


@pytest.mark.extended
@pytest.mark.parametrize("pipeline", ["sd", "xl"])
def test_a_t2i_adapter_for_levels_that_no_published_kind_fits_is_refused(tmp_path, pipeline):
    with pytest.raises(ConfigError, match=r"no published kind of T2I-Adapter has features of the shapes"):
        checks.validate(sketched(tmp_path, pipeline))


@pytest.mark.slow
def test_a_t2i_adapter_trains_alone_goes_on_and_is_written(tmp_path):
    """A run of two steps is, bit for bit, the one that stopped after its first, and its file the run."""
    made_pipelines.attentive(tmp_path / "sd")
    made = sketched(tmp_path, "sd")
    recipe, program, state, batch = begun(made, tmp_path)
    kept = jax.tree.map(np.array, state.unsaved["base"])
    first = jax.tree.map(np.array, state.params)
    state, _ = program.step(state, batch, program.seed)
    same(state.unsaved["base"], kept)
    for name, part in state.params.items():
        assert (part["kernel"] != first[name]["kernel"]).any(), name
    run = tmp_path / "run"
    assert train.run(made, run) == 0
    parted = sketched(tmp_path, "sd")
    parted.train.steps = 1
    assert train.run(parted, tmp_path / "parted") == 0
    assert train.run(made, tmp_path / "parted") == 0
    same(checkpoints.load_ema(tmp_path / "parted")[0], checkpoints.load_ema(run)[0])
    by_run, *_ = tuned_run.load(run)
    by_file = text_to_image.load(
        recipe.companions.tuned.base.path, attachments={"control": run / "tuning" / "t2i_adapter"}
    )
    same(by_run.attachments["control"].params, by_file.attachments["control"].params)
    sketch = ("control", np.full((16, 16, 3), 200, np.uint8))
    draw = lambda model, *controls: text_to_image.generate(
        model, "a cat", steps=2, sampler="ddim", guidance=2.0, height=16, width=16, controls=controls
    )
    followed = draw(by_run, sketch)
    np.testing.assert_array_equal(followed, draw(by_file, sketch))
    assert (followed != draw(by_file)).any()


@pytest.mark.extended
@pytest.mark.parametrize("changes, pipeline, message", [
    ({}, "inpaint", "Flux, PixArt, MMDiT; the denoiser of this base is a ConditionalUNet of 9 channels"),
    ({"depth": 2}, "pixart", r"ControlNet of 2 layers does not fit: the layers of its base but the last are only 1"),
    ({"depth": 2}, "flux", r"ControlNet of 2 layers does not fit: the joint layers of its base are only 1"),
    ({"hint_widths": (4,)}, "mmdit", r"hint_widths = \(4,\) applies only to the ControlNet of a U-Net"),
    ({"depth": 2}, "sd", "depth = 2 applies only to the ControlNet of a transformer; a U-Net's ControlNet"),
    ({"hint_widths": (4, 8, 16)}, "sd", r"hint_widths = \(4, 8, 16\).*by 2\. Valid: 2 widths"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path, changes, pipeline, message):
    made = config_of(tmp_path, {"name": "control_net", **changes}, pipeline)
    with pytest.raises(ConfigError, match=message):
        checks.validate(made)


def test_data_without_a_control_and_mirrored_latents_are_refused(tmp_path):
    made = config_of(tmp_path, {"name": "control_net"}, "sd")
    with pytest.raises(ConfigError, match=r"config\.tuning reads control from each record"):
        begun(made, tmp_path / "run")
    made = config(tmp_path)
    made.data.augment = ({"name": "flip"},)
    with pytest.raises(ConfigError, match=r"config\.data\.augment = .* are stored, but not their mirrored control"):
        begun(made, tmp_path / "run")


@pytest.mark.extended
def test_a_control_net_of_another_library_opens_what_is_written(tmp_path):
    """The module of a folder that the tuning writes is the one that it trained, and its config diffusers' own."""
    made = config(tmp_path)
    tuning = checks.validate(made).companions.tuned.tuning
    shapes = jax.eval_shape(tuning.init, jax.random.key(0), tuning.base.params)
    weights = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes)
    tuning.write(tmp_path, weights, {"base_model": "sd"})
    tuning.write(tmp_path, weights, {"base_model": "sd"})  # once more, over the first
    module, params = interchange.load(tmp_path / control.FOLDER)
    same(params, weights)
    assert module.hint_widths == (16, 32) and module.unet.text_width == tuning.base.denoiser.text_width


def inpainting(place):
    made = config_of(place, {"name": "inpainting"}, "sd")
    made.data.source = {"name": "painted", "of": made.data.source.to_dict()}
    return made


@pytest.mark.slow
def test_inpainting_begins_as_the_base_and_sees_the_mask_once_it_has_trained(tmp_path):
    recipe, made, state, batch = begun(inpainting(tmp_path), tmp_path)
    kept = jax.tree.map(np.array, state.unsaved["base"])
    assert state.params["conv_in"]["kernel"].shape[2] == 9 and not state.params["conv_in"]["kernel"][:, :, 4:].any()
    x = jax.random.normal(jax.random.key(0), batch["x"].shape)
    clock = jnp.full(len(x), 500.0)
    captions = received(batch)
    loaded = text_to_image.load(recipe.companions.tuned.base.path)
    expected = loaded.denoiser.apply({"params": loaded.params["unet"]}, x, clock, {"text": captions["text"]})
    tuned = jax.jit(lambda weights, captions: recipe.network.apply(kept, weights, x, clock, captions))
    np.testing.assert_allclose(tuned(state.params, captions), expected, rtol=0, atol=1e-5)
    state, _ = made.step(state, batch, made.seed)
    same(state.unsaved["base"], kept)
    assert np.abs(state.params["conv_in"]["kernel"][:, :, 4:]).max() > 0
    other = {**captions, "mask": -captions["mask"]}
    assert np.abs(tuned(state.params, captions) - tuned(state.params, other)).max() > 1e-5
    model = recipe.companions.tuned.tuning.attach(loaded, state.params)
    assert model.sees_mask and not loaded.sees_mask


@pytest.mark.extended
def test_inpainting_is_of_the_bases_kind(tmp_path):
    """An SDXL under the name of its image-to-image class stays one of two text encoders."""
    folder = made_pipelines.folder("xl", tmp_path / "xl")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"))
    base = text_to_image.described(folder)
    assert base.name == "StableDiffusionXLImg2ImgPipeline"
    made = inpainting_of(base).attach(base, {})
    assert made.name == "StableDiffusionXLInpaintPipeline" and made.sees_mask and len(made.kind.prompts.readers) == 2
    for other in ("LatentConsistencyModelPipeline", "FluxPipeline"):
        with pytest.raises(
            ValueError, match=f"the base is a {other}, and that kind of model has no inpainting pipeline"
        ):
            inpainting_of(base.as_pipeline(other))


def test_masks_are_functions_of_the_row_and_cover_the_share(tmp_path):
    of = sources.picture_folder(str(pictures(tmp_path / "pictures")))
    source = sources.painted(of, 0.3, 0.4)
    masks = [source[row]["condition"]["mask"] for row in range(5)]
    np.testing.assert_array_equal(masks[2], source[2]["condition"]["mask"])
    assert all(set(np.unique(mask)) == {0, 255} and (mask > 0).mean() >= 0.3 for mask in masks)
    assert (masks[0] != masks[1]).any() and source.spec.condition["mask"] == sources.Leaf((16, 16, 1), "uint8")
    with pytest.raises(ValueError, match=r"least = 0\.5, most = 0\.4\. Valid"):
        sources.painted(of, 0.5, 0.4)
