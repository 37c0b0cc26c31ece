"""The transformers of SD3 and Flux in use: training, guidance, rematerialisation, positions, and what they refuse.

(That they compute what the published ones do is tested with their checkpoints, in tests/models/interchange.)
"""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, objectives, parameterizations, samplers, schedules, timesteps
from diffusion.models.interchange import FAMILIES, Refusal, rows
from diffusion.models.interchange.folders import leaves_of, recognise, shapes_of
from diffusion.models.interchange.tensor_files import Tensors
from diffusion.models.layers import layer_masks, rotary
from diffusion.published.flux.network import Flux
from diffusion.published.stable_diffusion_3.network import MMDiT
from tests import numpy_programs
from tests.models.interchange import published

SIZES = {"channels": 4, "out_channels": 4, "width": 32, "heads": 2, "text_width": 12, "pooled_width": 10}
SD3 = MMDiT(**SIZES, depth=3, positions=6, sample_size=8, dual=1, qk_norm=True)
FLUX = Flux(**SIZES, depth=2, singles=2, axes=(4, 6, 6), strength=True)
NETWORKS = {"sd3": SD3, "flux": FLUX}
SCHEDULE = schedules.rectified_flow()
CLOCKS = {"sd3": lambda schedule, t: 1000 * t, "flux": parameterizations.time()}


def entries(model, key=0, batch=2):
    """A condition of random embeddings."""
    draw = lambda *shape: np.random.default_rng(key).normal(size=(batch, *shape)).astype(np.float32)
    condition = {"text": draw(5, model.text_width), "pooled": draw(model.pooled_width)}
    return condition | ({"strength": np.full(batch, 3.5, np.float32)} if getattr(model, "strength", False) else {})


def inputs(model, batch=2):
    x = np.random.default_rng(1).normal(size=(batch, 4, 8, model.channels)).astype(np.float32)
    return x, np.linspace(0.2, 0.9, batch, dtype=np.float32), entries(model, batch=batch)


