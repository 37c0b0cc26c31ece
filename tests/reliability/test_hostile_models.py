"""Hostile folders of models are refused in one sentence.

The attacks are sizes that no network has, values of the wrong type, and rules of a vocabulary that make a text grow or
that end in a panic.
"""

import json
import time

import pytest

from diffusion import text
from diffusion.io import limits
from diffusion.models import interchange
from diffusion.models.interchange import families, folders, schedulers
from tests.models.interchange import published
from tests.reliability.hostile import little_memory  # noqa: F401
from tests.text import vocabularies


@pytest.fixture(autouse=True)
def little_time():
    """Fails a test that takes 10 s of processor time: a refusal must be quick."""
    before = time.process_time()
    yield
    assert time.process_time() - before < 10


@pytest.mark.extended
@pytest.mark.parametrize(("name", "change", "words"), [
    ("dit", {"num_layers": 100_000}, "num_layers = 100000. Valid: a whole number, at least 0 and at most 512"),
    ("dit", {"num_layers": 400}, "Missing are .* and others"),
    ("dit", {"num_layers": "2"}, "num_layers = '2'. Valid: a whole number"),
    ("dit", {"num_layers": None}, "num_layers = None. Valid: a whole number"),
    ("dit", {"num_layers": True}, "num_layers = True. Valid"),
    ("dit", {"attention_head_dim": 10**9}, "attention_head_dim = 1000000000. Valid"),
    ("dit", {"attention_head_dim": 10**6, "num_attention_heads": 10**6}, r"= 1000000000000\. Valid: at most 1048576"),
    ("dit", {"attention_head_dim": 0}, "attention_head_dim = 0. Valid"),
    ("dit_original", {"input_size": 2**20}, r"pos_embed has shape"),
    ("flux_dev", {"axes_dims_rope": [16, 10**9]}, "axes_dims_rope = "),
    ("mmdit_sd3", {"dual_attention_layers": "all"}, "dual_attention_layers = 'all'. Valid"),
    ("conditional_unet_sd1", {"layers_per_block": 100}, "Missing are .* and others"),
    ("conditional_unet_sd1", {"block_out_channels": 32}, "block_out_channels = 32. Valid: a list"),
    ("autoencoder_kl_sd", {"layers_per_block": 77}, "layers_per_block = 77. Valid: .* at most 64"),
    ("autoencoder_kl_sd", {"latents_mean": [], "latents_std": []}, "latents_mean = "),
    ("clip_text", {"hidden_size": 1.5}, r"hidden_size = 1\.5. Valid"),
    ("clip_both", {"text_config": [1]}, "text_config = "),
    ("clip_text", {"architectures": {"a": 1}, "_class_name": None}, "names no architecture"),
])  # fmt: skip
def test_a_config_of_no_network_is_refused_before_anything_of_its_size_is_made(tmp_path, name, change, words):
    case = published.case(name)
    case._replace(config=case.config | change).folder(tmp_path / "network")
    with pytest.raises((interchange.Refusal, interchange.Mismatch), match=words):
        interchange.load(tmp_path / "network")


