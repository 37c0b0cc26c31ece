"""Textual inversion: what trains, what stays to the bit, and the files of words that other programs read."""

import dataclasses
import functools
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion import text_to_image
from diffusion.adapters import word_embeddings
from diffusion.adapters.custom_diffusion import custom_diffusion
from diffusion.adapters.textual_inversion import textual_inversion
from diffusion.adapters.word_embeddings import Word
from diffusion.io.leaf_names import leaves_of
from diffusion.models.interchange.rows import Mismatch
from diffusion.models.text_encoders.clip import CLIPText
from diffusion.text import Tokenizer
from tests.metrics import torch_writer
from tests.text_to_image import made_pipelines


def test_a_word_has_at_most_the_tokens_of_the_shorter_prompt(monkeypatch):
    base = types.SimpleNamespace(tokenizers={"a": types.SimpleNamespace(room=5), "b": types.SimpleNamespace(room=3)})
    monkeypatch.setattr(word_embeddings, "encoders_of", lambda base: dict.fromkeys(base.tokenizers))
    with pytest.raises(ValueError, match=r"vectors = 4\. Valid: 1 to 3, the tokens of a prompt"):
        textual_inversion(base, vectors=4)


def test_the_shape_of_a_table_grows_as_the_table_does():
    rows = [np.zeros((2, 6)), np.zeros((1, 6))]
    shapes = {"tokens": {"embedding": jax.ShapeDtypeStruct((10, 6), np.float16)}}
    larger = word_embeddings.with_rows(shapes, rows)["tokens"]["embedding"]
    assert (larger.shape, larger.dtype) == ((13, 6), np.float16)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """pipeline -> (described, loaded), of one text encoder and of two."""
    place = tmp_path_factory.mktemp("models")

    @functools.cache
    def opened(name):
        folder = made_pipelines.folder(name, place / name)
        return text_to_image.described(folder), text_to_image.load(folder)

    return opened


def begun(models, name, **arguments):
    base, model = models(name)
    tuning = textual_inversion(base, "<new>", **arguments)
    return tuning, model, tuning.init(jax.random.key(0), {part: model.params[part] for part in base.readers})


@pytest.mark.extended
@pytest.mark.parametrize("name, parts", [("sd", 1), pytest.param("mmdit", 2, marks=pytest.mark.slow)])
def test_only_the_new_rows_train_and_the_others_stay_to_the_bit(models, name, parts):
    tuning, model, weights = begun(models, name, vectors=2, initial="cat")
    assert len(weights) == parts and all(rows.shape[0] == 2 for rows in weights.values())
    attached = tuning.attach(model, weights)
    for part, rows in weights.items():
        old, new = (word_embeddings.table_of(each.params[part]) for each in (model, attached))
        np.testing.assert_array_equal(new[: len(old)], old)
        np.testing.assert_array_equal(new[len(old) :], rows)
        first = model.tokenizers[part].ids("cat")[0]
        np.testing.assert_array_equal(rows[0], old[first])
        assert attached.tokenizers[part].ids("<new>") == [len(old), len(old) + 1]
    same = lambda a, b: np.testing.assert_array_equal(a, b)
    others = lambda each: {part: each.params[part] for part in each.params if part not in weights}
    jax.tree.map(same, others(attached), others(model))


@pytest.mark.extended
@pytest.mark.parametrize("name", ["sd", pytest.param("mmdit", marks=pytest.mark.slow)])
def test_the_gradient_goes_to_the_rows_and_a_word_like_another_means_the_same(name, models):
    """With the embedding of "cat" as its one vector, the word is "cat" to the text encoder, pooled vectors too."""
    tuning, model, weights = begun(models, name, initial="cat")
    params = {part: model.params[part] for part in model.readers}

    def text(weights, prompt, what):
        larger = {part: word_embeddings.with_rows(params[part], [weights[part]]) for part in params}
        return tuning.base.encoded(larger, tuning.base.tokens([prompt]))[what]

    plain = (
        model.encoded(params, model.tokens(["a cat"])) if len(model.tokenizers["text_encoder"].ids("cat")) == 1 else {}
    )
    for what in plain:
        np.testing.assert_array_equal(text(weights, "a <new>", what), plain[what])
    gradient = jax.grad(lambda weights: jnp.square(text(weights, "a <new>", "text")).sum())(weights)
    assert all(np.abs(leaf).max() > 0 for leaf in gradient.values())
    without = jax.grad(lambda weights: jnp.square(text(weights, "a cat", "text")).sum())(weights)
    assert not any(np.any(leaf) for leaf in without.values())


