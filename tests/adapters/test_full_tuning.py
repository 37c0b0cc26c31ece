"""The tuning of a whole denoiser, of some of its layers and of the text encoders: what trains, and in which type."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.adapters import full_tuning
from diffusion.adapters.tuning import CAPTIONED
from diffusion.io.leaf_names import leaves_of
from diffusion.models import quantised as storage
from diffusion.published.stable_diffusion.network import ConditionalUNet
from tests.adapters.received import half, instead_of, reached, same, types, wide
from tests.text_to_image import made_pipelines

X, CLOCK = jnp.ones((1, 2, 2, 4)), jnp.zeros(1)
KEYS = {"down_1_transformer_0", "mid_transformer", "up_0_transformer_0", "up_0_transformer_1"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(described, loaded) Stable Diffusion, tiny; the loaded one's parameters are bfloat16."""
    folder = made_pipelines.folder("sd", tmp_path_factory.mktemp("sd"))
    return text_to_image.described(folder), text_to_image.load(folder, dtype="bfloat16")


def changed(weights):
    return jax.tree.map(lambda leaf: leaf + 1, weights)


@pytest.mark.parametrize(
    "held, computed, result", [("bfloat16", "float32", "float32"), ("float32", "bfloat16", "float32")]
)
def test_a_new_leaf_has_the_wider_of_two_types_and_the_others_stay(held, computed, result):
    """The type of the leaf in its place, and that in which the network computes: 1 + 2^-10 is no bfloat16."""
    params = {"a": {"kernel": jnp.zeros(3, held), "bias": jnp.ones(2, held)}}
    new = full_tuning.with_leaves(params, {"a": {"kernel": np.full(3, 1 + 2**-10, np.float32)}}, computed)
    assert new["a"]["kernel"].dtype == result and new["a"]["kernel"].tolist() == [1 + 2**-10] * 3
    assert new["a"]["bias"] is params["a"]["bias"]


class Toy:
    """A network whose output tells its weight, x and the time apart."""

    @staticmethod
    def apply(variables, x, clock, condition):
        params = variables["params"]
        return params["w"] * x + params["b"] * clock + condition["text"]


class ToyModel:
    """A text-to-image model of two numbers in "net" and one in "words", as far as a tuning reads it."""

    kind = SimpleNamespace(denoiser=SimpleNamespace(folder="net"))
    readers, modules, denoiser = ("words",), {"net": None}, Toy
    dtype_of = staticmethod(lambda part: "float32")

    def __init__(self, **params):
        self.params = {"net": {"w": jnp.float16(2), "b": jnp.float16(5)}, "words": {"v": jnp.float16(7)}} | params

    def with_text(self, networks, condition):
        return {"text": networks["words"]["v"] * condition["tokens"]}

    def replaced(self, params):
        return ToyModel(**params)


@pytest.mark.parametrize("targets", ["", "w"])
@pytest.mark.parametrize("text", [False, True])
def test_a_toy_is_tuned_in_the_parts_that_are_asked_for(targets, text, monkeypatch):
    """w x + b t + v tokens, with new w = 3, b = 6 and v = 8 where they train, and the base's 2, 5 and 7 elsewhere."""
    monkeypatch.setattr(full_tuning, "chosen_leaves", lambda module, pattern: {pattern})
    base = ToyModel()
    tuning = full_tuning.full(base, targets, text)
    weights = tuning.init(jax.random.key(0), base.params)
    net = {"w": 2.0} if targets else {"w": 2.0, "b": 5.0}
    assert weights == {"net": net} | ({"words": {"v": 7.0}} if text else {})
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(weights))
    new = changed(weights)
    condition = {"tokens": 100.0} if text else {"text": 100.0}
    output = lambda params: tuning.apply(params, new, 10.0, 1.0, condition)
    b = 5 if targets else 6
    assert output(base.params) == 3 * 10 + b + (800 if text else 100)
    slopes = jax.grad(lambda b: output({**base.params, "net": {"w": 2.0, "b": b}}))(5.0)
    assert slopes == 0  # nothing of the base learns
    parts = ("net", "words") if text else ("net",)
    assert (tuning.copies, tuning.replaces, tuning.encodes) == (parts, parts, text)
    assert tuning.networks == (("net",) if targets else ())
    tuned = tuning.attach(base, new).params
    assert tuned == {"net": {"w": 3, "b": b}, "words": {"v": 8 if text else 7}}


@pytest.mark.extended
def test_all_weights_of_the_denoiser_train_in_float32(models, monkeypatch):
    base, model = models
    tuning = full_tuning.full(base)
    assert (tuning.networks, tuning.copies, tuning.replaces, tuning.encodes) == ((), ("unet",), ("unet",), False)
    assert tuning.base is base and tuning.write(None, {}, {}) == []
    assert types(model.params["unet"]) == {"bfloat16"}
    weights = tuning.init(jax.random.key(0), model.params)
    assert weights.keys() == {"unet"} and types(weights) == {"float32"}
    same(weights["unet"], wide(model.params["unet"]))
    new = changed(weights)
    instead_of(ConditionalUNet, monkeypatch)
    condition = {"text": jnp.ones((1, 3, 4))}
    params, *rest = tuning.apply({}, new, X, CLOCK, condition)
    same(params, new["unet"])
    same(rest, [X, CLOCK, condition])
    model._programs["old"] = 1
    attached = tuning.attach(model, new)
    same(attached.params["unet"], half(new["unet"]))
    assert types(attached.params["unet"]) == {"bfloat16"} and not attached._programs
    for part in ("vae", "text_encoder"):
        assert attached.params[part] is model.params[part]


