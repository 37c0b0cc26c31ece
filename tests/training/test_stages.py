"""Training in stages: the student becomes the teacher, and what came before is forgotten."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion.training import ema as ema_lib, state
from diffusion.training.stages import staged


def test_a_stage_begins_with_the_student_as_its_teacher():
    """By hand: each step adds the teacher to the student, and the average is half of the way to it."""
    optimizer = optax.sgd(0.1, momentum=0.9)
    ema = ema_lib.exponential_moving_average(0.5, warmup=False)

    def step(now, batch, key):
        assert (batch, key) == ("batch", "key")
        params = now.params + now.frozen["teacher"]
        moved = optax.tree_utils.tree_map_params(optimizer, lambda leaf: leaf + 1, now.opt_state)
        average = ema.update(now.ema, params, now.step)
        return now._replace(step=now.step + 1, params=params, opt_state=moved, ema=average), {}

    now = state.create(jnp.float32(1.0), optimizer, ema, frozen={"teacher": jnp.float32(2.0)})
    run = staged(step, 2, optimizer, ema)
    seen = []
    for _ in range(5):
        now, _ = run(now, "batch", "key")
        momentum = optax.tree_utils.tree_get(now.opt_state, "trace")
        seen.append([float(x) for x in (now.params, now.ema, now.frozen["teacher"], momentum)])
    # At steps 2 and 4 the average becomes teacher, student and average; the momentum starts from nothing.
    np.testing.assert_array_equal(
        seen, [[3, 2, 2, 1], [5, 3.5, 2, 2], [7, 5.25, 3.5, 1], [10.5, 7.875, 3.5, 2], [15.75, 11.8125, 7.875, 1]]
    )
    assert int(now.step) == 5


@pytest.mark.parametrize("step, teacher", [(0, 2.0), (1, 3.0), (2, 3.0)])
def test_a_stage_of_one_step_begins_anew_at_every_step_but_the_first(step, teacher):
    optimizer, ema = optax.sgd(0.1), ema_lib.exponential_moving_average(0.5, warmup=False)
    now = state.create(jnp.float32(1.0), optimizer, ema, frozen={"teacher": jnp.float32(2.0)})
    now = now._replace(step=jnp.int32(step), ema=jnp.float32(3.0))
    after, _ = staged(lambda now, batch, key: (now, {}), 1, optimizer, ema)(now, "batch", "key")
    assert float(after.frozen["teacher"]) == teacher


def test_an_average_starts_from_the_rounded_student():
    """A student in bfloat16 begins a stage at the average's nearest number, and so does its average."""
    optimizer, ema = optax.sgd(0.1), ema_lib.exponential_moving_average(0.5, warmup=False)
    now = state.create(jnp.bfloat16(1.0), optimizer, ema, frozen={"teacher": jnp.float32(2.0)})
    now = now._replace(step=jnp.int32(2), ema=jnp.float32(1.001))
    after, _ = staged(lambda now, batch, key: (now, {}), 2, optimizer, ema)(now, "batch", "key")
    assert (float(after.params), float(after.ema)) == (1.0, 1.0)
    np.testing.assert_allclose(after.frozen["teacher"], 1.001)
