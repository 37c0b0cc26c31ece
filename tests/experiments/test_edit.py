"""Pictures to noise and back by a trained run: the exact inversions give back what they received."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from diffusion import parameterizations, samplers, schedules, timesteps
from diffusion.experiments import edit, train
from diffusion.experiments.sampling import editors, trained_run
from diffusion.recipe import ConfigError
from diffusion.recipe.parts import Resolver
from tests import commands

LINE = schedules.rectified_flow()
GRID = timesteps.uniform(LINE, steps=10)
X = np.random.default_rng(0).uniform(-1, 1, (3, 4)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 3)


def denoiser(c):
    """A smooth velocity, of a kind c."""
    network = lambda x, t, condition: jnp.sin(2 * x + c) + t.reshape(-1, 1)
    return parameterizations.denoiser(network, LINE, parameterizations.velocity())


def task(other, x=X):
    """From pictures of the kind 0 to those of another, which borrow nothing of each other."""

    def beside(until, layers):
        network = lambda x, t, kind: jnp.sin(2 * x + kind[:, None]) + t.reshape(-1, 1)
        return parameterizations.denoiser(
            network, LINE, parameterizations.velocity(), jnp.repeat(jnp.array([0, other]), 3)
        )

    return editors.Task(denoiser(0.0), denoiser(other), beside, LINE, samplers.euler(), x, GRID, KEYS)


@pytest.mark.parametrize("name, factor", [("ddim", 3), ("edict", 3), ("prompt_to_prompt", 3), ("bdia", 4 / 3)])
def test_of_a_constant_noise_the_edit_is_the_way_up_less_the_way_down(name, factor):
    """x + sigma / alpha (eps_there - eps_back) at t_0 = 3 / 4, a time of the grid, where sigma / alpha = 3.

    bdia begins its way down with two points of the way up: its two steps, by hand, leave 4 / 3 of the difference.
    """
    line = LINE._replace(t_max=0.9)

    def constant(kinds):
        network = lambda x, t, condition: jnp.broadcast_to(jnp.reshape(kinds, (-1, 1)), x.shape)
        return parameterizations.denoiser(network, line, parameterizations.epsilon())

    beside = lambda until, layers: constant(jnp.repeat(jnp.array([0.5, 0.75]), 3))
    grid = np.array([0.9, 0.75, 0.5, 0.25, 0.0], np.float32)
    there, back = (constant(jnp.float32(kind)) for kind in (0.5, 0.75))
    change = editors.EDITORS[name](t_0=0.75)
    run = jax.jit(lambda x: change(editors.Task(there, back, beside, line, samplers.euler(), x, grid, KEYS)))
    np.testing.assert_allclose(run(X), X + factor * (0.5 - 0.75), atol=1e-5)


@functools.cache
def edited(name, other):
    change = editors.EDITORS[name](**({"iterations": 30} if name in ("ddim", "prompt_to_prompt") else {}))
    return jax.jit(lambda x: change(task(other, x)))(X)


def test_a_split_that_is_not_there_is_an_error_of_its_flag(run):
    with pytest.raises(ConfigError, match=r"^--pictures=tset: .* has no split 'tset'; its splits are test"):
        edit.edit(run, {"name": "ddim"}, split="tset")


@pytest.mark.extended
@pytest.mark.parametrize("name, error", [("edict", 1e-4), ("bdia", 1e-4), ("ddim", 1e-3), ("prompt_to_prompt", 1e-3)])
def test_what_goes_to_noise_and_back_is_what_it_was(name, error):
    np.testing.assert_allclose(edited(name, 0.0), X, atol=error)
    assert np.abs(edited(name, 1.0) - X).max() > 0.05  # under another condition it is not


@pytest.mark.extended
def test_sdedit_makes_anew_what_is_above_its_noise():
    small = editors.sdedit(t_0=0.1)(task(0.0))
    large = editors.sdedit(t_0=0.9)(task(0.0))
    assert np.abs(small - X).mean() < np.abs(large - X).mean() / 3


@pytest.fixture(scope="module")
def run():
    config = digits.get_config("tiny")
    config.sample.guidance.scale = 1.0
    network = Resolver(config).model((8, 8, 1))
    zeros = (jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
    return trained_run.from_config(config, jax.jit(network.init)(jax.random.key(0), *zeros))


def test_edits_that_are_not_finite_are_refused(run, monkeypatch):
    monkeypatch.setitem(editors.EDITORS, "lost", lambda: lambda task: task.x * jnp.nan)
    with pytest.raises(ConfigError, match=r"(\d+) of \1 samples are not finite.*Try more steps"):
        edit.edit(run, {"name": "lost"})
    some = lambda task: task.x.at[0].set(jnp.inf)
    monkeypatch.setitem(editors.EDITORS, "lost", lambda: some)
    with pytest.warns(UserWarning, match=r"1 of \d+ samples are not finite"):
        edit.edit(run, {"name": "lost"})


@pytest.mark.extended
def test_an_editor_that_does_not_fit_is_refused(run):
    for editor, words in (
        ({"name": "edct"}, r"--editor\.name.*'edict'"),
        ({"name": "edict", "mix": 2.0}, r"--editor.*mix = 2.0"),
        ({"name": "ddim", "t_0": 6.0}, r"t_0 = 6\.0 lies above the grid's first time, 1\."),
        ({"name": "ddim", "t_0": 0.1}, r"t_0 = 0\.1 leaves only 1 times of the grid"),
        ({"name": "prompt_to_prompt", "layers": (0, 5)}, r"layers = \(0, 5\) has 5. Valid: 0 .. 1"),
        ("edict", r"--editor = 'edict'. Valid: \{\"name\""),
    ):
        with pytest.raises(ConfigError, match=words):
            edit.edit(run, editor)
    with pytest.raises(ConfigError, match=r"0 \.\. 9"):
        edit.edit(run, {"name": "edict"}, labels=["11"])
    with pytest.raises(ConfigError, match="this needs a plain denoiser"):
        memory = {"sample.guidance": {"name": "adaptive_projected", "scale": 2.0}}
        edit.edit(run.changed(memory), {"name": "edict"})


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_edits_of_prompt_to_prompt_borrow_the_maps_of_their_pictures(run, scale):
    """Above t_0 nothing is borrowed, as in ddim's edits; a picture borrows its own maps without a change."""
    rng = np.random.default_rng(0)  # as initialised the network puts out zeros
    leaf = lambda a: a + 0.3 * rng.standard_normal(a.shape, np.float32)
    run = trained_run.from_config(run.config, jax.tree.map(leaf, run.params)).changed({"sample.guidance.scale": scale})
    made = lambda editor, labels=("3",): edit.edit(run, editor, labels=labels and list(labels))["images"].astype(int)
    by_ddim = made({"name": "ddim"})
    np.testing.assert_allclose(made({"name": "prompt_to_prompt", "until": 0.9}), by_ddim, atol=1)
    borrowed = made({"name": "prompt_to_prompt", "until": 0.0})
    assert np.abs(borrowed - by_ddim).max() > 2
    own = made({"name": "prompt_to_prompt", "until": 0.0}, labels=None)
    np.testing.assert_allclose(own, made({"name": "ddim"}, labels=None), atol=1)


@pytest.mark.slow
def test_the_command_edits_pictures_of_a_run(tmp_path):
    config = digits.get_config("tiny")
    config.train.steps = config.checkpoint.every = 2
    assert train.run(config, tmp_path / "run") == 0
    words = [f"--workdir={tmp_path}/run", f"--out={tmp_path}/out", "--labels=3", "--config.sample.steps=20"]
    done = commands.run("diffusion", "edit", *words, '--editor={"name": "bdia"}', timeout=300)
    assert done.returncode == 0, done.stderr
    made = np.load(tmp_path / "out" / "edited.npz")
    assert made["images"].shape == made["originals"].shape == (20, 8, 8, 1) and set(made["labels"]) == {3}
    assert (tmp_path / "out" / "edited.png").is_file()
