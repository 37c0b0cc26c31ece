"""FLUX.1 Redux: its folder, what it adds to a text, and where diffusers' two pipelines end."""

import functools
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, text_to_image
from diffusion.models.image_encoders.siglip import SigLIP
from diffusion.models.interchange import schedulers
from diffusion.models.layers.joint_conditions import lengthened
from diffusion.published.flux import redux_prompt
from diffusion.published.flux.network import Flux
from diffusion.published.flux.redux import Redux
from diffusion.text_to_image import attached, canvas
from diffusion.text_to_image.picture_controls import Control
from tests import numpy_programs
from tests.adapters.test_ip_adapter import picture
from tests.peers.made_weights import drawn
from tests.text_to_image import made_pipelines

TINY = Flux(4, 4, 24, 1, 1, 2, 8, 6, (4, 4, 4), strength=True)


@pytest.mark.extended
def test_tokens_of_a_picture_stand_behind_those_of_the_text_and_its_weight_multiplies_them():
    """Without a weight they are not seen, nor by the unconditional branch."""
    encoder = SigLIP(width=12, depth=1, heads=2, hidden=8, size=14, patch=7)
    dense = lambda rows, columns, kernel: {"kernel": kernel(rows, columns), "bias": np.zeros(columns, np.float32)}
    middle = lambda rows, columns: np.eye(rows, columns, dtype=np.float32)
    params = {"up": dense(12, 24, middle), "down": dense(24, 8, middle)}
    one = redux_prompt.attachment(Redux(12, 8), params, TINY, encoder, {})
    seen = drawn("seen", 1, 3, 12)
    tokens = Redux(12, 8).apply({"params": params}, seen)
    np.testing.assert_allclose(tokens, (seen / (1 + np.exp(-seen)))[..., :8], rtol=1e-5)
    rows = jnp.repeat(tokens, 2, axis=0)
    ((half, shown),) = one.entries(one.params, jnp.array([0.5, 0.0]), rows)["extra_text"]
    np.testing.assert_allclose(half[0], 0.5 * rows[0])
    np.testing.assert_array_equal(shown, [[True] * 3, [False] * 3])
    text, mask = drawn("text", 2, 4, 8), np.array([[True, True, False, False], [True] * 4])
    long, both = lengthened(text, mask, ((half, shown),))
    np.testing.assert_allclose(long, np.concatenate([text, half], axis=1))
    np.testing.assert_array_equal(both, np.concatenate([mask, shown], axis=1))
    assert lengthened(text, None, ())[1] is None
    with pytest.raises(ValueError, match=r"'extra_text' must be a pair of \[B, K, E\] = \(2, K, 8"):
        lengthened(text, None, ((half[..., :5], shown),))
    for wrong, message in [
        ((Redux(12, 9), params, TINY, encoder), "this denoiser needs tokens of a text with 8 features, but Redux"),
        ((Redux(13, 8), params, TINY, encoder), "13 features, but the image encoder SigLIP has 12"),
        ((Redux(12, 8), params, encoder, encoder), r"attaches to FLUX\.1, but this denoiser is a SigLIP"),
    ]:
        with pytest.raises(ValueError, match=message):
            redux_prompt.attachment(*wrong, {})


def test_the_unconditional_branch_sees_no_tokens_of_the_picture(monkeypatch):
    monkeypatch.setattr(redux_prompt.prompt_features, "image_features", lambda encoder, params, images, whole: images)
    encoder = SigLIP(width=12, depth=1, heads=2, hidden=8, size=14, patch=7)
    shapes = {"up": (12, 24), "down": (24, 8)}
    params = {name: {"kernel": drawn(name, *shape), "bias": drawn(name, shape[1])} for name, shape in shapes.items()}
    one = redux_prompt.attachment(Redux(12, 8), params, TINY, encoder, {})
    conditional, unconditional = numpy_programs.outputs(one.encode, one.params, drawn("seen", 1, 3, 12))
    assert (conditional != 0).all() and conditional.shape == (1, 3, 8)
    np.testing.assert_array_equal(unconditional, np.zeros((1, 3, 8)))
    tokens = np.float32([[[0, 1], [0, 0], [2, 3]]])  # one feature of the first token happens to be zero
    ((weighted, shown),) = one.entries(one.params, jnp.full(1, 0.5), jnp.asarray(tokens))["extra_text"]
    np.testing.assert_array_equal(weighted, tokens / 2)
    np.testing.assert_array_equal(shown, [[True, False, True]])


@functools.cache
def theirs():
    """The model of the pipeline "flux" with the Redux of diffusers' folder."""
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        folder = made_pipelines.folder("redux", place / "redux")
        return text_to_image.load(made_pipelines.folder("flux", place / "flux"), attachments={"look": folder})


def latents(model):
    """Those of a prompt and a picture after four steps, and the text with its tokens, as in tests/peers/redux.py."""
    conditional, _ = text_to_image.conditions(model, ["a cat"], None, 3.5, 16, 16)
    (one,) = canvas.opened_controls([Control("look", picture("first"))], model.attachments, (16, 16))
    seen = jax.jit(one.attachment.encode)(one.attachment.params, jnp.asarray(one.picture))
    ready = [attached.Attached(one.attachment, seen, jnp.float32(1), jnp.array([0.0, 1.0]))]
    trajectory = schedulers.trajectory(model.process, "euler", 4, tokens=16)
    denoise = jax.jit(text_to_image.denoise(model, model.params["transformer"], conditional, None, 3.5, ready))
    x = trajectory.start * jnp.asarray(drawn("latents", 1, 8, 8, 4))
    keys = jax.random.split(jax.random.key(0), 1)
    found = samplers.sample(trajectory.sampler, denoise, model.process.schedule, x, trajectory.plan, keys)
    return found, jnp.concatenate([conditional["text"], seen[0]], axis=1)


@pytest.mark.slow
def test_latents_are_those_of_diffusers_pipelines():
    expected = made_pipelines.fixture("redux")[1]
    for found, name in zip(latents(theirs()), ("latents", "text")):
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=5e-5 * np.abs(expected[name]).max())


@pytest.mark.slow
def test_generate_takes_the_picture_and_a_weight_of_zero_is_the_base():
    model = theirs()
    make = lambda *controls: text_to_image.generate(model, "a cat", steps=2, height=16, width=16, controls=controls)
    free = make()
    np.testing.assert_array_equal(make(("look", picture("first"), 0.0)), free)
    first = make(("look", picture("first")))
    assert (first != free).mean() > 0.05 and (make(("look", picture("second"))) != first).mean() > 0.02
    both = make(("look", picture("first")), ("look", picture("second")))
    assert (both != first).mean() > 0.02
