"""The conditions of published models for some prompts, beside diffusers' pipelines with the same made encoders."""

import json
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from diffusion.models import interchange
from diffusion.published import (
    chroma,
    cogvideox,
    flux,
    flux2,
    hidream,
    hunyuan_image,
    hunyuan_video,
    hunyuan_video_15,
    krea2,
    ltx_video,
    lumina2,
    pixart,
    qwen_image,
    sana,
    stable_diffusion,
    stable_diffusion_3,
    wan,
    z_image,
)
from diffusion.text import Encoder, Tokenizer
from diffusion.text.encoding import AlreadyRead, Embeddings
from diffusion.text.qwen_chat import ANSWER, NO_THOUGHT, USER
from tests.models.interchange.published import Published
from tests.text.vocabularies import FIXTURES, folder_of

PROMPTS = ["a cat, sitting on the mat!", "", "long " * 90]
BEFORE = {"skip": 1, "norm": False}
# Our call; of the encoders, their tokenizers and how they are read; the largest difference from theirs, as a part of
# the largest number: ten times what is measured on one CPU, rounded up to one digit, for another rounds otherwise.
RECIPES = {
    "sd": (stable_diffusion.pipeline.stable_diffusion, [("clip", "clip", {})], 8e-6),
    "sdxl": (
        stable_diffusion.pipeline.stable_diffusion_xl,
        [("clip", "clip", BEFORE), ("clip_g", "clip, padded with !", BEFORE)],
        3e-6,
    ),
    "sd3": (
        stable_diffusion_3.pipeline.stable_diffusion_3,
        [("clip_l", "clip", BEFORE), ("clip_g", "clip, padded with !", BEFORE), ("t5", "t5", {})],
        2e-5,
    ),
    "flux": (flux.pipeline.flux, [("clip", "clip", {}), ("t5", "t5", {})], 3e-5),
    "pixart": (pixart.pipeline.pixart, [("t5", "t5", {"masked": True})], 2e-5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_condition_is_that_of_the_published_pipeline(name, tmp_path):
    with safetensors.safe_open(FIXTURES / "conditions.safetensors", framework="numpy") as file:
        about = json.loads(file.metadata()["encoders"])
        expected = {key.split("/")[1]: file.get_tensor(key) for key in file.keys() if key.startswith(f"{name}/")}
    call, readers, within = RECIPES[name]
    encoders = []
    for which, kind, how in readers:
        shapes = {key: tuple(shape) for key, shape in about[which]["shapes"].items()}
        theirs = Published(about[which]["config"], shapes, inputs={}, outputs={}, same={}, kept={})
        tokenizer = Tokenizer.open(folder_of(tmp_path / f"{which} tokenizer", kind))
        encoders.append(Encoder.from_module(tokenizer, *interchange.load(theirs.folder(tmp_path / which)), **how))
    prompts = [" A Cat" if name == "pixart" else PROMPTS[0], *PROMPTS[1:]]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        conditions = call(prompts, *encoders)
    assert any("long long" in str(one.message) for one in said)
    assert conditions.keys() == expected.keys()
    for key, value in expected.items():
        assert conditions[key].shape == value.shape
        np.testing.assert_allclose(conditions[key], value, rtol=0, atol=within * np.abs(value).max(), err_msg=key)


def test_chroma_sees_the_first_token_of_the_padding():
    """One more than the tokenizer's mask, and all of a text without padding."""
    mask = np.arange(5) < np.array([[2], [5], [1]])
    read = AlreadyRead(np.zeros((3, 5), np.int32), mask)
    found = chroma.pipeline.chroma([""] * 3, Encoder(read, lambda ids, mask: (jnp.zeros((*ids.shape, 4)), None)))
    np.testing.assert_array_equal(found["text_mask"], np.arange(5) < np.array([[3], [5], [2]]))
    assert found["text"].shape == (3, 5, 4)


def test_z_image_reads_the_windows_of_a_prompt_without_the_padding_between_them(monkeypatch):
    read = Embeddings(jnp.arange(8.0).reshape(1, 8, 1), np.array([[1, 1, 1, 0, 1, 1, 0, 0]], bool), None)
    monkeypatch.setattr(z_image.pipeline, "encode", lambda prompts, qwen, windows, before, behind: read)
    unused: Any = None
    found = z_image.pipeline.z_image(["a cat"], unused, windows=True)
    np.testing.assert_array_equal(found["text"][0, :, 0], [0, 1, 2, 4, 5, 3, 6, 7])
    np.testing.assert_array_equal(found["text_mask"][0], np.arange(8) < 5)


def test_chroma_sees_one_token_of_padding_of_a_prompt_in_two_windows(monkeypatch):
    read = Embeddings(jnp.zeros((1, 8, 4)), np.array([[1, 1, 1, 0, 1, 1, 0, 0]], bool), None)
    monkeypatch.setattr(chroma.pipeline, "encode", lambda prompts, t5, windows: read)
    unused: Any = None
    found = chroma.pipeline.chroma(["a cat"], unused, windows=True)
    np.testing.assert_array_equal(found["text_mask"], np.array([[1, 1, 1, 0, 1, 1, 1, 0]], bool))


def test_sana_keeps_the_start_and_what_follows_the_instruction():
    """A letter a token: the start, the last letter of the instruction, the prompt in lower case, and 300 in all."""
    split = lambda text: ([ord(letter) for letter in text], lambda first: text[first:])
    encoder = Encoder(Tokenizer(split, (1,), (), 0, 300), lambda ids, mask: (jnp.asarray(ids)[..., None], None))
    found = sana.pipeline.sana([" A Cat\n", "b"], encoder)
    expected = np.zeros((2, 300), int)
    expected[0, :7] = [1, ord(" "), *map(ord, "a cat")]
    expected[1, :3] = [1, ord(" "), ord("b")]
    np.testing.assert_array_equal(found["text"][..., 0], expected)
    np.testing.assert_array_equal(found["text_mask"], expected > 0)
    plain = sana.pipeline.sana(["A Cat"], encoder, instructed=False)
    np.testing.assert_array_equal(plain["text"][0, :7, 0], [1, *map(ord, "a cat"), 0])
    read = AlreadyRead(np.arange(1500)[None], np.ones((1, 1500), bool))  # whose first 1201 are start and instruction
    np.testing.assert_array_equal(
        sana.pipeline.sana([""], encoder._replace(tokenizer=read))["text"][0, :3, 0], [0, 1201, 1202]
    )


LETTERS = Encoder(  # each a token, behind a start; the state of a token is its number, and two are pooled
    Tokenizer(lambda text: ([ord(letter) for letter in text], lambda first: text[first:]), (1,), (), 0, 1000),
    lambda ids, mask: (jnp.asarray(ids)[..., None] + 10, jnp.asarray(ids)[:, 1:3]),
)


@pytest.mark.parametrize(
    "condition, prompt, seen, masked, padding",
    [
        (wan.pipeline.wan, " a  cat\n", "a cat", False, 0),
        (wan.pipeline.wan, "a&nbsp;cat &amp;amp; &quot;dog&quot;", 'a cat & "dog"', False, 0),
        (cogvideox.pipeline.cogvideox, "a cat", "a cat", False, 10),
        (ltx_video.pipeline.ltx_video, "a cat", "a cat", True, 10),
        (pixart.pipeline.pixart, " A Cat\n", "a cat", True, 10),
        (lumina2.pipeline.lumina2, "a cat", lumina2.pipeline.SYSTEM + "a cat", True, 10),
        (flux2.pipeline.flux2, "a [IMG]cat", flux2.pipeline.JUDGE + "a cat[/INST]", False, 10),
        (flux2.pipeline.flux2_klein, "a cat", f"{USER}a cat{ANSWER}{NO_THOUGHT}", False, 10),
        (z_image.pipeline.z_image, "a cat", f"{USER}a cat{ANSWER}", True, 10),
        (qwen_image.pipeline.qwen_image, "a cat", f"{qwen_image.pipeline.TASK}{USER}a cat{ANSWER}"[33:], True, 10),
        (krea2.pipeline.krea2, "a cat", f"{qwen_image.pipeline.TASK}{USER}a cat{ANSWER}"[33:], True, 10),
        (
            lambda prompts, encoder: hunyuan_video.pipeline.hunyuan_video(prompts, encoder, encoder),
            "a cat",
            f"{hunyuan_video.pipeline.CLIP_TASK}a cat<|eot_id|>"[94:],
            True,
            10,
        ),
        (
            lambda prompts, encoder: hunyuan_image.pipeline.hunyuan_image(prompts, encoder, encoder),
            "a cat",
            f"{hunyuan_image.pipeline.TASK}{USER}a cat<|im_end|>"[33:],
            True,
            10,
        ),
        (
            lambda prompts, encoder: hunyuan_video_15.pipeline.hunyuan_video_15(prompts, encoder, encoder),
            "",
            f"{hunyuan_video_15.pipeline.TASK} {ANSWER}"[107:],
            True,
            10,
        ),
    ],
    ids=(
        "wan wan_entities cogvideox ltx_video pixart lumina2 flux2 klein z_image qwen_image krea2 hunyuan_video "
        "hunyuan_image hunyuan_video_15"
    ).split(),
)
def test_a_prompt_stands_in_its_template_and_the_padding_behind(condition, prompt, seen, masked, padding):
    """The start goes with the template where that is left out: 34 tokens of Qwen-Image, 95 of HunyuanVideo, 108."""
    found = condition([prompt], LETTERS)
    text = [*([1] if len(found["text"][0]) == 1000 else []), *map(ord, seen)]
    expected = np.full(len(found["text"][0]), padding)
    expected[: len(text)] = np.array(text) + 10
    np.testing.assert_array_equal(found["text"][0, :, 0], expected)
    assert ("text_mask" in found) == masked
    if masked:
        np.testing.assert_array_equal(found["text_mask"][0], np.arange(len(expected)) < len(text))
    if "pooled" in found:
        np.testing.assert_array_equal(found["pooled"], [[ord("a"), ord(" ")]])


def reader(offset: int, length: int = 8) -> Encoder:
    """An encoder as `LETTERS`, whose states and pooled state of the first letter are its number and an offset."""
    return LETTERS._replace(
        tokenizer=LETTERS.tokenizer._replace(length=length),
        network=lambda ids, mask: (jnp.asarray(ids)[..., None] + offset, jnp.asarray(ids)[:, 1:2] + offset),
    )


def test_what_two_text_encoders_read_stands_in_the_order_of_their_folders():
    """Side by side in each token; SDXL takes the pooled state of the second alone."""
    letters, clip, clip_g, t5 = np.array([[1, *map(ord, "cat"), 0, 0, 0, 0]]), reader(1000), reader(2000), reader(3000)
    both = np.stack([letters + 1000, letters + 2000], -1)
    first = ord("c")
    xl = stable_diffusion.pipeline.stable_diffusion_xl(["cat"], clip, clip_g)
    np.testing.assert_array_equal(xl["text"], both)
    np.testing.assert_array_equal(xl["pooled"], [[2000 + first]])
    sd3 = stable_diffusion_3.pipeline.stable_diffusion_3(["cat"], clip, clip_g, width=5, length=3)
    expected = np.zeros((1, 8 + 3, 5))  # three tokens of zeros stand for T5's
    expected[:, :8, :2] = both
    np.testing.assert_array_equal(sd3["text"], expected)
    full = hidream.pipeline.hidream(["cat"], clip, clip_g, t5, reader(4000))
    for condition in (sd3, full):
        np.testing.assert_array_equal(condition["pooled"], [[1000 + first, 2000 + first]])
    np.testing.assert_array_equal(full["text"], np.stack([letters + 3000, letters + 4000], -1))


@pytest.mark.filterwarnings("ignore:.*this part is left out")
def test_a_prompt_of_hidream_that_needs_fewer_windows_of_one_encoder_ends_in_empty_ones():
    """T5 has a token for each letter here, and Llama one for two."""
    pairs = Tokenizer(lambda text: ([*map(ord, text[::2])], lambda first: text[2 * first :]), (1,), (), 0, 8)
    llama = reader(4000)._replace(tokenizer=pairs)
    found = hidream.pipeline.hidream(["abcdefghij"], reader(1000), reader(2000), reader(3000), llama, windows=True)
    t5 = [1, *map(ord, "abcdefg"), 1, *map(ord, "hij"), 0, 0, 0, 0]
    expected = [t5, [1, *map(ord, "acegi"), 0, 0, 1, *[0] * 7]]
    np.testing.assert_array_equal(found["text"][0].T, np.array(expected) + [[3000], [4000]])


@pytest.mark.filterwarnings("ignore:.*this part is left out")
def test_a_long_prompt_of_flux_is_read_in_windows_by_t5_alone():
    found = flux.pipeline.flux(["a long prompt"], reader(1000), reader(3000), windows=True)
    assert found["text"].shape == (1, 16, 1) and found["pooled"].shape == (1, 1)


def test_words_in_quotes_are_read_apart_and_shown_where_there_are_some():
    """A start and a letter a token; the prompt without quotes has none."""
    found = hunyuan_video_15.pipeline.hunyuan_video_15(['"a" cat', "a cat"], LETTERS, LETTERS)
    shown = [1, *map(ord, 'Text "a". ')]
    np.testing.assert_array_equal(found["glyphs"][0, : len(shown), 0], np.array(shown) + 10)
    np.testing.assert_array_equal(found["glyph_mask"], [np.arange(1000) < len(shown), np.zeros(1000, bool)])


def test_a_long_prompt_of_krea_is_cut_before_the_end_of_the_chat():
    """As its pipeline has it: 34 + 512 tokens less the end's of task, user and prompt, and then the end."""
    room = LETTERS._replace(tokenizer=LETTERS.tokenizer._replace(length=300))
    with pytest.warns(UserWarning, match="this part is left out: 'yz"):
        found = krea2.pipeline.krea2(["x" * (299 - len(qwen_image.pipeline.TASK + USER + ANSWER)) + "yz"], room)
    ids = np.asarray(found["text"][0, :, 0]) - 10
    assert "".join(map(chr, ids[-len(ANSWER) - 1 :])) == f"x{ANSWER}"
    assert ids.shape == (300 - 34,) and found["text_mask"].all()


def test_a_negative_prompt_of_lumina_stands_alone():
    found = lumina2.pipeline.lumina2(["a cat"], LETTERS, instructed=False)
    np.testing.assert_array_equal(found["text"][0, :7, 0], [11, *(10 + ord(letter) for letter in "a cat"), 10])


WITH_CLIP = [  # a condition that CLIP has a part in, and its second CLIP
    (flux.pipeline.flux, ()),
    (hunyuan_video.pipeline.hunyuan_video, ()),
    (hunyuan_video.image_pipeline.hunyuan_video_from_image, ()),
    (hidream.pipeline.hidream, (reader(2000, 20),)),
]


@pytest.mark.parametrize("condition, more", WITH_CLIP, ids=lambda value: getattr(value, "__name__", ""))
def test_the_pooled_state_is_of_a_prompt_without_its_brackets(condition, more):
    """A bracket is no text where it means emphasis: CLIP reads "cat" of "(cat:1.5)", whose first letter is pooled."""
    clip = reader(1000, 20)
    others = {"flux": (clip, LETTERS), "hidream": (clip, *more, LETTERS, LETTERS)}.get(
        condition.__name__, (LETTERS, clip)
    )
    pooled = condition(["(cat:1.5)"], *others, emphasis="scale")["pooled"]
    assert int(pooled[0, 0]) == 1000 + ord("c")
    assert int(condition(["(cat:1.5)"], *others)["pooled"][0, 0]) == 1000 + ord("(")  # otherwise it is text


@pytest.mark.parametrize(
    "condition", [hunyuan_image.pipeline.hunyuan_image, hunyuan_video_15.pipeline.hunyuan_video_15]
)
def test_words_in_quotes_are_read_without_their_brackets(condition):
    emphasised, plain = (
        condition([prompt], LETTERS, LETTERS, emphasis=emphasis)["glyphs"][0, :, 0]
        for prompt, emphasis in (('a "(red:1.5) sign"', "scale"), ('a "red sign"', "none"))
    )
    np.testing.assert_array_equal(emphasised, plain)


@pytest.mark.parametrize("condition", [pixart.pipeline.pixart, sana.pipeline.sana])
def test_a_break_ends_a_window_of_a_prompt_in_small_letters(condition):
    """Of two windows each begins with the start, 1 + 10; without windows the word is text like any other."""
    letter = reader(10, 300)
    texts = condition(["A BREAK B"], letter, windows=True)["text"][0, :, 0]
    letters = "".join(chr(int(state) - 10) for state in texts if state > 11)
    assert letters.endswith("ab") and int((np.asarray(texts) == 11).sum()) == 2
    alone = condition(["A BREAK B"], letter)["text"][0, :, 0]
    assert "".join(chr(int(state) - 10) for state in alone if state > 11).endswith("a break b")
