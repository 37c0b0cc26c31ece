"""The names of VideoMAE's encoder in transformers (VideoMAEModel, and within its classifier) and in the authors' code.

Reference: Tong et al. 2022, "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video
Pre-Training".
"""

from collections.abc import Mapping
from typing import Any

from diffusion.io import schema
from diffusion.models.image_encoders import videomae
from diffusion.models.image_encoders.videomae import VideoMAE
from diffusion.models.interchange.family import EPSILON, array
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, Group
from diffusion.models.interchange.rows import DENSE_OUT, VECTOR, Layout, Row, cut, layers, linear, mlp, norm, within
from diffusion.models.interchange.transformers_config import STORED, unread
from diffusion.models.interchange.vision_rows import HEADS, attention, sizes

TRAINING = ("attention_probs_dropout_prob", "hidden_dropout_prob", "norm_pix_loss")
DECODER = (
    "decoder_hidden_size",
    "decoder_intermediate_size",
    "decoder_num_attention_heads",
    "decoder_num_hidden_layers",
)
LAST_EPSILON = 1e-5  # epsilon of the classifier's norm, which no config states


def _tubelets(module: VideoMAE) -> Layout:
    """The layout of the embedding of patches: theirs a strided convolution [D, 3, t, p, p], ours dense [t p p 3, D]."""
    box = (module.tubelet, module.patch, module.patch)
    return Layout(
        lambda a, shape: a.transpose(2, 3, 4, 1, 0).reshape(shape),
        lambda a: a.reshape(*box, 3, a.shape[-1]).transpose(4, 3, 0, 1, 2),
    )


def _patches(theirs: str, module: VideoMAE) -> list[Row]:
    return [Row(f"{theirs}.weight", "patches/kernel", _tubelets(module)), Row(f"{theirs}.bias", "patches/bias")]


def _encoder(module: VideoMAE) -> list[Row]:
    layer = norm("layernorm_before", "norm_1") + norm("layernorm_after", "norm_2")
    layer += attention("attention.attention.{0}", "attention.output.dense", ())
    layer += _biases(module, "attention.attention.")
    layer += mlp("intermediate.dense", "output.dense", "mlp/")
    patches = _patches("embeddings.patch_embeddings.projection", module)
    return patches + layers(layer, module.depth, "encoder.layer.", "layers/")


def _biases(module: VideoMAE, before: str) -> list[Row]:
    rows = [Row(f"{before}{name[0]}_bias", f"attention/{name}/bias", VECTOR) for name in ("query", "value")]
    return rows * module.biased


def _authors(module: VideoMAE) -> list[Row]:
    """The encoder by the names of the authors' code, in which one matrix computes queries, keys and values."""
    layer = norm("norm1", "norm_1") + norm("norm2", "norm_2") + cut("attn.qkv.", HEADS, module.width, bias=False)
    layer += _biases(module, "attn.")
    layer += linear("attn.proj", "attention/out", DENSE_OUT)
    layer += mlp("mlp.fc1", "mlp.fc2", "mlp/")
    rows = _patches("patch_embed.proj", module) + layers(layer, module.depth, "blocks.", "layers/")
    return rows + norm("fc_norm" if module.last == "mean" else "norm", "norm", module.last != "none")


def _model(module: VideoMAE) -> list[Row]:
    return _encoder(module) + norm("layernorm", "norm", module.last != "none")


def _classifier(module: VideoMAE) -> list[Row]:
    return within(_encoder(module), "videomae.") + norm("fc_norm", "norm")


def _config(name: str, classifier: bool) -> FieldTable:
    def read(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
        epsilon, mean = values["layer_norm_eps"], values["use_mean_pooling"]
        if classifier and not mean:
            raise ValueError("use_mean_pooling = False is not supported; supported: True.")
        last = {"last_epsilon": LAST_EPSILON, "last": "mean"} if classifier else {"last_epsilon": epsilon}
        return {"epsilon": epsilon, "last": "none" if mean else "tokens", **last}

    def write(module: VideoMAE) -> dict[str, Any]:
        if (module.last == "mean") != classifier:
            raise ValueError(f"last = {module.last!r} cannot be written in this format.")
        if module.last_epsilon != (LAST_EPSILON if classifier else module.epsilon):
            raise ValueError(f"last_epsilon = {module.last_epsilon} cannot be written in this format.")
        return {"layer_norm_eps": module.epsilon, "use_mean_pooling": module.last != "tokens"}

    return FieldTable(
        name,
        VideoMAE,
        (
            Follows("num_channels", 3),
            *sizes(),
            Field("num_frames", "frames", 16),
            Field("tubelet_size", "tubelet", 2),
            Follows("hidden_act", "gelu"),
            Group(
                {"qv_bias": (None, schema.optional(schema.FLAG)), "qkv_bias": (True, None)},
                lambda values, ours: {"biased": values["qkv_bias" if values["qv_bias"] is None else "qv_bias"]},
                lambda module: {"qv_bias": module.biased},
            ),
            Group({"layer_norm_eps": (1e-12, EPSILON), "use_mean_pooling": (True, schema.FLAG)}, read, write),
        ),
        unread=unread(*TRAINING, *DECODER, model_type="videomae"),
    )


def _example(module: VideoMAE) -> tuple:
    return (array(1, module.frames, module.size, module.size, 3),)


MODEL_CONFIG = _config("VideoMAEModel", False)
CLASSIFIER_CONFIG = _config("VideoMAEForVideoClassification", True)
MODEL = MODEL_CONFIG.family(
    _example,
    {"transformers": _model, "with its decoder": lambda module: within(_model(module), "videomae.")},
    **STORED,
    ignored=(r"decoder\..*", r"encoder_to_decoder\..*", "mask_token"),
    also={"VideoMAEForPreTraining": {}},
)
CLASSIFIER = CLASSIFIER_CONFIG.family(
    _example,
    {"transformers": _classifier, "authors": _authors},
    **STORED,
    ignored=(r"classifier\..*", r"head\..*"),
    published={
        name: CLASSIFIER_CONFIG.describe(videomae.preset(name, last_epsilon=LAST_EPSILON)) for name in videomae.PRESETS
    },
)
FAMILIES = (MODEL, CLASSIFIER)
