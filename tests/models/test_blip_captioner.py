"""BLIP's captioner: the captions of transformers from the same weights, token by token, whatever the batch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion import discrete
from diffusion.models import captioning, interchange
from diffusion.models.text_encoders.med import MEDDecoder
from tests.models.interchange import published

LENGTH = 9
STOP = 7
HEAD = "text_decoder.cls.predictions.decoder.weight"
WORDS = "text_decoder.bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def case():
    return published.case("blip_captioner")


@pytest.fixture(scope="module")
def captioner(case, tmp_path_factory):
    return interchange.load(case.folder(tmp_path_factory.mktemp("captioner")))


@pytest.fixture(scope="module")
def logits_of(captioner):
    module, params = captioner
    return jax.jit(lambda ids, images, params=params: module.apply({"params": params}, ids, images))


def generate(captioner, prompt=(), top_p=None):
    module, params = captioner
    program = jax.jit(
        lambda params, images, keys: captioning.generated(
            module, params, images, keys, prompt=prompt, length=LENGTH, top_p=top_p
        )
    )
    return lambda images, keys: np.asarray(program(params, images, keys))


def keys_of(number):
    return jax.random.split(jax.random.key(1), number)


@pytest.mark.extended
def test_its_logits_are_transformers(case, logits_of):
    expected = case.outputs["logits"]
    found = logits_of(case.inputs["ids"], case.inputs["images"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.extended
def test_the_likeliest_captions_are_transformers_one_picture_at_a_time(case, captioner):
    """The peer had them in one batch. The first one ends early."""
    images, expected = case.inputs["images"], case.outputs["likeliest"]
    program = generate(captioner)
    found = np.concatenate([program(image[None], keys_of(1)) for image in images])
    np.testing.assert_array_equal(found, expected)
    assert list(expected[0, 3:]) == [STOP] * 6 and STOP not in expected[1]


@pytest.mark.extended
def test_captions_continue_a_prompt_as_transformers_do(case, captioner):
    images = case.inputs["images"]
    found = generate(captioner, prompt=(5, 17))(images, keys_of(3))
    np.testing.assert_array_equal(found, case.outputs["prompted"])
    assert (found[:, 1:3] == [5, 17]).all() and (found == STOP).any(1).sum() == 2


@pytest.mark.extended
def test_a_prompt_goes_on_where_the_network_would_end(case, captioner):
    """Without a prompt the first caption is 12, 12 and the end; with 5 in the end's place it has more tokens."""
    images = case.inputs["images"][:1]
    assert list(case.outputs["likeliest"][0, 1:4]) == [12, 12, STOP]
    found = generate(captioner, prompt=(12, 12, 5))(images, keys_of(1))
    assert list(found[0, :4]) == [38, 12, 12, 5] and found[0, 4] != STOP


@pytest.mark.extended
def test_draws_come_from_the_likeliest_tokens_by_a_pictures_own_key(case, captioner, logits_of):
    """Each token again, from the logits of the whole caption: among those with 60 % of the probability."""
    images, keys = case.inputs["images"], keys_of(3)
    program = generate(captioner, top_p=0.6)
    found = program(images, keys)
    again = jax.jit(jax.vmap(lambda key, i, log_p: jax.random.categorical(jax.random.fold_in(key, i), log_p)))
    log_p = discrete.nucleus(jax.nn.log_softmax(logits_of(found, images)), 0.6)[:, :-1].reshape(-1, 40)
    drawn = again(jnp.repeat(keys, LENGTH - 1), jnp.tile(jnp.arange(1, LENGTH), 3), log_p).reshape(3, -1)
    ended = np.cumsum(found[:, :-1] == STOP, axis=1) > 0
    np.testing.assert_array_equal(found[:, 1:], np.where(ended, STOP, drawn))
    assert (found != case.outputs["likeliest"]).any(1).all()
    order = np.array([2, 0, 1])
    np.testing.assert_array_equal(program(images[order], keys[order]), found[order])


@pytest.mark.extended
def test_a_file_with_a_head_of_its_own_is_read_with_it(case, tmp_path, captioner):
    """Twice the table as head: logits less their bias are doubled. Written, it is the same file again."""
    folder = case.folder(tmp_path / "theirs")
    tensors = load_file(folder / "model.safetensors")
    copy = {"text_decoder.cls.predictions.decoder.bias": tensors["text_decoder.cls.predictions.bias"]}
    save_file({**tensors, **copy, HEAD: 2 * tensors[WORDS]}, folder / "model.safetensors")
    module, params = interchange.load(folder)
    assert not module.text.tied and captioner[0].text.tied
    ids, images = case.inputs["ids"], case.inputs["images"]
    bias = np.asarray(params["text"]["head_bias"])
    found = jax.jit(lambda params: module.apply({"params": params}, ids, images))(params) - bias
    np.testing.assert_allclose(found, 2 * (case.outputs["logits"] - bias), rtol=0, atol=1e-4)
    interchange.save(tmp_path / "ours", module, params)
    written = load_file(tmp_path / "ours" / "model.safetensors")
    assert written.keys() == tensors.keys() | {HEAD}
    np.testing.assert_array_equal(written[HEAD], 2 * tensors[WORDS])


def test_what_is_written_is_what_was_read(case, tmp_path, captioner):
    interchange.save(tmp_path / "ours", *captioner)
    written, read = load_file(tmp_path / "ours" / "model.safetensors"), case.tensors()
    assert written.keys() == read.keys()
    for name, tensor in read.items():
        np.testing.assert_array_equal(written[name], tensor, err_msg=name)
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["architectures"] == ["BlipForConditionalGeneration"]
    for part in ("text_config", "vision_config"):
        assert config[part].items() <= case.config[part].items()


def test_a_decoder_begins_with_a_picture_and_within_its_positions():
    text = MEDDecoder(vocabulary=9, width=8, depth=1, heads=2, hidden=8, positions=4, start=8, stop=3)
    init = lambda room, picture: jax.eval_shape(
        lambda: text.init(jax.random.key(0), jnp.zeros((1, 2), int), text.room(1, room), 0, picture)
    )
    init(4, jnp.zeros((1, 3, 6)))
    with pytest.raises(ValueError, match="room for 5 tokens, but the longest text has 4"):
        init(5, jnp.zeros((1, 3, 6)))
    with pytest.raises(ValueError, match="needs the picture"):
        init(4, None)
    with pytest.raises(ValueError, match=r"start=9 must be an id, 0 \.\. 8"):
        MEDDecoder(vocabulary=9, width=8, depth=1, heads=2, hidden=8, positions=4, start=9, stop=3)