def parameters(model):
    """Nowhere zero, as adaLN-Zero's would be at the start."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs(model))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape) / np.sqrt(s.shape[0]), jnp.float32), shapes)


def apply(model, params):
    return jax.jit(lambda x, t, condition: model.apply({"params": params}, x, t, condition))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns_by_flow_matching_with_and_without_remat(name):
    model = NETWORKS[name]
    params = parameters(NETWORKS[name])
    x, _, condition = inputs(model)
    objective = objectives.flow_matching(timesteps.logit_normal(SCHEDULE), clock=CLOCKS[name])
    keys = jax.random.split(jax.random.key(2), 2)

    def gradients(model):
        def loss(params):
            network = lambda *arguments: model.apply({"params": params}, *arguments)
            batch = {"x": x, "condition": condition}
            return objective({"model": network}, SCHEDULE, keys, batch, jnp.asarray(0))[0].mean()

        return jax.jit(jax.value_and_grad(loss))(params)

    plain = gradients(model)
    again = gradients(model.clone(remat="full"))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * jnp.abs(a).max())
    # A table that is not trained, and queries of the text where nothing needs what they find.
    silent = {"positions_table", "last_block/text/attention/query_norm/scale"} if name == "sd3" else set()
    leaves = leaves_of(plain[1])
    assert {path for path, leaf in leaves.items() if jnp.abs(leaf).max() == 0} == silent
    assert all(jnp.isfinite(leaf).all() for leaf in leaves.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_guided_samples_are_those_of_separate_calls(name):
    model = NETWORKS[name]
    params = parameters(NETWORKS[name])
    x, _, condition = inputs(model)
    network = apply(model, params)
    velocity = parameterizations.velocity(CLOCKS[name])
    conditions = condition, entries(model, key=1)
    if name == "sd3":  # a layer left out of the second branch alone
        conditions = tuple({**c, "skip": layer_masks.mask(2, 3, layers)} for c, layers in zip(conditions, ((), (1,))))
    grid = timesteps.shift(SCHEDULE, timesteps.uniform(SCHEDULE, steps=3), 3.0)
    denoise = guidance.classifier_free(guidance.together(network, SCHEDULE, velocity, conditions), scale=4.0)
    keys = jax.random.split(jax.random.key(2), 2)
    found = jax.jit(lambda x: samplers.sample(samplers.euler(), denoise, SCHEDULE, x, timesteps.plan(grid), keys))(x)

    expected = x
    for t, s in itertools.pairwise(grid):
        clock = jnp.full(2, CLOCKS[name](SCHEDULE, t), jnp.float32)
        wanted, other = (network(expected, clock, c) for c in conditions)
        assert jnp.abs(wanted - other).max() > 0.1
        expected = expected + (s - t) * (other + 4.0 * (wanted - other))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * jnp.abs(expected).max())


@pytest.mark.slow
def test_one_extra_token_is_a_residual_for_every_patch():
    """A softmax over one key is one, whatever the query: its value is added everywhere."""
    x, t, condition = inputs(SD3)
    key, value = np.random.default_rng(3).normal(size=(2, 2, 1, SD3.width)).astype(np.float32)
    network = apply(SD3, parameters(SD3))
    extra = ((key, value), (key, value), (key, 0 * value))  # residuals are not added after the last layer
    found = network(x, t, {**condition, "extra": (extra,)})
    expected = network(x, t, {**condition, "residuals": (value.repeat(8, axis=1),)})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert jnp.abs(expected - network(x, t, condition)).max() > 0.01


@pytest.mark.slow
def test_remat_keeps_less():
    for model in NETWORKS.values():
        kept = {}
        arguments = inputs(model)
        params = jax.eval_shape(model.init, jax.random.key(0), *arguments)
        for remat in ("none", "full"):
            run = model.clone(remat=remat).apply
            _, pullback = jax.eval_shape(lambda p, run=run, a=arguments: jax.vjp(lambda p: run(p, *a), p), params)
            kept[remat] = sum(leaf.size for leaf in jax.tree.leaves(pullback))
        assert kept["full"] < 0.7 * kept["none"]


def test_the_table_of_positions_starts_as_diffusers_makes_it():
    case = published.case("mmdit_sd3")
    module = FAMILIES["SD3Transformer2DModel"].build(case.config)
    key = jax.random.key(0)  # which the table does not depend on
    table = numpy_programs.outputs(lambda: module.initial_positions(key)).reshape(1, -1, module.width)
    np.testing.assert_allclose(table, case.kept["pos_embed.pos_embed"], atol=2e-6)


@pytest.mark.parametrize(("positions", "top", "left"), [(6, 1, 1), (7, 2, 1), (8, 2, 2)])
def test_a_picture_has_the_middle_of_the_table_of_positions(positions, top, left):
    """3 x 4 patches from floor((P - side) / 2) on, as SD3's PatchEmbed crops its table."""
    model = SD3.clone(positions=positions, width=4)
    table = np.random.default_rng(0).normal(size=(positions, positions, 4))
    found = model.positioned(np.zeros((1, 12, 4)), table, 6, 8)
    np.testing.assert_array_equal(found[0], table[top : top + 3, left : left + 4].reshape(12, 4))


@pytest.mark.parametrize(
    ("model", "residuals", "expected"),
    [
        (SD3.clone(depth=5), "ab", "aaabb"),  # floor(2 i / 5)
        (SD3.clone(depth=5), "abc", "aabbc"),
        (FLUX.clone(depth=5, singles=4), ("ab", "cde"), ("aaabb", "ccdd")),  # floor(i / 3), floor(i / 2)
        (FLUX.clone(depth=5, singles=4), ("abcd", ""), ("aabbc", "")),
    ],
)
def test_fewer_residuals_than_layers_are_spread_as_diffusers_does(model, residuals, expected):
    """SD3Transformer2DModel divides the number of a layer by L / K, FluxTransformer2DModel by ceil(L / K)."""
    assert model.spread(residuals) == tuple(map(tuple, expected) if isinstance(expected, tuple) else expected)


