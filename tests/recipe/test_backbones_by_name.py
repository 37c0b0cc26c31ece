"""The backbones that a config can name beside DiT: their sizes are the data's, their outputs what is learned."""

import typing

import numpy as np
import pytest

from diffusion.experiments import train
from diffusion.recipe import ConfigError, checks, names
from diffusion.recipe.entries import annotation
from diffusion.recipe.parts import Resolver
from tests.recipe.test_resolve import HYBRID, LEARNED, LINEAR, NO_GUIDANCE, changed

MODELS = {
    "unet": {"widths": (8, 16), "blocks": 1, "attention_levels": (1,), "groups": 4, "num_classes": 10},
    "song_unet": {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention_resolutions": (4,), "num_classes": 10},
    "edm2_unet": {
        "width": 8,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention_resolutions": (4,),
        "num_classes": 10,
        "head_size": 8,
    },
    "ddt": {
        "patch": 2,
        "width": 16,
        "depth": 1,
        "heads": 2,
        "decoder_width": 16,
        "decoder_depth": 1,
        "decoder_heads": 2,
        "num_classes": 10,
    },
    "u_vit": {"patch": 2, "width": 16, "depth": 2, "heads": 2, "num_classes": 10},
}


def config(name, *changes, **fields):
    return changed(("model", {"name": name, **MODELS[name], **fields}), *changes)


@pytest.mark.parametrize("name", MODELS)
def test_sizes_come_from_the_data(name):
    module = Resolver(config(name, ("train.dtype", "bfloat16"))).model((8, 8, 1))
    assert module.dtype == "bfloat16" and module.num_classes == 10
    if name in ("ddt", "u_vit"):
        assert module.shape == (8, 8, 1)
    else:
        assert module.resolution == 8
        assert {getattr(module, field, 1) for field in ("channels", "in_channels", "out_channels")} == {1}
    Resolver(config(name)).model()  # before the data are known


def test_a_learned_variance_doubles_the_output():
    learned = [LINEAR, ("objective", HYBRID), ("parameterization", LEARNED)]
    assert Resolver(config("unet", *learned)).model((8, 8, 1)).out_channels == 2
    for name in ("edm2_unet", "u_vit"):
        with pytest.raises(ConfigError, match=r"as many channels as it takes.*learned_variance.*Valid: dit, unet"):
            Resolver(config(name, *learned)).model((8, 8, 1))


def test_what_does_not_fit_is_refused():
    two_times = ("objective", {"name": "mean_flow", "density": {"name": "uniform_density"}})
    with pytest.raises(ConfigError, match=r"'unet', .* 'mean_flow': the network has times = 1, .* passes 2"):
        checks.validate(config("unet", two_times, NO_GUIDANCE, ("sample.sampler", {"name": "flow_map"})))
    with pytest.raises(ConfigError, match=r"config\.model.*'width'.*mean 'widths'"):
        Resolver(config("unet", width=8)).model()
    with pytest.raises(ConfigError, match=r"config\.model.*'in_channels'"):  # not for a config to say
        Resolver(config("unet", in_channels=3)).model()
    with pytest.raises(ConfigError, match=r"config\.model.*groups=32 must divide"):
        Resolver(config("unet", groups=32)).model()

    with pytest.raises(ConfigError, match=r"config\.model\.widths has 5 levels.*\(8, 8, 1\) cannot be halved 4 times"):
        Resolver(config("unet", widths=(8,) * 5)).model((8, 8, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_run_trains_and_samples(name, tmp_path):
    run = config(name, ("train.steps", 4), ("train.log_every", 2), ("checkpoint.every", 4), NO_GUIDANCE)
    train.run(run, tmp_path)
    assert list((tmp_path / "checkpoints").iterdir())
    losses = np.array(
        [
            float(line.split('"loss": ')[1].split(",")[0])
            for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
            if '"loss": ' in line
        ]
    )
    assert len(losses) == 2 and np.isfinite(losses).all()


def test_rotary_axes_are_the_networks_own():
    rotary = [name for name in names.MODELS if typing.get_origin(annotation(names.MODELS[name], "axes")) is tuple]
    assert len(rotary) >= 11
    for name in rotary:
        default = tuple(names.MODELS[name].axes)
        for entry in ({"name": name}, {"name": name, "axes": list(default)}):
            run = changed(("model", entry), ("objective.wrappers", ()), NO_GUIDANCE)
            assert Resolver(run).model((8, 8, 4)).axes == default, name
