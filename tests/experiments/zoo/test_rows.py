"""The rows of the zoo: what their files become, and the page that is made of them."""

import re
import types

import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import parameterizations, samplers, schedules, timesteps
from diffusion.experiments import convert
from diffusion.experiments.zoo import checkpoint_file, markdown, published_rows, sampling_cost, velocity_signs
from diffusion.metrics import encoder_protocols, protocols
from diffusion.models import interchange
from diffusion.models.dit import DiT
from diffusion.models.interchange import folders
from diffusion.recipe import ConfigError, checks, names
from tests.experiments.zoo import tiny_rows
from tests.metrics import torch_writer

OURS = [row for name, row in published_rows.ROWS.items() if not name.startswith("tiny_")]
# Millions of parameters, as the authors state them.
SIZES = {
    "dit_xl_2_256": 675,  # Peebles and Xie 2023
    "sit_xl_2_256_sde": 675,  # Ma et al. 2024
    "u_vit_h_2_256": 501,  # Bao et al. 2023
    "u_vit_l_2_256": 287,
    "lightning_dit_xl_1_256": 675,  # Yao and Wang 2025
    "rae_dit_dh_xl_256": 839,  # Zheng et al. 2025
    "ddt_xl_2_256": 675,  # Wang et al. 2025
    "pixnerd_xl_16_256": 700,  # Wang et al. 2025 (PixNerd)
    "jit_b_16_256": 131,  # Li and He 2025
    "jit_l_16_256": 459,
    "jit_h_16_256": 953,
    "edm2_xs_imagenet512": 125,  # Karras et al. 2024
    "edm2_s_imagenet512": 280,
    "edm2_m_imagenet512": 498,
    "edm2_l_imagenet512": 778,
    "edm2_xl_imagenet512": 1119,
    "edm2_xxl_imagenet512": 1523,
}


@pytest.mark.extended
def test_the_page_has_every_row_and_every_program():
    """But for what is computed of the networks, which one row stands for here."""
    unknown = markdown.Facts(1, sampling_cost.Cost(1, 10**9, 3600.0))
    page = markdown.page(OURS, lambda row: unknown)
    for row in OURS:
        assert f"| [{row.method}](#{row.name}) | {row.checkpoint.repository}, `{row.checkpoint.file}` |" in page
        assert f"\n{markdown.section(row, unknown)}" in page
        assert row.checkpoint.export in page
    assert len(re.findall("^### ", page, re.MULTILINE)) == len(OURS) == 48
    row = published_rows.ROWS["dit_xl_2_256"]
    section = markdown.section(row, markdown.facts(row))
    assert "DiT-XL/2, ImageNet 256: 674,834,720 parameters." in section
    assert "\n- Loss in training: about 0.19 after 5,000 steps and 0.17 after 100,000 for DiT-S/8, by" in section
    assert "Loss in training" not in markdown.section(published_rows.ROWS["dit_xl_2_512"], unknown)
    # 2 x 118.6: they count a multiplication with its addition as one
    assert "50,000, each by 500 evaluations of the network (237 GFLOP), in bfloat16" in section


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_the_networks_have_the_published_sizes(name):
    """Some count their fixed tables of positions, which are no parameters here."""
    parameters = markdown.facts(published_rows.ROWS[name]).parameters
    assert abs(parameters / 1e6 - SIZES[name]) < 1, parameters


def test_what_a_row_names_exists():
    for row in OURS:
        assert row.checkpoint.family in interchange.FAMILIES
        assert row.protocol in {**protocols.PROTOCOLS, **encoder_protocols.PROTOCOLS}
        config = row.config()
        assert config.sample.number == 50_000 and config.sample.sampler.name in names.SAMPLERS
        assert row.checkpoint.inside or row.checkpoint.readable.endswith(
            (".ckpt", ".msgpack", ".pt", ".pth", ".safetensors")
        )
        compile(row.checkpoint.export, "export.py", "exec")


def test_the_command_names_the_network_of_the_protocol():
    row = published_rows.ROWS["dit_xl_2_256"]
    assert " --inception=INCEPTION" in row.measure() and "--encoder" not in row.measure()
    by_encoder = row._replace(protocol="dgm-eval").measure()
    assert " --encoder=ENCODER" in by_encoder and "--inception" not in by_encoder
    assert "=INCEPTION" not in row._replace(protocol="").measure()