@pytest.mark.parametrize(("name", "change", "words"), [
    ("conditional_unet_sd1", {"downsample_padding": True}, "downsample_padding = True is not supported"),
    ("conditional_unet_sd1", {"flip_sin_to_cos": 1}, "flip_sin_to_cos = 1 is not supported"),
    ("flux_dev", {"patch_size": True}, "patch_size = True is not supported; supported: 1"),
    ("wan", {"patch_size": [True, 2, 2]}, "patch_size = .* is not supported"),
    ("dit", {"norm_eps": 0.01}, "norm_eps = 0.01. Valid: a number from 0 to 1e-05"),
    ("clip_text", {"layer_norm_eps": -1}, "layer_norm_eps = -1. Valid: a number from 0 to 1"),
    ("clip_both", {"text_config": {"layer_norm_eps": -1e-9}}, "layer_norm_eps = -1e-09. Valid"),
    ("dinov3", {"rope_theta": 0}, "rope_theta = 0. Valid"),
    ("autoencoder_kl_sd", {"scaling_factor": 0}, "scaling_factor = 0. Valid: a number from 1e-09"),
    ("autoencoder_kl_sd", {"latents_mean": [0.5], "latents_std": [2.0]}, "scale has 1 numbers, but the latents have"),
    ("decoder_llama", {"rope_parameters": {"rope_type": 0}}, "rotary positions .* are not supported"),
    ("decoder_llama", {"rope_parameters": {"rope_type": ["llama3"]}}, "rotary positions .* are not supported"),
    ("decoder_gemma3", {"rope_parameters": {"full_attention": []}}, r"full_attention = \[\]. Valid: a table"),
    ("clip_text", {"architectures": ["CLIPTextModal"]}, "architecture='CLIPTextModal' is not known"),
])  # fmt: skip
def test_a_value_that_is_not_what_it_seems_is_refused_with_the_name_of_its_file(tmp_path, name, change, words):
    """Python would accept each value: true counts as 1, and one number broadcasts to all channels."""
    known = published.case(name).config
    folders.built(families.find(folders.family_of(known, tmp_path)), known)
    (tmp_path / "config.json").write_text(json.dumps(known | change))
    with pytest.raises(interchange.Refusal, match=words) as refusal:
        folders.described(tmp_path)
    assert str(refusal.value).startswith(f"{tmp_path}/config.json: ")


@pytest.mark.parametrize(("change", "words"), [
    ({"num_train_timesteps": 2**31 - 1}, "num_train_timesteps = 2147483647. Valid: a whole number"),
    ({"num_train_timesteps": "1000"}, "num_train_timesteps = '1000'"), ({"num_train_timesteps": None}, "= None. Valid"),
    ({"num_train_timesteps": -5}, "= -5"), ({"beta_start": "0"}, "beta_start = '0'"), ({"beta_end": [1]}, "beta_end"),
    ({"beta_start": 0.5, "beta_end": 1e9}, "beta_end"), ({"trained_betas": "many"}, "trained_betas = 'many'"),
    ({"trained_betas": [2.0] * 1000}, "trained_betas"), ({"_class_name": ["DDIMScheduler"]}, "_class_name = "),
    ({"steps_offset": float("nan")}, "steps_offset"), ({"original_inference_steps": []}, "original_inference_steps"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": "3"}, "shift = '3'"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0}, "shift = 0"),
    ({"x" * 10**6: 1}, "which this version does not know"), ({"prediction_type": ["epsilon"]}, "prediction_type = "),
])  # fmt: skip
def test_a_scheduler_of_no_process_is_refused(change, words):
    with pytest.raises(interchange.Refusal, match=words) as refusal:
        schedulers.read({"_class_name": "DDIMScheduler"} | change)
    assert len(str(refusal.value)) < 1000
    with pytest.raises(interchange.Refusal, match="a table of fields"):
        schedulers.read([change])


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 500}


@pytest.mark.parametrize(("file", "change", "words"), [
    ("tokenizer_config.json", {"model_max_length": "77"}, "model_max_length = '77'. Valid"),
    ("tokenizer_config.json", {"model_max_length": float("nan")}, "model_max_length"),
    ("tokenizer_config.json", {"pad_token": 5}, "pad_token = 5. Valid"),
    ("tokenizer_config.json", {"bos_token": "\ud800"}, "bos_token = .*. Valid"),
    ("tokenizer_config.json", {"eos_token": {"text": "x"}}, "eos_token = "),
    ("tokenizer_config.json", {"bos_token": {"content": ["x"]}}, "bos_token = "),
    ("tokenizer_config.json", {"extra_ids": 3_000_000}, "extra_ids = 3000000. Valid: a whole number"),
    ("tokenizer.json", {"normalizer": {**REPLACE, "content": "a" * 10**6}}, r"turns one letter into up to 1e\+06"),
    ("tokenizer.json", {"normalizer": {"type": "Sequence", "normalizers": [REPLACE, REPLACE]}}, r"250000\. Valid: at"),
    ("tokenizer.json", {"normalizer": {**REPLACE, "pattern": {"Regex": r"\K"}, "content": "x"}}, "index out of bounds"),
    ("tokenizer.json", {"normalizer": {**REPLACE, "pattern": {"Regex": "("}, "content": "x"}}, "Oniguruma error"),
    ("tokenizer.json", {"model": {"type": "WordLevel", "vocab": {"b": 0}, "unk_token": "none"}}, "cannot read|no "),
    ("tokenizer.json", {"model": {"type": "WordLevel", "vocab": {"a": 2**32 - 1}, "unk_token": "a"}}, "largest id"),
    ("tokenizer.json", {"model": 3}, "is not a vocabulary"),
])  # fmt: skip
def test_a_vocabulary_that_no_text_can_be_read_by_is_refused(tmp_path, file, change, words):
    folder = vocabularies.folder_of(tmp_path / "vocabulary", "clip", whole=True)
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(limits.Refused, match=words):
        text.Tokenizer.open(folder)


