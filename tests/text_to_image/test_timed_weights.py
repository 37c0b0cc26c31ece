"""LoRAs in intervals of t: which combination acts, at the ends of intervals too, and of which of several times."""

import dataclasses
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, timesteps
from diffusion.adapters import lora_files
from diffusion.published.pipeline_kinds import ControlLoras, Relatives, Video
from diffusion.text_to_image import additions, request_checks, timed_weights
from diffusion.text_to_image.lora_weights import LoraWeight
from diffusion.text_to_image.model import TextToImage
from diffusion.text_to_image.picture_controls import Control
from diffusion.text_to_image.timed_weights import TimedLora
from tests.text_to_image.stand_ins import made_model


def adapter(size):
    """An update of one kernel, of zeros, by a number."""
    return {"k": {"down": jnp.ones((1, 1)), "up": jnp.full((1, 1), size)}}


LOW = TimedLora(adapter(1.0), {"k": 1.0}, (0.0, 0.5))
HIGH = TimedLora(adapter(10.0), {"k": 2.0}, (0.5, 0.8))
PARAMS = {"k": jnp.zeros((1, 1)), "other": jnp.full(2, 7.0)}


@pytest.mark.parametrize("t, expected", [(0.0, 1), (0.3, 1), (0.5, 21), (0.6, 20), (0.8, 20), (0.9, 0), (1.0, 0)])
def test_the_loras_whose_closed_interval_holds_t_act_together(t, expected):
    weights = timed_weights.timed(PARAMS, [LOW, HIGH])
    evaluate = jax.jit(lambda weights, t: timed_weights.at(weights, t, lambda params: params))
    params = evaluate(weights, jnp.float32(t))
    np.testing.assert_array_equal(params["k"], [[expected]])
    np.testing.assert_array_equal(params["other"], PARAMS["other"])


def test_of_several_times_the_greatest_counts():
    """Frames of a clip that are clean have the time 0."""
    weights = timed_weights.timed(PARAMS, [LOW, HIGH])
    for times, expected in (([0.0, 0.6], 20), ([0.6, 0.0], 20), ([0.1, 0.2], 1), ([0.0, 0.9], 0)):
        found = timed_weights.at(weights, jnp.array(times), lambda params: params["k"])
        np.testing.assert_array_equal(found, [[expected]])


def test_parameters_without_intervals_are_evaluated_as_they_are():
    assert timed_weights.at(PARAMS, 0.3, lambda params: params) is PARAMS


@pytest.mark.parametrize("other", [False, True])
def test_a_file_with_an_interval_warns_of_its_part_for_a_text_encoder_alone(monkeypatch, other):
    """Which acts throughout: the prompt is read once."""
    one = types.SimpleNamespace(adapter=adapter(1.0), weighted=lambda weight: {"k": weight})
    model = made_model()
    file = {model.kind.denoiser.folder: one} | ({"text": one} if other else {})
    monkeypatch.setattr(additions.lora_files, "load", lambda path, modules: dict(file))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        changed = additions.with_loras(model, {"a.safetensors": (0.5, (0.2, 0.6))})
    assert [(lora.scale, lora.times) for lora in changed.timed] == [({"k": 0.5}, (0.2, 0.6))]
    assert ["acts at every t" in str(one.message) for one in said] == [True] * other


def test_a_layer_in_place_of_the_models_adds_up_with_other_files_in_an_interval_too(monkeypatch):
    """Custom diffusion's V - W is of the W in the folder, and not of one into which another file was merged."""
    model = made_model()
    kernel = model.params["unet"]["kernel"]
    added = np.arange(3.0, dtype=np.float32)
    low = {"kernel": {"down": jnp.ones((len(kernel), 1)), "up": jnp.asarray(added)[None]}}
    files = {"whole": {"kernel": {"whole": np.asarray(kernel) + 1}}, "low": low}
    load = lambda path, modules: {"unet": lora_files.Lora(files[path], {"kernel": 1.0})}
    monkeypatch.setattr(additions.lora_files, "load", load)
    expected = np.asarray(kernel) + 1 + added
    merged = additions.with_loras(model, {"whole": 1.0, "low": 1.0})
    np.testing.assert_allclose(merged.params["unet"]["kernel"], expected, rtol=1e-6)
    timed = additions.with_loras(model, {"whole": (1.0, (0.0, 0.5)), "low": 1.0})
    kernel_at = lambda t: timed_weights.at(timed.weights, t, lambda params: params["kernel"])
    np.testing.assert_allclose(kernel_at(0.9), np.asarray(kernel) + added, rtol=1e-6)
    np.testing.assert_allclose(kernel_at(0.2), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "sampler, low, high, is_said",
    [
        (samplers.ddim(), 0.3, 0.4, True),
        (samplers.ddim(), 0.0, 0.2, True),  # the last step ends there, and evaluates the denoiser where it begins
        (samplers.ddim(), 0.25, 0.25, False),
        (samplers.ddim(), 0.3, 0.5, False),
        (samplers.heun(), 0.3, 0.4, False),  # it may evaluate the denoiser between the times
    ],
)
def test_an_interval_without_a_step_is_said(sampler, low, high, is_said):
    trajectory = types.SimpleNamespace(sampler=sampler, plan=timesteps.plan([1.0, 0.75, 0.5, 0.25, 0.0]))
    controls = (Control("edges", "a.png", times=(low, high)), Control("depth", "a.png"))
    timed = [LOW._replace(times=(low, high)), HIGH._replace(times=(0.0, 1.0))]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        request_checks.warn_of_intervals(controls, timed, trajectory)
    words = f" has no effect: no step begins at a t from {low:g} to {high:g}. The steps begin at 1, 0.75, 0.5, 0.25"
    expected = [f"the control 'edges'{words}", f"a LoRA{words}"] if is_said else []
    assert [str(one.message) for one in said] == expected


