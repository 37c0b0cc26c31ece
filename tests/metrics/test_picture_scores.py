"""Each published score by a small network with made weights: that of its own picture and prompt."""

import json
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion import text
from diffusion.io import limits
from diffusion.metrics import picture_scores, preference
from diffusion.metrics.picture_scores import PROTOCOLS, Source
from diffusion.models import interchange
from diffusion.models.image_encoders import picture_fitting
from diffusion.models.image_encoders.blip import BLIP
from diffusion.models.image_encoders.siglip import SigLIP
from diffusion.models.image_reward import ImageReward
from diffusion.models.text_encoders.clip import CLIP, CLIPText, CLIPVision, normalised
from diffusion.models.text_encoders.med import MEDText
from diffusion.models.text_encoders.siglip_text import SigLIPText, SigLIPTowers
from tests.text import vocabularies

PROMPTS = ["a cat", "The RED car on a hill", "bad"]
SMALL = {"width": 16, "depth": 1, "heads": 2, "hidden": 32}


def drawn(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((24, 20), (9, 30), (16, 16))]


def made(module, *inputs):
    """Parameters so large that pictures and prompts matter."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: (0.4 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)


def folder_of(place, kind, module, params):
    folder = vocabularies.folder_of(place / kind, kind)
    interchange.save(folder, module, params)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    place = tmp_path_factory.mktemp("clip")
    vocabulary = len(json.loads((vocabularies.FIXTURES / "vocab.json").read_text()))
    module = CLIP(CLIPText(vocabulary=vocabulary, **SMALL), CLIPVision(size=16, patch=8, **SMALL), features=12)
    params = made(module, np.zeros((1, 77), int), np.zeros((1, 16, 16, 3)))
    return folder_of(place, "clip", module, params), module, params


@pytest.mark.slow
def test_hps_is_a_hundred_cosines_of_padded_pictures(clip):
    folder, module, params = clip
    scorer = picture_scores.opened(PROTOCOLS["hpsv2"]._replace(published=""), Source(folder))
    found = scorer.columns(drawn(), PROMPTS)
    ids = text.Tokenizer.open(folder)(PROMPTS).ids
    images = np.stack([picture_fitting.padded(picture, 16) for picture in drawn()])
    words, pictures, scale = jax.jit(lambda ids, x: module.apply({"params": params}, ids, normalised(x)))(ids, images)
    np.testing.assert_allclose(found["score"], 100 * (words * pictures).sum(1), rtol=1e-4)
    assert np.ptp(found["score"]) > 1
    assert scorer.choice == pytest.approx(float(scale) / 100) and scorer.record["size"] == 16


def test_each_tower_sees_its_own_input():
    """Pictures as CLIP normalises them, and prompts as token ids, each times a weight of its own."""
    apply = lambda variables, inputs, method: variables["params"][method] * inputs
    module = types.SimpleNamespace(vision=types.SimpleNamespace(size=16), apply=apply)
    params = {"encode_images": np.float32(2), "encode_text": np.float32(3), "logit_scale": np.log(50)}
    tokenizer = lambda prompts: types.SimpleNamespace(ids=np.array([[len(prompt)] for prompt in prompts]))
    towers = picture_scores._towers(module, params, tokenizer)
    assert towers.side == 16 and towers.scale == pytest.approx(50)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_allclose(towers.images(pictures), 2 * np.asarray(normalised(jnp.asarray(pictures))), rtol=1e-6)
    np.testing.assert_array_equal(towers.texts(["a", "cat"]), [[3], [9]])


@pytest.mark.parametrize(("name", "per_cosine"), [("clip", 20), ("pickscore", 20), ("hpsv2", 100)])
def test_a_score_and_peoples_choices_are_those_of_the_cosine(name, per_cosine, monkeypatch):
    """Of two pictures people choose by a softmax of the scaled cosines (Kirstain et al., section 4; Wu et al.)."""
    images = np.array([[0.6, 0.8], [1, 0], [-0.8, 0.6]], np.float32)
    texts = np.array([[1, 0], [1, 0], [1, 0]], np.float32)
    towers = picture_scores.Towers(4, 20.0, lambda pictures: images, lambda prompts: texts)
    monkeypatch.setattr(picture_scores, "_towers", lambda *network: towers)
    read, choice = PROTOCOLS[name].reading(None, None, None)
    found = read(np.zeros((3, 4, 4, 3)), PROMPTS)
    np.testing.assert_allclose(found["score"], per_cosine * np.array([0.6, 1, -0.8]), rtol=1e-6)
    if name == "clip":
        np.testing.assert_allclose(found["clip_score"], [60, 100, 0], rtol=1e-6)
    chosen = preference.preferred(choice * found["score"][:1], choice * found["score"][1:2])
    assert chosen[0] == pytest.approx(np.exp(12) / (np.exp(12) + np.exp(20)), rel=1e-4)


def test_siglip_reads_small_letters_and_bytes_from_minus_one_to_one(monkeypatch):
    """The probability is sigmoid(T cosine + bias) (Zhai et al. 2023)."""
    images, read, scalings = np.array([[0.6, 0.8], [1, 0]]), [], []
    towers = picture_scores.Towers(4, 20.0, lambda pictures: images, lambda prompts: read.extend(prompts) or images[1:])
    monkeypatch.setattr(picture_scores, "_towers", lambda *network: scalings.append(network[3]) or towers)
    columns, choice = PROTOCOLS["siglip"].reading(None, {"logit_bias": np.float32(-11)}, None)
    found = columns(np.zeros((2, 4, 4, 3)), ["A Cat", "the RED car"])
    np.testing.assert_allclose(found["score"], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-9))], rtol=1e-6)
    assert read == ["a cat", "the red car"] and choice is None
    for pictures in (np.array([0, 51, 255], np.uint8), np.array([-1, -0.6, 1], np.float32)):
        np.testing.assert_allclose(scalings[0](jnp.asarray(pictures)), [-1, -0.6, 1], atol=1e-6)


def test_siglips_prompts_have_an_end_and_no_start():
    class Words(NamedTuple):
        start: tuple
        end: tuple

        def ids(self, words):
            return {"<eos>": [7], "a": [1]}.get(words, [3, 4])

    assert picture_scores._framed("a", Words((2,), ())) == picture_scores._framed("a", Words((), (7,))) == ((), (7,))


def test_a_reward_reads_ids_with_their_mask_and_is_in_deviations_of_raw_rewards():
    """The deviation of ImageReward's raw rewards is stated in the authors' code, ImageReward/ImageReward.py."""
    apply = lambda variables, ids, mask, x: variables["params"] * (ids * mask).sum(1) + x.mean((1, 2, 3))
    tokenizer = lambda prompts: (np.array([[1, 20], [3, 40]]), np.array([[1, 0], [1, 1]]), None)
    columns, choice = PROTOCOLS["imagereward"].reading(types.SimpleNamespace(apply=apply), np.float32(10), tokenizer)
    pictures = np.uint8([0, 255])[:, None, None, None] * np.ones((4, 4, 3), np.uint8)
    np.testing.assert_allclose(columns(pictures, ["a", "b"])["score"], [10 - 1, 430 + 1])
    assert choice == pytest.approx(1.0333394966054072, rel=1e-9)


@pytest.mark.extended
@pytest.mark.parametrize("filter_", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_siglips_score_is_a_probability(filter_, tmp_path):
    vision = SigLIP(size=16, patch=8, **SMALL)
    words = SigLIPText(vocabulary=400, features=16, positions=8, **SMALL)
    module = SigLIPTowers(words, vision)
    params = made(module, np.zeros((1, 8), int), np.zeros((1, 16, 16, 3)))
    params["logit_bias"] = np.float32(-0.7)
    folder = folder_of(tmp_path, "gemma", module, params)
    (tmp_path / "gemma" / "preprocessor_config.json").write_text(json.dumps({"resample": filter_}))
    ids = text.Tokenizer.open(folder, 8)([prompt.lower() for prompt in PROMPTS]).ids
    if filter_ == 3:  # some files of Gemma's vocabulary put no end after a text
        table = json.loads((tmp_path / "gemma" / "tokenizer.json").read_text())
        (tmp_path / "gemma" / "tokenizer.json").write_text(json.dumps({**table, "post_processor": None}))
    scorer = picture_scores.opened(PROTOCOLS["siglip"], Source(folder))
    found = scorer.columns(drawn(), PROMPTS)
    images = np.stack(
        [np.asarray(Image.fromarray(picture).resize((16, 16), Image.Resampling(filter_))) for picture in drawn()]
    )
    logits = np.diag(
        jax.jit(lambda ids, x: module.apply({"params": params}, ids, x))(ids, images / np.float32(127.5) - 1)
    )
    np.testing.assert_allclose(found["score"], 1 / (1 + np.exp(-logits)), rtol=1e-4)
    np.testing.assert_allclose(np.exp(params["logit_scale"]) * found["cosine"] - 0.7, logits, atol=1e-4)
    assert scorer.choice is None and ("bilinear" in scorer.record["fitting"]) == (filter_ == 2)


@pytest.mark.slow
def test_imagereward_reads_a_prompt_by_berts_vocabulary(tmp_path):
    vocabulary = len((vocabularies.FIXTURES / "vocab.txt").read_text().split())
    text_ = MEDText(vocabulary=vocabulary, positions=35, **SMALL)
    module = ImageReward(BLIP(size=16, patch=8, **SMALL), text_, hidden=(8, 6, 5, 4))
    params = made(module, np.zeros((1, 35), int), np.ones((1, 35), bool), np.zeros((1, 16, 16, 3)))
    folder = folder_of(tmp_path, "bert", module, params)
    protocol = PROTOCOLS["imagereward"]._replace(published="")
    found = picture_scores.opened(protocol, Source(folder)).columns(drawn(), PROMPTS)["score"]
    apply = jax.jit(lambda ids, mask, x: module.apply({"params": params}, ids, mask, x))
    for picture, prompt, score in zip(drawn(), PROMPTS, found):
        ids, mask, _ = text.Tokenizer.open(folder, 35)([prompt])
        x = picture_fitting.cropped_evenly(picture, 16)[None] / np.float32(127.5) - 1
        assert score == pytest.approx(float(apply(ids, mask, x)[0]), abs=1e-5)
    assert np.ptp(found) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", "hpsv2-plain"])
def test_a_score_does_not_depend_on_its_batch(name, clip):
    scorer = picture_scores.opened(PROTOCOLS[name]._replace(published=""), Source(clip[0]))
    together = scorer.columns(drawn(), PROMPTS)
    for i, (picture, prompt) in enumerate(zip(drawn(), PROMPTS)):
        for column, values in scorer.columns([picture], [prompt]).items():
            assert values[0] == pytest.approx(together[column][i], rel=1e-5, abs=1e-5), column


@pytest.mark.slow
@pytest.mark.parametrize("dtype, within", [("float32", 1e-6), ("bfloat16", 0.1)])
def test_rewards_are_float32_in_either_compute_type(dtype, within):
    parts = lambda dtype: (BLIP(size=16, patch=8, dtype=dtype, **SMALL),
                           MEDText(vocabulary=9, positions=5, dtype=dtype, **SMALL))  # fmt: skip
    inputs = (
        np.array([[1, 4, 2, 0, 0]]),
        np.array([[True] * 3 + [False] * 2]),
        np.full((1, 16, 16, 3), 0.3, np.float32),
    )
    params = made(ImageReward(*parts("float32"), hidden=(8, 6, 5, 4)), *inputs)
    rewards = [
        jax.jit(ImageReward(*parts(each), hidden=(8, 6, 5, 4)).apply)({"params": params}, *inputs)
        for each in ("float32", dtype)
    ]
    assert rewards[1].dtype == np.float32
    np.testing.assert_allclose(rewards[1], rewards[0], rtol=within, atol=within)


@pytest.mark.extended
def test_other_weights_are_one_sentence(clip, tmp_path):
    with pytest.raises(ValueError, match=r"'hpsv2' needs weights: HPS_v2_compressed\.pt"):
        picture_scores.SCORES["hpsv2"](Source())
    with pytest.raises(ValueError, match=r"not PickScore v1,.*: its text\.vocabulary is.*, not 49408"):
        picture_scores.SCORES["pickscore"](Source(clip[0]))
    (tmp_path / "reward.safetensors").touch()
    with pytest.raises(ValueError, match=r"file without a vocabulary;.*by --tokenizer"):
        picture_scores.SCORES["imagereward"](Source(str(tmp_path / "reward.safetensors")))
    with pytest.raises(ValueError, match=r"'vqascore' needs a function that answers questions.*by --answerer"):
        picture_scores.SCORES["vqascore"](Source())
    module = clip[1].clone(text=clip[1].text.clone(vocabulary=99))
    params = made(module, np.zeros((1, 77), int), np.zeros((1, 16, 16, 3)))
    with pytest.raises(ValueError, match="has the id 667, but the network knows only 99 ids: this vocabulary"):
        picture_scores.SCORES["clip"](Source(folder_of(tmp_path, "clip", module, params)))


@pytest.mark.parametrize("resample", [[2], "2", 5])
def test_an_unknown_filter_is_refused(tmp_path, resample):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"resample": resample}))
    with pytest.raises(limits.Refused, match=r"preprocessor_config\.json: resample = .*. Valid: 2 \(bilinear\) or 3"):
        picture_fitting.stated_square(tmp_path, "square")
