"""Tunings of low rank at their start: the draws of each factor, and what the denoiser receives of them."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.adapters import lora, lora_files, low_rank
from diffusion.io.leaf_names import leaves_of
from diffusion.published.stable_diffusion.network import ConditionalUNet
from tests.adapters.received import instead_of, reached, same, wide
from tests.text_to_image import made_pipelines

X, CLOCK = jnp.ones((1, 2, 2, 4)), jnp.zeros(1)
TARGETS = r"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k$"
KERNEL = "down_1_transformer_0/blocks/cross_attention/key/kernel"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(described, loaded) Stable Diffusion, tiny."""
    folder = made_pipelines.folder("sd", tmp_path_factory.mktemp("sd"))
    return text_to_image.described(folder), text_to_image.load(folder)


def factors(models, kind, seed=0, **arguments):
    """(tuning, weights, {"down": [in, r], ...} of the one layer)."""
    base, model = models
    tuning = kind(base, targets=TARGETS, **arguments)
    weights = tuning.init(jax.random.key(seed), model.params)
    return (
        tuning,
        weights,
        {path.rpartition("/")[2]: np.asarray(leaf) for path, leaf in leaves_of(weights["unet"]).items()},
    )


def uniform(draws, bound):
    """Whether numbers are uniform within a bound: extremes and variance within five standard deviations."""
    n = draws.size
    assert n > 300 and np.abs(draws).max() <= bound
    assert np.abs(draws).max() > bound * (1 - 12 / n)
    assert abs(draws.var() / (bound**2 / 3) - 1) < 5 * np.sqrt(0.8 / n)


def test_a_lora_draws_uniformly_of_the_inputs_and_begins_without_an_effect(models):
    """Bound 1 / sqrt(in), as peft draws A; B is zero."""
    tuning, _, found = factors(models, low_rank.lora, rank=16)
    assert found.keys() == {"down", "up"}
    uniform(found["down"], 1 / np.sqrt(24))
    assert found["down"].shape[-1] == 16 and not np.any(found["up"])
    assert tuning.networks == ("unet",) and not tuning.encodes
    assert (factors(models, low_rank.lora, rank=16, seed=1)[2]["down"] != found["down"]).all()


def test_a_loha_draws_its_first_pair_and_one_half_of_its_second(models):
    """B of the first pair has the bound 1 / sqrt(r); B' is zero, so that it begins without an effect."""
    _, _, found = factors(models, low_rank.loha, rank=16)
    assert found.keys() == {"down", "up", "down_2", "up_2"}
    uniform(found["down"], 1 / np.sqrt(24))
    uniform(found["down_2"], 1 / np.sqrt(24))
    uniform(found["up"], 1 / np.sqrt(16))
    assert not np.any(found["up_2"]) and (found["down"] != found["down_2"]).all()


def test_magnitudes_of_a_dora_begin_as_the_norms_of_the_kernel(models):
    _, _, found = factors(models, low_rank.dora, rank=2)
    kernel = np.asarray(leaves_of(models[1].params["unet"])[KERNEL], np.float64)[0]
    np.testing.assert_allclose(found["magnitude"].reshape(-1), np.sqrt((kernel**2).sum(0)).reshape(-1), rtol=1e-5)
    assert not np.any(found["up"])


def test_factors_of_a_lokr_are_near_the_square_root_and_its_small_one_is_zero(models):
    """Of [32, 24]: w1 [4, 4] and w2 [8, 6], itself of two factors where that has fewer numbers."""
    inputs, outputs = 24, 32
    for rank, names in ((3, {"lokr_w1", "lokr_w2_a", "lokr_w2_b"}), (4, {"lokr_w1", "lokr_w2"})):
        _, weights, _ = factors(models, low_rank.lokr, rank=rank)
        (layer,) = weights["unet"].values()
        assert layer.keys() == names and not np.any(layer["lokr_w1"])
        whole = layer["lokr_w2"] if rank == 4 else layer["lokr_w2_a"] @ layer["lokr_w2_b"]
        a, b = layer["lokr_w1"].shape
        assert (a * whole.shape[0], b * whole.shape[1]) == (outputs, inputs) and (a, b) == (4, 4)
        if rank == 4:  # two factors would have as many numbers
            ends = np.sqrt(whole.shape[1]) * np.array([whole.min(), whole.max()])
            assert -1 <= ends[0] < -0.8 and 0.8 < ends[1] <= 1
        else:
            for name in ("lokr_w2_a", "lokr_w2_b"):  # each uniform by its own number of inputs
                bound = 1 / np.sqrt(layer[name].shape[1])
                assert bound / 2 < np.abs(layer[name]).max() <= bound
            shares = [np.ravel(layer[name]) * np.sqrt(layer[name].shape[1]) for name in ("lokr_w2_a", "lokr_w2_b")]
            assert np.abs(shares[0][:18] - shares[1][:18]).min() > 1e-4  # of two keys


