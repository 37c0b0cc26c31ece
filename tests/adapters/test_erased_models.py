"""A model that sees one text as another: which tokens are paired, and which layers change, by least squares."""

import dataclasses

import jax
import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.adapters import erasure
from diffusion.io.leaf_names import leaves_of
from tests.text_to_image import made_pipelines

START = 1  # tokens before a text's own, of CLIP


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Stable Diffusion, tiny, whose text encoder is a table of random numbers by text."""
    model = text_to_image.load(made_pipelines.folder("sd", tmp_path_factory.mktemp("sd")))

    def condition(texts, *encoders):
        rows = [np.random.default_rng(list(text.encode()) or 1).normal(size=(8, 24)) for text in texts]
        return {"text": np.stack(rows).astype(np.float32)}

    width = leaves_of(model.params["unet"])["down_1_transformer_0/blocks/cross_attention/key/kernel"].shape[1]
    assert width == 24
    return dataclasses.replace(
        model, kind=model.kind._replace(prompts=model.kind.prompts._replace(condition=condition))
    )


def tokens(model, text):
    return model.kind.prompts.condition([text])["text"][0].astype(np.float64)


def last(model, text):
    """The place of the last token of a text; of the empty one, of its start."""
    return START + len(model.tokenizers["text_encoder"].ids(text)) - 1


def test_texts_are_paired_from_their_last_tokens_on(model):
    long, short = "a cat and a dog", "cat"
    length = model.tokenizers["text_encoder"].room + 2
    rows = {text: np.arange(float(length))[:, None] + (10 if text == long else 0) for text in (long, short, "")}
    places = {text: last(model, text) for text in rows}
    assert places[""] == 0 < places[short] < places[long]
    for old, new in ((long, short), (short, long), (short, "")):
        first, second = erasure.aligned(model, rows, old, new)
        number = length - max(places[old], places[new])
        np.testing.assert_array_equal(first[:, 0], rows[old][places[old] :, 0][:number])
        np.testing.assert_array_equal(second[:, 0], rows[new][places[new] :, 0][:number])
    wordy = "cat " * 300  # of which the encoder sees what it has room for
    assert erasure._last(model, wordy) == START + model.tokenizers["text_encoder"].room - 1


def test_what_attention_reads_is_what_the_denoiser_makes_of_the_text(model, monkeypatch):
    """A layer between encoder and attention that doubles the text is an encoder of doubled text."""

    def doubled(module, params, states):
        assert params is model.params["unet"]
        return 2 * states

    prompts = model.kind.prompts
    twice = prompts._replace(condition=lambda texts, *_: {"text": 2 * prompts.condition(texts)["text"]})
    of_twice = model.kind._replace(prompts=twice)
    expected = erasure.edited(dataclasses.replace(model, kind=of_twice), [("cat", "dog")], pattern="attn2.to_k")
    monkeypatch.setattr(type(model.modules["unet"]), "text_states", doubled, raising=False)
    found = erasure.edited(model, [("cat", "dog")], pattern="attn2.to_k")
    jax.tree.map(np.testing.assert_array_equal, found.params["unet"], expected.params["unet"])


@pytest.mark.parametrize("kept", [(), ("a house",)])
def test_keys_and_values_are_those_of_least_squares_and_all_else_stays(model, kept):
    pairs = [("cat", "dog"), ("a dog", "")]
    preserve, keep = 0.5, 0.2
    model._programs["old"] = 1
    found = erasure.edited(model, pairs, kept, preserve=preserve, keep=keep)
    assert not found._programs
    from_last = lambda text: tokens(model, text)[last(model, text) :]
    old, new = [], []
    for erased, instead in pairs:
        first, second = from_last(erased), from_last(instead)
        number = min(len(first), len(second))
        old.append(first[:number])
        new.append(second[:number])
    stay = [np.sqrt(preserve) * from_last(text) for text in kept] + [np.sqrt(keep) * np.eye(24)]
    before, after = (leaves_of(each.params["unet"]) for each in (model, found))
    changed = {name for name in before if after[name] is not before[name]}
    ends = ("cross_attention/key/kernel", "cross_attention/value/kernel")
    assert changed == {name for name in before if name.endswith(ends)}
    rows = np.concatenate([*old, *stay])
    for name in changed:
        assert after[name].dtype == before[name].dtype and after[name].shape == before[name].shape
        for layer, kernel in zip(after[name], before[name]):
            kernel = np.asarray(kernel, np.float64).reshape(24, -1)
            expected, *_ = np.linalg.lstsq(rows, np.concatenate([*new, *stay]) @ kernel, rcond=None)
            np.testing.assert_allclose(layer.reshape(24, -1), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    for part in ("vae", "text_encoder"):
        assert found.params[part] is model.params[part]


def test_by_default_texts_that_stay_weigh_as_much_and_the_distance_a_tenth(model):
    stated = erasure.edited(model, [("cat", "dog")], ["a house"], r"attn2\.to_[kv]\.weight$", 1.0, 0.1)
    default = erasure.edited(model, [("cat", "dog")], ["a house"])
    jax.tree.map(np.testing.assert_array_equal, default.params["unet"], stated.params["unet"])


def test_a_layer_that_does_not_read_the_text_is_refused(model):
    with pytest.raises(ValueError, match=r"self_attention/key/kernel .*\) does not read a text of 24 features"):
        erasure.edited(model, [("cat", "dog")], pattern=r"down_blocks.1.attentions.0.\S+attn1\.to_k\.weight$")


@pytest.mark.parametrize(
    "pairs, kept, words",
    [
        ([], [], "pairs is empty"),
        ([("cat", "dog"), ("cat", "fox")], [], "'cat' is replaced by 'dog' and by 'fox'"),
        ([("cat", "dog"), ("cat", "dog")], [], "'cat' is replaced by 'dog' and by 'dog'"),
        ([("cat", "cat")], [], "'cat' is replaced by itself"),
        ([("cat", "dog")], ["fox", "cat"], "'cat' is replaced, and among the texts that stay"),
    ],
)
def test_texts_that_contradict_each_other_are_refused(model, pairs, kept, words):
    """Least squares would take the mean of them."""
    with pytest.raises(ValueError, match=words):
        erasure.edited(model, pairs, kept)


def test_a_model_in_8_bits_forgets_nothing_and_is_refused(model):
    """Its kernels are values and scales, which no name of a tensor matches."""
    quantised, _ = text_to_image.with_quantised(model, "int8")
    with pytest.raises(ValueError, match=r"the kernels of unet are quantised\. Valid: the model before with_quantised"):
        erasure.edited(quantised, [("cat", "dog")])


@pytest.mark.extended
def test_a_layer_between_encoder_and_attention_is_passed(tmp_path, monkeypatch):
    """The edit sees what the layer makes of the text."""
    pixart = text_to_image.load(made_pipelines.folder("pixart", tmp_path))
    kernel = next(
        leaf
        for name, leaf in leaves_of(pixart.params["transformer"]).items()
        if name.endswith("cross_attention/key/kernel")
    )
    width = kernel.shape[1]
    seen = []

    def states(module, params, text):
        assert params is pixart.params["transformer"]
        seen.append(np.random.default_rng(0).normal(size=(*text.shape[:2], width)))
        return seen[-1]

    monkeypatch.setattr(type(pixart.denoiser), "text_states", states)
    condition = lambda texts, *encoders: {"text": np.ones((len(texts), 300, 3))}
    model = dataclasses.replace(
        pixart, kind=pixart.kind._replace(prompts=pixart.kind.prompts._replace(condition=condition))
    )
    after = leaves_of(erasure.edited(model, [("cat", "dog")], keep=1.0).params["transformer"])
    (text,) = seen
    place = max(len(pixart.tokenizers["text_encoder"].ids(word)) for word in ("cat", "dog")) - 1
    counts = [len(pixart.tokenizers["text_encoder"].ids(word)) - 1 for word in ("cat", "dog")]
    old, new = (rows[count:][: 300 - place] for rows, count in zip(text, counts))
    name = next(name for name in after if name.endswith("cross_attention/key/kernel"))
    before = np.asarray(leaves_of(pixart.params["transformer"])[name][0], np.float64).reshape(width, -1)
    expected, *_ = np.linalg.lstsq(
        np.concatenate([old, np.eye(width)]), np.concatenate([new, np.eye(width)]) @ before, rcond=None
    )
    np.testing.assert_allclose(after[name][0].reshape(width, -1), expected, rtol=0, atol=1e-5)
