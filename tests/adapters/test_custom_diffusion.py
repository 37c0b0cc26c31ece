"""A new word and keys and values beside it: what the denoiser receives, what has a gradient, what is written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.adapters import word_embeddings
from diffusion.adapters.custom_diffusion import custom_diffusion
from diffusion.adapters.textual_inversion import textual_inversion
from diffusion.io.leaf_names import leaves_of
from diffusion.published.stable_diffusion.network import ConditionalUNet
from tests.adapters.received import half, instead_of, reached, same, types, wide
from tests.text_to_image import made_pipelines

X, CLOCK = jnp.ones((1, 2, 2, 4)), jnp.zeros(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(described, loaded) Stable Diffusion, tiny; the loaded one's parameters are bfloat16."""
    folder = made_pipelines.folder("sd", tmp_path_factory.mktemp("sd"))
    return text_to_image.described(folder), text_to_image.load(folder, dtype="bfloat16")


def received(tuning, params, weights):
    """(parameters, text) that the denoiser receives of "a <new>"."""
    params, x, clock, condition = tuning.apply(params, weights, X, CLOCK, tuning.base.tokens(["a <new>"]))
    assert x is X and clock is CLOCK and condition.keys() == {"text"}
    return params, condition["text"]


def by_hand(tuning, params, rows):
    """The text encoder on a table that ends with the new word's rows."""
    text = params["text_encoder"]
    inner = text["text"] if "text" in text else text
    table = np.concatenate([inner["tokens"]["embedding"], rows])
    inner = {**inner, "tokens": {**inner["tokens"], "embedding": table}}
    text = {**text, "text": inner} if "text" in text else inner
    return jax.jit(tuning.base.encoded)({"text_encoder": text}, tuning.base.tokens(["a <new>"]))["text"]


@pytest.mark.extended
def test_a_word_alone_changes_the_text_and_nothing_of_the_denoiser(models, monkeypatch):
    base, model = models
    tuning = textual_inversion(base, vectors=2, initial="cat")
    assert tuning.networks == ("unet", "text_encoder") and tuning.encodes and tuning.words == ("<new>",)
    assert (tuning.copies, tuning.replaces) == ((), ())
    weights = tuning.init(jax.random.key(0), model.params)
    assert types(weights) == {"float32"}
    weights = {"text_encoder": weights["text_encoder"] + jnp.array([[1.0], [-2.0]])}
    params = wide({part: model.params[part] for part in tuning.networks})
    instead_of(ConditionalUNet, monkeypatch)
    network, text = jax.jit(lambda weights: received(tuning, params, weights))(weights)
    same(network, params["unet"])
    np.testing.assert_allclose(text, by_hand(tuning, params, weights["text_encoder"]), rtol=0, atol=1e-5)
    assert reached(lambda weights: received(tuning, params, weights)[1], weights) == {"text_encoder": True}
    to_base = reached(lambda base: received(tuning, base, weights), params)
    assert not any(jax.tree.leaves(to_base))


def test_layers_begin_at_the_base_and_train_beside_the_word(models, monkeypatch):
    base, model = models
    tuning = custom_diffusion(base, "<new>")
    assert tuning.networks == ("unet", "text_encoder") and tuning.encodes and tuning.words == ("<new>",)
    assert tuning.replaces == ("unet",) and "<new>" in tuning.base.words
    weights = tuning.init(jax.random.key(0), model.params)
    layers = leaves_of(weights["layers"])
    assert types(weights) == {"float32"} and weights["words"]["text_encoder"].shape[0] == 1
    ends = ("cross_attention/key/kernel", "cross_attention/value/kernel")
    before = leaves_of(wide(model.params["unet"]))
    assert set(layers) == {name for name in before if name.endswith(ends)}
    same(layers, {name: before[name] for name in layers})
    weights = jax.tree.map(lambda leaf: leaf + 1, weights)
    params = wide({part: model.params[part] for part in tuning.networks})
    instead_of(ConditionalUNet, monkeypatch)
    network, text = jax.jit(lambda weights: received(tuning, params, weights))(weights)
    same(leaves_of(network), before | leaves_of(weights["layers"]))
    np.testing.assert_allclose(text, by_hand(tuning, params, weights["words"]["text_encoder"]), rtol=0, atol=1e-5)
    assert all(jax.tree.leaves(reached(lambda weights: received(tuning, params, weights), weights)))
    assert not any(jax.tree.leaves(reached(lambda base: received(tuning, base, weights), params)))


def test_the_attached_model_has_both_in_its_types(models):
    base, model = models
    tuning = custom_diffusion(base, "<new>")
    weights = jax.tree.map(lambda leaf: np.asarray(leaf + 1), tuning.init(jax.random.key(0), model.params))
    model._programs["old"] = 1
    attached = tuning.attach(model, weights)
    assert attached.words == ("<new>",) and not attached._programs
    assert types(attached.params["unet"]) == {"bfloat16"}
    new, before = leaves_of(attached.params["unet"]), leaves_of(model.params["unet"])
    same(new, before | half(leaves_of(weights["layers"])))
    table = word_embeddings.table_of(attached.params["text_encoder"])
    np.testing.assert_array_equal(table[-1:], half(weights["words"]["text_encoder"]))
    assert attached.params["vae"] is model.params["vae"]


@pytest.mark.parametrize(
    "targets, files",
    [
        (r"attn2\.to_[kv]\.weight$", ["learned_embeds.safetensors", "pytorch_custom_diffusion_weights.safetensors"]),
        (r"attn2\.to_k\.weight$", ["learned_embeds.safetensors"]),  # which diffusers' file cannot hold
    ],
    ids=["keys and values", "keys"],
)
def test_files_are_written_where_they_can_hold_the_layers(models, targets, files, tmp_path):
    base, model = models
    tuning = custom_diffusion(base, "<new>", targets=targets)
    written = tuning.write(tmp_path, tuning.init(jax.random.key(0), model.params), {"base_model": "made"})
    assert [path.name for path in written] == files and sorted(tmp_path.iterdir()) == written


def test_a_word_that_cannot_be_taught_is_refused(models):
    base, _ = models
    known = next(word for word in ("a", "cat", "the") if len(base.tokenizers["text_encoder"].ids(word)) == 1)
    for make in (textual_inversion, custom_diffusion):
        with pytest.raises(ValueError, match="is already a token of the vocabulary of text_encoder"):
            make(base, word=known)
        with pytest.raises(ValueError, match="initial = '' gives no tokens"):
            make(base, initial="")
        with pytest.raises(ValueError, match=r"vectors = 0\. Valid: 1 to \d+"):
            make(base, vectors=0)