def test_layers_of_a_lokr_have_draws_of_their_own(models):
    base, model = models
    tuning = low_rank.lokr(base, rank=3, targets=TARGETS.replace("to_k", "to_[kv]"))
    first, second = tuning.init(jax.random.key(0), model.params)["unet"].values()
    assert all((first[name] != second[name]).all() for name in ("lokr_w2_a", "lokr_w2_b"))


def test_each_layer_of_a_stack_begins_for_itself():
    """Norms over the 5 inputs of each of 3 layers; B of a first pair has the bound 1 / sqrt(r), here 1 / 2."""
    kernel = np.random.default_rng(0).normal(size=(3, 5, 2, 7)) * np.array([1, 10, 100])[:, None, None, None]
    blank = {"down": np.zeros((3, 5, 4)), "up": np.zeros((3, 4, 2, 7))}
    begin = lambda **more: lora.started(jax.random.key(0), params, {"blocks": {"kernel": blank | more}})
    params = {"blocks": {"kernel": jnp.asarray(kernel, jnp.float32)}}
    dora = begin(magnitude=np.zeros((3, 2, 7)))["blocks"]["kernel"]
    np.testing.assert_allclose(dora["magnitude"], np.linalg.norm(kernel, axis=1), rtol=1e-5)
    loha = begin(down_2=np.zeros((3, 5, 6)), up_2=np.zeros((3, 6, 2, 7)))["blocks"]["kernel"]
    assert 0.45 < np.abs(loha["up"]).max() <= 0.5
    assert loha["up"].shape == (3, 4, 2, 7) and loha["down_2"].shape == (3, 5, 6)


KINDS = {"lora": low_rank.lora, "dora": low_rank.dora, "loha": low_rank.loha, "lokr": low_rank.lokr}


@pytest.mark.parametrize("rank, scale", [(3, 2.0 / 3), (4, 1.0)], ids=["two factors", "one matrix"])
def test_a_lokr_is_scaled_where_its_second_matrix_has_a_rank(rank, scale, models, monkeypatch):
    """W + alpha / r kron(w1, w2), or W + kron(w1, w2)."""
    base, model = models
    tuning = low_rank.lokr(base, targets=TARGETS, rank=rank, alpha=2.0)
    shapes = jax.eval_shape(tuning.init, jax.random.key(0), model.params)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    ((_, layer),) = weights["unet"].items()
    w2 = layer["lokr_w2"] if rank == 4 else layer["lokr_w2_a"] @ layer["lokr_w2_b"]
    instead_of(ConditionalUNet, monkeypatch)
    params = {"unet": wide(model.params["unet"])}
    network, *_ = tuning.apply(params, weights, X, CLOCK, {})
    before, after = (leaves_of(tree)[KERNEL][0].reshape(24, 32) for tree in (params["unet"], network))
    np.testing.assert_allclose(after - before, scale * np.kron(layer["lokr_w1"], w2).T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_read_with_the_scale_of_its_tuning(kind, models, tmp_path):
    base, model = models
    tuning = KINDS[kind](base, targets=TARGETS, rank=2, alpha=3.0)
    shapes = jax.eval_shape(tuning.init, jax.random.key(0), model.params)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    (path,) = tuning.write(tmp_path, weights, {"base_model": "made"})
    assert path == tmp_path / ("lycoris.safetensors" if kind in ("loha", "lokr") else low_rank.FILE)
    found = lora_files.load(path, {"unet": base.modules["unet"]})["unet"]
    assert list(found.scale.values()) == [1.5]
    if kind != "lokr":
        same(found.adapter, weights["unet"])


@pytest.mark.parametrize("parts", [("unet",), ("unet", "clip")], ids=["denoiser", "encoder too"])
def test_networks_receive_their_updates_and_no_gradient(parts):
    """W + s B A of the denoiser, and of the text encoders if there are some, which then read the prompt."""
    rng = np.random.default_rng(0)
    params = {part: {"k": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)} for part in ("unet", "clip", "vae")}
    weights = {part: {"down": jnp.full((3, 1), i + 1.0), "up": jnp.ones((1, 2))} for i, part in enumerate(parts)}
    updated = {part: params[part]["k"] + 0.5 * (i + 1) for i, part in enumerate(parts)}
    base = types.SimpleNamespace(
        denoiser=types.SimpleNamespace(apply=lambda variables, *arguments: (variables["params"]["k"], *arguments)),
        readers=("clip",),
        dtype_of=lambda part: "float32",
        with_text=lambda params, condition: condition | {"text": params["clip"]["k"], "vae": params["vae"]["k"]},
    )
    adapters = lambda weights: {part: lora_files.Lora({"k": one}, {"k": 0.5}) for part, one in weights.items()}
    tuning = low_rank.tuning_of_adapters(base, parts, "init", adapters, "write")
    assert (tuning.networks, tuning.encodes) == (parts, len(parts) == 2)
    assert (tuning.init, tuning.write) == ("init", "write")
    kernel, x, clock, condition = tuning.apply(params, weights, X, CLOCK, {"tokens": 1})
    same((x, clock), (X, CLOCK))
    np.testing.assert_allclose(kernel, updated["unet"], rtol=1e-6)
    assert condition.keys() == ({"tokens", "text", "vae"} if len(parts) == 2 else {"tokens"})
    if len(parts) == 2:
        np.testing.assert_allclose(condition["text"], updated["clip"], rtol=1e-6)
        same(condition["vae"], params["vae"]["k"])
    output = lambda params, weights: tuning.apply(params, weights, X, CLOCK, {})[0]
    assert not any(jax.tree.leaves(reached(lambda params: output(params, weights), params)))
    assert all(jax.tree.leaves(reached(lambda weights: output(params, weights), weights)["unet"]))
    attached = tuning.attach(types.SimpleNamespace(params=params, replaced=lambda params: params), weights)
    expected = {part: updated.get(part, params[part]["k"]) for part in params}
    assert attached.keys() == expected.keys()
    for part, kernel in expected.items():
        np.testing.assert_allclose(attached[part]["k"], kernel, rtol=1e-6)