@pytest.mark.extended
def test_chosen_layers_train_beside_the_others_which_have_no_gradient(models, monkeypatch):
    base, model = models
    tuning = full_tuning.full(base, targets=r"attn2\.to_[kv]")
    assert (tuning.networks, tuning.copies, tuning.replaces) == (("unet",), ("unet",), ("unet",))
    weights = tuning.init(jax.random.key(0), model.params)
    chosen = leaves_of(weights["unet"])
    assert types(weights) == {"float32"}
    assert {name.rpartition("/blocks/")[2] for name in chosen} == {
        "cross_attention/key/kernel",
        "cross_attention/value/kernel",
    }
    before = leaves_of(wide(model.params["unet"]))
    same(chosen, {name: before[name] for name in chosen})
    new = changed(weights)
    expected = before | {name: leaf for name, leaf in leaves_of(new["unet"]).items()}
    instead_of(ConditionalUNet, monkeypatch)
    params = wide(model.params)
    received = tuning.apply(params, new, X, CLOCK, {})[0]
    same(leaves_of(received), expected)
    for name, leaf in leaves_of(tuning.attach(model, new).params["unet"]).items():
        np.testing.assert_array_equal(leaf, half(expected[name]))
        assert leaf.dtype == jnp.bfloat16
    assert all(jax.tree.leaves(reached(lambda new: tuning.apply(params, new, X, CLOCK, {})[0], new)))
    to_base = reached(lambda base: tuning.apply({"unet": base}, new, X, CLOCK, {})[0], params["unet"])
    assert not any(jax.tree.leaves(to_base))


@pytest.mark.extended
def test_text_encoders_train_too_where_it_is_asked_for(models, monkeypatch):
    base, model = models
    tuning = full_tuning.full(base, targets="attn2", text=True)
    assert (tuning.networks, tuning.encodes) == (("unet",), True)
    assert tuning.copies == tuning.replaces == ("unet", "text_encoder")
    weights = tuning.init(jax.random.key(0), model.params)
    same(weights["text_encoder"], wide(model.params["text_encoder"]))
    instead_of(ConditionalUNet, monkeypatch)
    tokens = {**base.tokens(["a cat"]), CAPTIONED: jnp.ones(1), "size": jnp.full((1, 6), 2.0)}
    new = jax.tree.map(lambda leaf: 1.5 * leaf, weights)
    seen = jax.jit(tuning.apply)(wide(model.params), new, X, CLOCK, tokens)[3]
    assert seen.keys() == {"text", "size"}
    expected = jax.jit(base.encoded)({"text_encoder": new["text_encoder"]}, base.tokens(["a cat"]))
    np.testing.assert_allclose(seen["text"], expected["text"], rtol=0, atol=1e-5 * np.abs(expected["text"]).max())
    attached = tuning.attach(model, new)
    same(attached.params["text_encoder"], half(new["text_encoder"]))
    alone = full_tuning.full(base, text=True)
    assert alone.networks == () and alone.init(jax.random.key(0), model.params).keys() == {"unet", "text_encoder"}


def test_leaves_that_the_parameters_lack_are_refused():
    """As those of a model in 8 bits, whose kernels would stay as they are."""
    params = {"a": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}}
    tuned = full_tuning.with_leaves(params, {"a": {"bias": jnp.zeros(4)}}, "float32")
    np.testing.assert_array_equal(tuned["a"]["bias"], np.zeros(4))
    for wrong in (storage.quantised(params, "int8"), {"b": params["a"]}):
        with pytest.raises(
            ValueError, match=r"the parameters have no a/kernel\. Valid: those that were tuned, before w"
        ):
            full_tuning.with_leaves(wrong, {"a": {"kernel": jnp.zeros((4, 4))}}, "float32")


def test_patterns_that_do_not_fit_are_refused_with_valid_names(models):
    base, _ = models
    with pytest.raises(ValueError, match=r"the pattern '\(' is not a regular expression"):
        full_tuning.full(base, targets="(")
    with pytest.raises(
        ValueError, match=r"the pattern 'attn9' matches no tensor of UNet2DConditionModel\. Valid: e\.g"
    ) as no:
        full_tuning.full(base, targets="attn9")
    names = str(no.value).rpartition("e.g. ")[2].split(", ")
    assert len(names) == 3 and all(full_tuning.chosen_leaves(base.denoiser, re.escape(name)) for name in names)


@pytest.mark.extended
def test_a_pattern_of_one_part_of_what_is_one_parameter_here_is_refused(tmp_path):
    """Queries, keys and values of SD 3 are one kernel."""
    base = text_to_image.described(made_pipelines.folder("mmdit", tmp_path))
    with pytest.raises(
        ValueError, match=r"'attn\.to_q\.weight' matches only a part of \S+, and leaves out \S+to_[kv]\.weight"
    ):
        full_tuning.full(base, targets=r"attn.to_q.weight")
