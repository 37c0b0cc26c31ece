"""Parts of a recipe from Python in the forms in which users have them: plain functions as guides, and mistakes."""

import flax.linen as nn
import numpy as np
import pytest

from diffusion import objectives, schedules, timesteps
from diffusion.experiments.sampling import run_denoiser
from diffusion.models import Functions
from diffusion.recipe import Recipe, Sampling

LINE = schedules.rectified_flow()
POINTS = [{"x": np.float32([i, -i])} for i in range(4)]
STILL = Functions(lambda key, x, clock, condition: {}, lambda params, x, clock, condition: 0 * x)  # velocity 0


def recipe(network=STILL, data=POINTS, **parts):
    objective = objectives.flow_matching(timesteps.uniform_density(LINE))
    return Recipe(LINE, objective, network, data, **parts)


def test_a_guide_is_a_function_of_the_denoiser():
    """x0 = eps = x_t of a network without velocity; the first guide adds 1 to x0, the second doubles it."""

    def more(denoise):
        return lambda x, t: denoise(x, t)._replace(x0=denoise(x, t).x0 + 1)

    def twice(denoise):
        return lambda x, t: denoise(x, t)._replace(x0=2 * denoise(x, t).x0)

    made = recipe(sampling=Sampling(guides=(more, twice)))
    for one in (made, made.with_parts(dtype="float32")):
        x = np.float32([[3.0, -1.0]])
        x0 = run_denoiser.denoiser(one)({}, np.zeros(1, np.int32))(x, np.float32(0.5)).x0
        np.testing.assert_allclose(x0, 2 * (x + 1), rtol=1e-6)
    with pytest.raises(ValueError, match=r"a guide is 3. Valid: a function from the guided denoiser"):
        Sampling(guides=(3,))


def test_the_class_of_a_network_is_refused():
    with pytest.raises(ValueError, match=r"the network is the class Dense. Valid: an instance, Dense\(...\)"):
        recipe(network=nn.Dense)


def test_arrays_by_name_are_no_records():
    with pytest.raises(ValueError, match=r"the data is a mapping of 'x', 'label'. Valid: a sequence of records"):
        recipe(data={"x": np.zeros((4, 2), np.float32), "label": np.zeros(4, int)})