@pytest.mark.parametrize(
    "name, names", [("sd", {"<new>"}), pytest.param("mmdit", {"clip_l", "clip_g"}, marks=pytest.mark.slow)]
)
def test_files_are_those_of_others_and_are_read_back(models, name, names, tmp_path):
    tuning, model, weights = begun(models, name, vectors=3)
    weights = jax.tree.map(lambda rows: np.asarray(rows) + 1, weights)
    (path,) = tuning.write(tmp_path, weights, {"base_model": "made"})
    assert path.name == "learned_embeds.safetensors" and set(load_file(path)) == names
    read = word_embeddings.load(path, model)
    assert read.text == "<new>"
    jax.tree.map(np.testing.assert_array_equal, dict(read.rows), weights)
    by_file = text_to_image.with_words(model, {path: "<other>"})
    assert by_file.words == ("<other>",)
    if name == "sd":
        theirs = tmp_path / "my-style.safetensors"
        save_file({"emb_params": weights["text_encoder"][0]}, theirs)
        rows = weights["text_encoder"]
        for file, tensor, text in (("a.bin", "<their>", "<their>"), ("auto.pt", "string_to_param.*", "auto")):
            torch_writer.archive(tmp_path / file, *torch_writer.state({tensor: rows}))  # read, and not executed
            word = word_embeddings.load(tmp_path / file, model)
            assert word.text == text
            np.testing.assert_array_equal(word.rows["text_encoder"], rows)
        word = word_embeddings.load(theirs, model)
        assert word.text == "my-style" and word.rows["text_encoder"].shape == (1, weights["text_encoder"].shape[1])


def test_files_of_two_encoders_name_the_parts_of_sdxl(tmp_path):
    towers = {"first": CLIPText(9, 8, 1, 2, 16), "second": CLIPText(9, 12, 1, 2, 16)}
    model = types.SimpleNamespace(readers=tuple(towers), modules=towers)
    rows = {name: np.full((2, tower.width), 0.5, np.float32) for name, tower in towers.items()}
    path = word_embeddings.save(tmp_path, Word("<new>", rows), {})
    assert {name: array.shape for name, array in load_file(path).items()} == {"clip_l": (2, 8), "clip_g": (2, 12)}
    word = word_embeddings.load(path, model)
    assert word.text == "<new>"
    jax.tree.map(np.testing.assert_array_equal, dict(word.rows), rows)


def test_a_training_step_reads_the_prompt_with_the_new_rows_and_moves_them_alone(models):
    """The denoiser in its place multiplies x by its one number and adds the mean of the text."""
    base, model = models("sd")
    denoiser = types.SimpleNamespace(
        apply=lambda variables, x, clock, condition: variables["params"] * x + condition["text"].mean() + condition["y"]
    )
    small = dataclasses.replace(base, modules={**base.modules, "unet": denoiser}, _programs={})
    tuning = textual_inversion(small, "<new>", initial="cat")
    params = {part: model.params[part] for part in model.readers} | {"unet": jnp.float32(2)}
    weights = jax.tree.map(lambda rows: rows + 0.5, tuning.init(jax.random.key(0), params))
    condition = tuning.base.tokens(["a <new>"]) | {"y": jnp.float32(1)}
    loss = lambda params, weights: tuning.apply(params, weights, jnp.float32(3), jnp.zeros(1), condition)
    attached = word_embeddings.extended(model, [Word("<new>", weights)])
    text = attached.encoded({part: attached.params[part] for part in model.readers}, attached.tokens(["a <new>"]))
    value, (fixed, moved) = jax.value_and_grad(loss, argnums=(0, 1))(params, weights)
    np.testing.assert_allclose(value, 2 * 3 + text["text"].mean() + 1, rtol=1e-5)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(moved))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(fixed))