@pytest.mark.slow
def test_rotary_positions_are_turns_in_the_complex_plane():
    rng = np.random.default_rng(0)
    places = rng.integers(0, 60, (7, 3))
    sizes = (4, 6, 6)
    x = rng.normal(size=(2, 7, 3, 16))
    waves = [place[:, None] / 10_000 ** (2 * np.arange(size // 2) / size) for place, size in zip(places.T, sizes)]
    expected = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * np.concatenate(waves, axis=1))[:, None]
    found = np.asarray(rotary.turn(jnp.asarray(x, jnp.float32), rotary.axis_angles(places, sizes)))
    np.testing.assert_allclose(found[..., ::2] + 1j * found[..., 1::2], expected, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("sd3", {"heads": 3}, "heads=3 does not divide width=32"),
        ("sd3", {"dual": 3}, "dual=3.*depth - 1 = 2"),
        ("sd3", {"positions": 0}, "positions=0 must be positive"),
        ("sd3", {"remat": "ful"}, "remat='ful'.*mean 'full'"),
        ("flux", {"axes": (4, 6, 8)}, r"axes=\(4, 6, 8\).*the width of a head"),
        ("flux", {"axes": (5, 5, 6)}, r"axes=\(5, 5, 6\).*be 3 even numbers"),
        ("flux", {"singles": 0}, "singles=0 must be positive"),
        ("flux", {"approximator": (8, 12, 2)}, r"approximator=\(8, 12, 2\) takes no strength \(strength=True\)"),
    ],
)
def test_bad_fields_are_refused_where_they_are_written(name, fields, message):
    with pytest.raises(ValueError, match=message):
        NETWORKS[name].clone(**fields)


@pytest.mark.extended
def test_masks_and_residuals_of_the_pictures_patches_leave_the_edited_picture_alone():
    """Beside an edited picture both are of the 8 patches of x; the last residual alone moves x's own patch."""
    x, t, condition = inputs(FLUX)
    draw = lambda *shape: np.random.default_rng(4).normal(size=shape).astype(np.float32)
    keys = draw(2, 3, FLUX.width)
    condition |= {"picture": draw(2, 2, 4, FLUX.channels)}

    def call(mask, residual):
        extra = ((keys, keys, mask),) * FLUX.depth
        nothing = jnp.zeros_like(residual)
        added = {"extra": (extra,), "residuals": ((nothing,), (nothing, residual))}
        return evaluate(x, t, condition | added)

    evaluate = apply(FLUX, parameters(FLUX))
    nowhere, zeros = np.zeros((2, 8), np.float32), np.zeros((2, 8, FLUX.width), np.float32)
    plain = evaluate(x, t, condition)
    np.testing.assert_array_equal(call(nowhere, zeros), plain)
    assert (call(nowhere + 1, zeros) != plain).all()
    one = zeros.copy()
    one[:, 5] = draw(2, FLUX.width)  # in the second row of 4 patches, the second
    own = np.zeros((2, 4, 8, 1), bool)
    own[:, 2:, 2:4] = True
    np.testing.assert_array_equal(call(nowhere, one) != plain, np.broadcast_to(own, plain.shape))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sd3", {"pooled": None}, "the condition has no 'pooled'"),
        ("sd3", {"label": np.zeros(2, int)}, "'label', which this network does not know.*'skip'"),
        ("sd3", {"text": np.zeros((2, 5, 11))}, r"'text' must.*, text_width\].*, 12\); got \(2, 5, 11"),
        ("sd3", {"pooled": np.zeros((1, 10))}, r"'pooled' must be \[B, pooled_width\] = \(2, 10\); got \(1, 10"),
        ("sd3", {"skip": np.zeros((2, 4), bool)}, r"'skip' has shape \(2, 4\).*\(2, 3\)"),
        ("sd3", {"residuals": (np.zeros((2, 7, 32)),)}, r"picture's tokens, \(2, 8, 32\); got \(2, 7, 32\)"),
        ("sd3", {"residuals": ()}, "1 to 3 arrays; got 0"),
        ("sd3", {"extra": (((np.zeros((2, 3, 32)),) * 2,),)}, "image prompt 0: this network has 3 layers .* got 1"),
        (
            "sd3",
            {"extra": (((np.zeros((2, 3, 30)),) * 2,) * 3,)},
            r"layer 0: .*\(2, K, 32\).* \(2, 8\); got \[\(2, 3, 30\)",
        ),
        ("sd3", {"x": np.zeros((2, 4, 8, 3))}, r"latents \[B, H, W, 4\]; got .* \(2, 4, 8, 3\)"),
        ("sd3", {"x": np.zeros((2, 4, 14, 4))}, "4 x 14 need more patches of 2 on a side than the"),
        ("sd3", {"x": np.zeros((2, 4, 7, 4))}, "patch=2 does not divide height 4 and width 7"),
        ("sd3", {"t": np.zeros(3)}, r"t \[B\] = \(2,\); got shape \(3,\)"),
        ("flux", {"strength": None}, "the condition has no 'strength'"),
        ("flux", {"strength": np.zeros((2, 1))}, r"'strength' must be \[B\] = \(2,\); got \(2, 1\)"),
        ("flux", {"picture": np.zeros((2, 3, 4, 4))}, r"'picture' must.*with even h and w; got \(2, 3, 4, 4"),
        ("flux", {"skip": np.zeros((2, 2), bool)}, "'skip', which this network does not know"),
        ("flux", {"residuals": (np.zeros((2, 8, 32)),)}, "a pair of tuples, .* got 1"),
        ("flux", {"residuals": ((), (np.zeros((2, 8, 30)),))}, r"picture's tokens, \(2, 8, 32\); got \(2, 8, 30\)"),
    ],
)
def test_bad_calls_are_refused(name, change, message):
    model = NETWORKS[name]
    x, t, condition = inputs(model)
    condition |= {key: value for key, value in change.items() if key not in ("x", "t")}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), change.get("x", x), change.get("t", t), condition)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("SD3Transformer2DModel", {"caption_projection_dim": 1152}, "caption_projection_dim = 1152 .* = 1536"),
        ("SD3Transformer2DModel", {"dual_attention_layers": [1, 2]}, r"dual_attention_layers = \(1, 2\) is not supp"),
        ("SD3Transformer2DModel", {"qk_norm": "layer_norm"}, "qk_norm = 'layer_norm' is not supported"),
        ("SD3Transformer2DModel", {"force_zeros_for_pooled_projection": True}, "which this version does not know"),
        ("FluxTransformer2DModel", {"patch_size": 2}, "patch_size = 2 is not supported"),
        ("ChromaTransformer2DModel", {"guidance_embeds": True}, "which this version does not know"),
        ("FluxTransformer2DModel", {"rope_theta": 2000}, "rope_theta = 2000, which this version does not know"),
    ],
)
def test_configs_that_ask_for_more_are_refused(family, change, message):
    known = FAMILIES[family]
    with pytest.raises(Refusal, match=message):
        known.build({**next(iter(known.published.values())), **change})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "name"),
    [(f, name) for f in ("SD3Transformer2DModel", "FluxTransformer2DModel") for name in FAMILIES[f].published],
)
def test_a_single_file_is_recognised_among_the_published(family, name):
    """By names and shapes alone: fill and depth differ from Flux-dev in the channels of one tensor."""
    known = FAMILIES[family]
    module = known.build(known.published[name])
    shapes = rows.their_shapes(known.tables["original"](module), leaves_of(shapes_of(known, module)))
    shapes = {f"model.diffusion_model.{key}": shape for key, shape in shapes.items()}
    whole = {**shapes, "first_stage_model.decoder.conv_in.weight": (512, 16, 3, 3)}
    file = pathlib.Path("x.safetensors")
    found = recognise(Tensors(file, dict.fromkeys(whole, file), {key: key for key in whole}, whole), family)
    assert found.module == module and found.layout == "original" and len(found.tensors.shapes) == len(shapes)