def test_a_row_of_ones_own():
    row = published_rows.ROWS["dit_xl_2_256"]._replace(name="mine")
    published_rows.add(row)
    try:
        assert published_rows.find("mine") is row
        with pytest.raises(ConfigError, match="there is already a row 'mine'"):
            published_rows.add(row)
    finally:
        del published_rows.ROWS["mine"]
    with pytest.raises(ConfigError, match="letters, digits and underscores"):
        published_rows.add(row._replace(name="my row"))
    with pytest.raises(ConfigError, match=r"'dit_xl_2_265'.*mean 'dit_xl_2_256'"):
        published_rows.find("dit_xl_2_265")


@pytest.mark.extended
def test_sit_goes_from_noise_to_data_as_its_authors_do():
    """Their Euler steps x + dt v from time 0, the noise, to 1, on the first half of the channels; ours is `euler`."""
    network = DiT(patch=2, width=16, depth=1, heads=2, num_classes=3, shape=(4, 4, 2))
    theirs = network.clone(learn_sigma=True)
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 2))
    labels = jnp.array([0, 2])
    params = tiny_rows.random_like(jax.eval_shape(theirs.init, jax.random.key(0), x, jnp.zeros(2), labels))["params"]
    expected = x
    for time in (0.0, 0.5):
        velocity = theirs.apply({"params": params}, expected, jnp.full(2, time), labels)[..., :2]
        expected = expected + 0.5 * velocity
    taken = {"params": velocity_signs.toward_noise(network, params)}
    schedule = schedules.rectified_flow()
    velocity = parameterizations.velocity(parameterizations.reversed_time())
    denoise = parameterizations.denoiser(
        lambda x, clock, condition: network.apply(taken, x, clock, condition), schedule, velocity, labels
    )
    plan = timesteps.plan(timesteps.uniform(schedule, steps=2))
    keys = jax.random.split(jax.random.key(2), 2)
    ours = samplers.sample(samplers.euler(), denoise, schedule, x, plan, keys)
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    assert np.abs(expected - x).max() > 0.1


def test_the_first_channels_of_each_pixel_are_the_velocity():
    """A patch of 2 x 2 pixels with 2 + 4 outputs each: 0, 1 of 0 .. 5, then 6, 7 of 6 .. 11, and so on."""
    network = DiT(patch=2, width=16, depth=1, heads=2, num_classes=3, shape=(4, 4, 2))
    final = {"kernel": jnp.arange(72.0).reshape(3, 24), "bias": jnp.arange(24.0)}
    taken = velocity_signs.toward_noise(network, {"blocks": "blocks", "final": final})
    columns = [0, 1, 6, 7, 12, 13, 18, 19]
    assert taken["blocks"] == "blocks"
    np.testing.assert_array_equal(taken["final"]["bias"], [-column for column in columns])
    np.testing.assert_array_equal(taken["final"]["kernel"], -np.arange(72.0).reshape(3, 24)[:, columns])


def test_samples_cost_their_evaluations_with_both_branches_of_guidance(monkeypatch):
    """Heun's method in 3 steps: 5 evaluations of 100 operations, or 10; 40 % of the peak of an H100 in bfloat16."""
    monkeypatch.setattr(sampling_cost, "flops_of", lambda *about: 100)
    monkeypatch.setattr(sampling_cost.checkpoint_file, "shapes", lambda recipe: None)
    role = types.SimpleNamespace
    for scale, null, evaluations in ((1, 0, 5), (2, 0, 10), (2, None, 5)):
        recipe = role(
            examples=role(null=null, shape=(2,)),
            scale=scale,
            network=None,
            sampling=role(sampler=role(nfe=lambda steps: 2 * steps - 1), plan=role(solved=3)),
            config=role(train=role(dtype="bfloat16")),
        )
        cost = sampling_cost.cost(recipe, 1000)
        assert cost == (evaluations, 100, pytest.approx(1000 * evaluations * 100 / (0.4 * 989.4e12)))


def test_a_row_may_change_the_number_of_samples():
    row = published_rows.ROWS["dit_xl_2_256"]
    assert row.config().sample.number == row.number
    assert row._replace(changes={**row.changes, "sample.number": 7}).config().sample.number == 7


def test_a_network_of_the_other_sign_is_taken_with_its_last_layer_negated():
    params = {"blocks": {"kernel": jnp.ones(3)}, "final": {"kernel": jnp.arange(6.0), "bias": -jnp.ones(2)}}
    taken = velocity_signs.negated(DiT(2, 16, 1, 2, 3), params)
    assert taken["blocks"] is params["blocks"]
    np.testing.assert_array_equal(taken["final"]["kernel"], -np.arange(6.0))
    np.testing.assert_array_equal(taken["final"]["bias"], np.ones(2))