def test_words_of_several_vectors_stand_behind_each_other():
    """On a model that is only a table of 7 rows and a tokenizer of which every other word is the id 3."""
    table, rows = np.split(np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32), [7])
    read = Tokenizer(lambda text: ([3] * 2 * len(text.split()), lambda first: ""), (), (6,), 0, 20)
    model = types.SimpleNamespace(
        words=(),
        readers=("text_encoder",),
        modules={"text_encoder": CLIPText(7, 4, 1, 1, 4)},
        params={"text_encoder": {"tokens": {"embedding": table}, "norm": np.ones(4)}},
        tokenizers={"text_encoder": read},
        replaced=lambda **changes: types.SimpleNamespace(**changes),
    )
    words = [Word("<one>", {"text_encoder": rows[:2]}), Word("<two>", {"text_encoder": rows[2:]})]
    larger = word_embeddings.extended(model, words)
    assert larger.tokenizers["text_encoder"].ids("<two> cat <one>") == [9, 10, 11, 3, 3, 7, 8]
    larger_table = word_embeddings.table_of(larger.params["text_encoder"])
    np.testing.assert_array_equal(larger_table, np.concatenate([table, rows]))
    assert larger.modules["text_encoder"].vocabulary == 12 and larger.words == ("<one>", "<two>")


@pytest.mark.slow
def test_custom_diffusion_trains_a_word_and_keys_and_values(models, tmp_path):
    base, model = models("sd")
    tuning = custom_diffusion(base, "<new>")
    params = {part: model.params[part] for part in tuning.networks}
    weights = tuning.init(jax.random.key(0), params)
    layers = leaves_of(weights["layers"])
    assert layers and all(
        name.endswith(("cross_attention/key/kernel", "cross_attention/value/kernel")) for name in layers
    )
    x, clock = jnp.ones((1, 8, 8, 4)), jnp.full(1, 500.0)
    tokens = tuning.base.tokens(["a <new>"])
    output = lambda weights: tuning.apply(params, weights, x, clock, tokens)
    plain = model.denoiser.apply({"params": params["unet"]}, x, clock, tuning.attach(model, weights).encoded(
        tuning.attach(model, weights).params, tokens))  # fmt: skip
    np.testing.assert_array_equal(output(weights), plain)
    gradient = jax.grad(lambda weights: jnp.square(output(weights)).sum())(weights)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    written = [path.name for path in tuning.write(tmp_path, weights, {})]
    assert written == ["learned_embeds.safetensors", "pytorch_custom_diffusion_weights.safetensors"]
    assert tuning.replaces == ("unet",)
    with pytest.raises(ValueError, match="matches no tensor of SD3Transformer2DModel"):
        custom_diffusion(models("mmdit")[0])


def test_a_word_that_is_not_there_and_files_of_other_models_are_refused(models, tmp_path):
    _, model = models("sd")
    with pytest.raises(
        ValueError, match=r"has the word '<new>.*, whose embeddings are not loaded.*Load its file \(.*: none"
    ):
        text_to_image.conditions(model, ["a <new>"], None, 7.5, 16, 16)
    tuning, _, weights = begun(models, "sd")
    path = tmp_path / "two.safetensors"
    save_file({"clip_l": np.zeros((1, 24), np.float32), "clip_g": np.zeros((1, 24), np.float32)}, path)
    with pytest.raises(Mismatch, match=r"clip_g belongs to no text encoder of the model\. Valid: one tensor"):
        word_embeddings.load(path, model)
    save_file({"<new>": np.zeros((1, 7), np.float32)}, tmp_path / "seven.safetensors")
    with pytest.raises(
        Mismatch, match=r"another model: <new> has the shape \[1, 7\], and the words of text_encoder have \d+ features"
    ):
        word_embeddings.load(tmp_path / "seven.safetensors", model)
    save_file({"<new>": np.zeros((0, 24), np.float32)}, tmp_path / "none.safetensors")
    with pytest.raises(Mismatch, match=r"none\.safetensors: <new> has the shape \[0, \d+\], which holds no vector"):
        word_embeddings.load(tmp_path / "none.safetensors", model)
    with pytest.raises(ValueError, match="the model already has the word '<NEW>'"):
        word_embeddings.extended(tuning.base, [word_embeddings.Word("<NEW>", weights)])
    with pytest.raises(ValueError, match=r"vectors = 0\. Valid: 1 to \d+"):
        textual_inversion(models("sd")[0], vectors=0)