ONES = jnp.ones((5, 1))
ZEROS, UP = jnp.zeros((1, 3)), jnp.ones((1, 3))


@pytest.mark.parametrize(
    "factors, scale, is_said",
    [
        ({"down": ONES, "up": ZEROS}, 1.0, True),  # as every adapter begins
        ({"down": ONES, "up": UP}, 0.0, True),
        ({"down": ONES, "up": UP, "down_2": ONES, "up_2": ZEROS}, 1.0, True),
        ({"difference": jnp.zeros((5, 3))}, 1.0, True),
        ({"down": ONES, "up": ZEROS, "magnitude": jnp.ones(3)}, 1.0, False),
        ({"whole": jnp.zeros((5, 3))}, 1.0, False),
        ({"down": ONES, "up": UP}, 1e-3, False),
    ],
)
def test_a_file_that_changes_nothing_is_said(monkeypatch, factors, scale, is_said):
    file = {"unet": lora_files.Lora({"kernel": factors}, {"kernel": scale})}
    monkeypatch.setattr(additions.lora_files, "load", lambda path, modules: dict(file))
    for weight in (0.0, 1.0, (1.0, (0.0, 0.5))):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            additions.with_loras(made_model(), {"a.safetensors": weight})
        words = "a.safetensors has no effect: all its updates are zero, as those of a LoRA that was not trained"
        assert [str(one.message) for one in said] == [words] * is_said


def with_control(how, **changes):
    model = made_model()
    model.denoiser.strength = True
    kind = model.kind._replace(relatives=Relatives(control_loras=how), **changes)
    return dataclasses.replace(model, kind=kind)


def test_control_loras_widen_the_model_with_the_other_files_merged(monkeypatch):
    """The module and the parameters are those that `widened` makes of what the other files left."""
    merged = []
    widened = lambda module, params: (("wide", module), params and {**params, "wide": 1})
    how = ControlLoras("Controlled", lambda shapes, module: shapes["first"] == 2, widened)
    monkeypatch.setattr(
        additions.tensor_files, "open_tensors", lambda path: types.SimpleNamespace(shapes={"first": len(path)})
    )
    monkeypatch.setattr(additions, "with_loras", lambda model, loras: merged.append(loras) or model)
    monkeypatch.setattr(TextToImage, "as_pipeline", lambda model, name: (model, name))
    model = with_control(how)
    loras = {"ab": 0.5, "abc": 0.25, "a": (1.0, (0.0, 0.5))}
    (wide, name), control = additions._before_control(model, loras)
    assert (name, control, merged) == ("Controlled", {"ab": 0.5}, [{"abc": 0.25, "a": (1.0, (0.0, 0.5))}])
    assert wide.modules == {**model.modules, "unet": ("wide", model.denoiser)}
    assert wide.params["unet"] == {**model.params["unet"], "wide": 1} and wide.params["vae"] == {}
    unread = dataclasses.replace(model, params={"vae": {}})
    (wide, _), _ = additions._before_control(unread, loras)
    assert wide.params == {"vae": {}} and wide.modules["unet"][0] == "wide"
    assert additions._before_control(model, {"abc": 0.25}) == (model, {"abc": 0.25})
    assert additions._before_control(with_control(None), loras)[1] is loras
    timed = dataclasses.replace(model, timed=(LOW,))
    with pytest.raises(ValueError, match="ab is a control LoRA, which changes the shapes of kernels that LoRA files"):
        additions._before_control(timed, loras)
    model.denoiser.strength = False
    with pytest.raises(ValueError, match=r"ab is a control LoRA for a FLUX\.1 that receives the guidance as an input"):
        additions._before_control(model, loras)


@pytest.mark.parametrize("weight, part, expected", [
    (0.5, "unet", ("unet", LoraWeight(0.5))),
    ((0.5, (0.875, 1.0)), "unet", ("unet", LoraWeight(0.5, (0.875, 1.0)))),
    ((0.5, (0.9, 1.0)), "unet", ("unet", LoraWeight(0.5, (0.9, 1.0)))),
    ((0.5, (0.0, 0.875)), "unet", ("late", LoraWeight(0.5))),
    ((0.5, (0.0, 0.5)), "late", ("late", LoraWeight(0.5, (0.0, 0.5)))),
])  # fmt: skip
def test_of_two_denoisers_a_file_belongs_to_the_one_of_its_interval(weight, part, expected):
    kind = made_model().kind._replace(video=Video(5, (8, 8), 8.0, second="late"))
    model = dataclasses.replace(made_model(), kind=kind, boundary=0.875)
    file, path, weight = additions._assigned(model, {part: 1, "text": 2}, "a", LoraWeight.read(weight))
    assert (file, path, weight) == ({expected[0]: 1, "text": 2}, "a", expected[1])


@pytest.mark.parametrize("times", [(0.0, 0.5), (0.1, 0.875), (0.5, 1.0)])
def test_an_interval_over_the_boundary_of_two_denoisers_is_refused(times):
    kind = made_model().kind._replace(video=Video(5, (8, 8), 8.0, second="late"))
    model = dataclasses.replace(made_model(), kind=kind, boundary=0.875)
    with pytest.raises(ValueError, match=r"Valid intervals: 0-0\.875, or above 0\.875"):
        additions._assigned(model, {"unet": 1}, "a", LoraWeight(1.0, times))