@pytest.mark.extended
def test_of_several_averages_the_rows_is_read(tmp_path, monkeypatch):
    row = published_rows.find("tiny_pmf_h_16_256")
    path = tiny_rows.authors_file(row, tmp_path)
    recipe = checks.validate(row.config())
    assert not checkpoint_file.find(row, recipe, path).tensors.under("u_final_layer.linear._flax_linear").shapes == {}
    other = row._replace(checkpoint=row.checkpoint._replace(prefix="ema_params.500.net."))
    with pytest.raises(interchange.Mismatch, match="is missing"):
        checkpoint_file.find(other, recipe, path)

    # diffusion convert reads an average before the weights that it is of, or what it is asked for by the prefix.
    own = {"build": lambda config: recipe.network, "describe": lambda module: {}, "published": {"small": {}}}
    monkeypatch.setitem(interchange.FAMILIES, "pmfDiT", interchange.FAMILIES["pmfDiT"]._replace(**own))
    prefixes = ("params.net.", "ema_params.1000.net.", "ema_params.500.net.")
    tensors = {name.removeprefix(row.checkpoint.prefix): a for name, a in tiny_rows.authors_tensors(row).items()}
    leaves = {before + name: a + i for i, before in enumerate(prefixes) for name, a in tensors.items()}
    state = tmp_path / "checkpoint_5"
    state.write_bytes(flax.serialization.msgpack_serialize(flax.traverse_util.unflatten_dict(leaves, sep=".")))
    bias = tensors["u_final_layer.linear._flax_linear.bias"]
    for prefix, added in (("", 1), ("params.net.", 0), ("ema_params.500.net.", 2)):
        ((name, module, params),) = convert.networks(state, prefix=prefix)
        assert name == ""
        np.testing.assert_allclose(params["final"]["bias"], bias + added, rtol=1e-6)
    with pytest.raises(
        interchange.Mismatch, match=r"no tensor has a name that begins with .* The names begin with ema_params, params"
    ):
        list(convert.networks(state, prefix="ema_params.7."))
    assert "--prefix=ema_params.1000.net." in row.convert()
    interchange.save(tmp_path / "converted", module, params)
    found = checkpoint_file.find(row, recipe, tmp_path / "converted")
    read = checkpoint_file.read(row, recipe, found).params["params"]
    np.testing.assert_allclose(read["final"]["bias"], bias + 2, rtol=1e-6)


def test_consistency_models_receive_a_thousand_quarters_of_ln_sigma():
    clock = parameterizations.log_sigma(250.0)
    schedule = schedules.edm()
    t = schedule.inverse_log_snr(-2 * jnp.log(jnp.array([0.002, 1.0, 80.0])))
    np.testing.assert_allclose(clock(schedule, t), 1000 * 0.25 * np.log([0.002, 1.0, 80.0]), rtol=1e-4, atol=1e-2)


@pytest.mark.extended
def test_a_consistency_models_file_is_adms_with_one_axis_more(tmp_path):
    """cm/unet.py's attention has convolutions in two dimensions, whose numbers are those of guided-diffusion's."""
    row = published_rows.find("tiny_cd_imagenet64")
    tensors = tiny_rows.authors_tensors(row)
    qkv = [name for name in tensors if name.endswith((".qkv.weight", ".proj_out.weight"))]
    assert qkv and all(tensors[name].ndim == 4 for name in qkv)
    params = []
    for kind, flat in (("theirs", False), ("adm", True)):
        path = tmp_path / f"{kind}.pt"
        held = {name: a[..., 0] if flat and name in qkv else a for name, a in tensors.items()}
        torch_writer.archive(path, *torch_writer.state(held))
        recipe = checks.validate(row.config())
        found = checkpoint_file.find(row, recipe, path)
        assert found.layout == ("original" if flat else "consistency")
        params.append(checkpoint_file.read(row, recipe, found).params)
    jax.tree.map(np.testing.assert_array_equal, *params)


@pytest.mark.slow
@pytest.mark.parametrize("row", OURS, ids=lambda row: row.name)
def test_a_file_of_the_published_names_and_shapes_is_recognised(row, tmp_path):
    """The names and shapes that the row expects are those of a network that `diffusion convert` recognises."""
    recipe = checks.validate(row.config())
    family = interchange.FAMILIES[row.checkpoint.family]
    module = row.checkpoint.stored(recipe.network)
    leaves = folders.leaves_of(folders.shapes_of(family, module))
    layouts = [folders.expected_of(family, module, layout, leaves) for layout in family.tables]
    published = [family.build(config) for config in family.published.values()]
    known = [
        folders.expected_of(family, each, layout, folders.leaves_of(folders.shapes_of(family, each)))
        for each in published
        for layout in family.tables
    ]
    assert any(expected in known for expected in layouts)