@pytest.mark.extended
@pytest.mark.parametrize("kind", KINDS)
def test_the_denoiser_receives_what_attaching_gives_and_the_base_has_no_gradient(kind, models, monkeypatch):
    _, model = models
    tuning, weights, _ = factors(models, KINDS[kind], rank=2, alpha=1.0)
    weights = jax.tree.map(lambda leaf: leaf + 0.1, weights)
    params = {"unet": wide(model.params["unet"])}
    instead_of(ConditionalUNet, monkeypatch)
    apply = lambda params, weights: tuning.apply(params, weights, X, CLOCK, {"text": jnp.ones(3)})
    network, x, clock, condition = jax.jit(apply)(params, weights)
    same((x, clock, condition), (X, CLOCK, {"text": jnp.ones(3)}))
    model._programs["old"] = 1
    attached = tuning.attach(model, weights)
    changed = {name for name, leaf in leaves_of(network).items() if np.any(leaf != leaves_of(params["unet"])[name])}
    assert changed == {KERNEL} and not attached._programs
    for name, leaf in leaves_of(attached.params["unet"]).items():
        np.testing.assert_allclose(leaves_of(network)[name], leaf, rtol=1e-6, atol=1e-7)
    leaf = lambda params, weights: leaves_of(apply(params, weights)[0])[KERNEL]
    assert all(jax.tree.leaves(reached(lambda weights: leaf(params, weights), weights)))
    assert not any(jax.tree.leaves(reached(lambda unet: leaf({"unet": unet}, weights), params["unet"])))
    half = KINDS[kind](models[0], targets=TARGETS, rank=2, alpha=0.5).attach(model, weights)
    if kind in ("lora", "loha"):  # the update is alpha / r times the product
        update = lambda of: np.asarray(leaves_of(of.params["unet"])[KERNEL]) - leaves_of(params["unet"])[KERNEL]
        np.testing.assert_allclose(update(attached), 2 * update(half), rtol=1e-3, atol=1e-6)


@pytest.mark.extended
def test_by_default_the_rank_is_eight_and_the_scale_one(models):
    for kind in (low_rank.lora, low_rank.dora, low_rank.loha):
        _, weights, found = factors(models, kind)
        assert found["down"].shape[-1] == 8
        scaled = [kind(models[0], targets=TARGETS, **how).attach(models[1], jax.tree.map(jnp.ones_like, weights))
                  for how in ({}, {"alpha": 8.0})]  # fmt: skip
        same(*(one.params["unet"] for one in scaled))