def test_a_word_that_two_files_teach_is_refused(models, tmp_path):
    """Every run teaches "<new>" unless it names another; the prompt would read the second file alone."""
    _, model = models("sd")
    files = {}
    for name in ("first", "second"):
        files[tmp_path / f"{name}.safetensors"] = ""
        save_file({"<new>": np.zeros((2, 24), np.float32)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"already has the word '<new>'\. Valid: another word for one of the two"):
        text_to_image.with_words(model, files)
    files[tmp_path / "second.safetensors"] = "<other>"
    assert text_to_image.with_words(model, files).words == ("<new>", "<other>")


def test_a_file_does_not_replace_a_word_of_the_vocabulary(models, tmp_path):
    """AUTOMATIC1111's files are named after their word, and every prompt with the word would change."""
    _, model = models("sd")
    word = next(text for text in map(chr, range(97, 123)) if len(model.tokenizers["text_encoder"].ids(text)) == 1)
    save_file({"emb_params": np.zeros((2, 24), np.float32)}, tmp_path / f"{word}.safetensors")
    with pytest.raises(
        ValueError, match=rf"word '{word}' is already a token of the vocabulary of text_encoder\. Valid: "
    ):
        text_to_image.with_words(model, {tmp_path / f"{word}.safetensors": ""})
    assert text_to_image.with_words(model, {tmp_path / f"{word}.safetensors": f"<{word}>"}).words == (f"<{word}>",)


def test_initial_words_of_more_tokens_than_vectors_are_said(models):
    base, _ = models("sd")
    tokens = len(base.tokenizers["text_encoder"].ids("a cat a cat"))
    with pytest.warns(
        UserWarning, match=rf"initial = 'a cat a cat' has {tokens} tokens, but vectors = 1: the first 1 "
    ):
        textual_inversion(base, initial="a cat a cat")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        textual_inversion(base, vectors=tokens, initial="a cat a cat")


def test_a_word_has_no_more_vectors_than_a_prompt_has_room_for(models):
    base, _ = models("sd")
    room = base.tokenizers["text_encoder"].room
    textual_inversion(base, vectors=room)
    with pytest.raises(ValueError, match=rf"vectors = {room + 1}\. Valid: 1 to {room}, the tokens of a prompt"):
        textual_inversion(base, vectors=room + 1)


def test_words_are_of_the_text_encoders_of_clip_among_others(models):
    _, model = models("sd")
    tower = model.modules["text_encoder"]
    two = lambda modules: types.SimpleNamespace(readers=tuple(modules), modules=modules)
    assert set(word_embeddings.encoders_of(two({"text_encoder": tower, "other": object()}))) == {"text_encoder"}
    with pytest.raises(ValueError, match="a text encoder of CLIP, and this model has none"):
        word_embeddings.encoders_of(two({"other": object()}))


@pytest.mark.parametrize("eos", [word_embeddings.LEGACY_EOS, 5])
def test_the_end_of_a_text_is_the_tokenizer_s_where_it_was_the_largest_id(models, eos):
    """A new word has a larger id; an end that the encoder names itself stays."""
    _, model = models("sd")
    inner = word_embeddings.encoders_of(model)["text_encoder"].clone(eos=eos)
    whole = model.modules["text_encoder"]
    tower = whole.clone(text=inner) if hasattr(whole, "text") else inner
    ended = dataclasses.replace(model, modules={**model.modules, "text_encoder": tower}, _programs={})
    rows = jnp.ones((1, word_embeddings.table_of(model.params["text_encoder"]).shape[1]))
    larger = word_embeddings.extended(ended, [word_embeddings.Word("<new>", {"text_encoder": rows})])
    found = word_embeddings.encoders_of(larger)["text_encoder"]
    assert found.eos == (model.tokenizers["text_encoder"].end[0] if eos == word_embeddings.LEGACY_EOS else 5)
    assert found.vocabulary == inner.vocabulary + 1