# The expression of GPT-4o's vocabulary. Of all published expressions, its first two alternatives match in most ways.
LETTERS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT_4O = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?" + "{}*{}+{}".format(*LETTERS),
        r"[^\r\n\p{L}\p{N}]?" + "{}+{}*{}".format(*LETTERS),
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )
)


SOUND = (GPT_4O, r"\s+|[()|]+", r" ?[^(\s|[.,!?])]+", r"\d{1,3}(?=(?:\d{3})*\b)", r"(?i)a\*\(+", r"[^\]]+|\p{L}*+")
ENDLESS = (
    "(?:.{0,40}){4}(?<=\n)", r".*.*.*(?<=\n)", "(?:(a+)+)+$", "(a|b|ab)*c", r"(.)\1", r"(?<n>a)\g<n>*", ".?" * 30 + "x",
    "(?:a?){40}", "(" * 3000 + ")" * 3000, r"[a-z]{2,90}[a-z]{2,90}[a-z]{2,90}(?<=\n)",
)  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "sound"), [*((one, True) for one in SOUND), *((one, False) for one in ENDLESS)], ids=lambda one: ""
)
def test_an_expression_that_a_text_matches_in_many_ways_is_refused_before_it_is_tried(tmp_path, expression, sound):
    """The library spends minutes on (.{0,40}){4} for a single text, and no signal stops it."""
    folder = vocabularies.folder_of(tmp_path / "vocabulary", "clip", whole=True)
    content = json.loads((folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    rules = [split, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]
    rule = {"type": "Sequence", "pretokenizers": rules}
    (folder / "tokenizer.json").write_text(json.dumps(content | {"pre_tokenizer": rule}))
    if sound:
        text.Tokenizer.open(folder)([("a cat " * 100)])
        return
    with pytest.raises(limits.Refused, match=r"tokenizer\.json: its regular expressions could be matched in \S+ ways"):
        text.Tokenizer.open(folder)


@pytest.mark.parametrize("change", [{"a": "1"}, {"a": -1}, {"a": 2**40}, {"a": None}, {"a": [1]}])
def test_a_vocabulary_whose_ids_are_none_is_refused(tmp_path, change):
    folder = vocabularies.folder_of(tmp_path / "vocabulary", "clip")
    vocabulary = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(vocabulary | change))
    with pytest.raises(limits.Refused, match=r"vocab\.json: 'a' = .*. Valid: a whole number"):
        text.Tokenizer.open(folder)


def test_a_text_at_which_the_expression_of_a_vocabulary_gives_up_is_refused(tmp_path):
    """Two repetitions that never find their end take n^2 / 2 attempts on n letters, at which the library gives up."""
    folder = vocabularies.folder_of(tmp_path / "vocabulary", "clip", whole=True)
    content = json.loads((folder / "tokenizer.json").read_text())
    rule = {**REPLACE, "pattern": {"Regex": r"a+a+(?<=\n)"}, "content": "x"}
    (folder / "tokenizer.json").write_text(json.dumps(content | {"normalizer": rule}))
    tokenizer = text.Tokenizer.open(folder)
    with pytest.raises(limits.Refused, match=r"cannot read the text 'aaa.*retry-limit"):
        tokenizer(["a" * 6000])
