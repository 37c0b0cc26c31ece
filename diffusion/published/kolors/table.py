"""ChatGLM 3 by the names of its authors' code, which diffusers' ChatGLMModel has.

They turn neighbouring features of a head, and we features half a head apart: queries and keys are in another order.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion.io import schema
from diffusion.models.interchange.family import DEPTH, array
from diffusion.models.interchange.field_table import Field, FieldTable, Follows
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, VECTOR, Layout, Row, layers
from diffusion.models.interchange.transformers_config import STORED, unread
from diffusion.published.kolors.chat_glm import ChatGLM


def _turned(size: int) -> tuple[Layout, Layout]:
    """The layouts of the kernel and of the bias of queries or keys, of heads of that size."""
    first, last = np.split(np.arange(size), 2)
    order = np.concatenate([first[::2], last[::2], first[1::2], last[1::2]])
    back = np.argsort(order)
    kernel = Layout(
        lambda a, shape: a.T.reshape(len(a.T), -1, size)[..., order].reshape(shape),
        lambda a: a[..., back].reshape(a.shape[0], -1).T,
    )
    return kernel, Layout(lambda a, shape: a.reshape(-1, size)[:, order], lambda a: a[:, back].reshape(-1))


def rows(module: ChatGLM) -> list[Row]:
    """The encoder by their names."""
    layer = [Row(f"{theirs}_layernorm.weight", f"{ours}/scale")
             for theirs, ours in (("input", "norm_1"), ("post_attention", "norm_2"))]  # fmt: skip
    turned = _turned(module.head_size)
    start = 0
    for name, heads, (kernel, bias) in (
        ("query", module.heads, turned),
        ("key", module.key_heads, turned),
        ("value", module.key_heads, (DENSE, VECTOR)),
    ):
        outputs = (start, start := start + heads * module.head_size)
        theirs, ours = "self_attention.query_key_value", f"attention/{name}"
        layer.append(Row(f"{theirs}.weight", f"{ours}/kernel", kernel, rows=outputs))
        layer.append(Row(f"{theirs}.bias", f"{ours}/bias", bias, rows=outputs))
    layer += [
        Row("self_attention.dense.weight", "attention/out/kernel", DENSE_OUT),
        Row("mlp.dense_h_to_4h.weight", "mlp/hidden/kernel", DENSE),
        Row("mlp.dense_4h_to_h.weight", "mlp/out/kernel", DENSE),
    ]
    ends = [
        Row("embedding.word_embeddings.weight", "tokens/embedding"),
        Row("encoder.final_layernorm.weight", "final_norm/scale"),
    ]
    return ends + layers(layer, module.depth, "encoder.layers.", "layers/")


WITHOUT_EFFECT: Mapping[str, Any] = unread(
    "apply_query_key_layer_scaling", "attention_softmax_in_fp32", "auto_map", "bias_dropout_fusion", "eos_token_id",
    "fp32_residual_connection", "hidden_dropout", "prefix_projection", "vocab_size",
    model_type="chatglm", original_rope=True, seq_length=32768,
)  # fmt: skip
CONFIG = FieldTable(
    "ChatGLMModel",
    ChatGLM,
    (
        Field("padded_vocab_size", "vocabulary", 65024),
        Field("hidden_size", "width", 4096),
        Field("num_layers", "depth", 28, DEPTH),
        Field("num_attention_heads", "heads", 32),
        Follows("multi_query_attention", True, default=False),
        Field("multi_query_group_num", "key_heads", 1),
        Field("kv_channels", "head_size", 128),
        Field("ffn_hidden_size", "hidden", 13696),
        Field("layernorm_epsilon", "epsilon", 1e-5, schema.number(1e-12, 1)),
        Follows("add_qkv_bias", True, default=False),
        Follows("add_bias_linear", False),
        Follows("rmsnorm", True),
        Follows("apply_residual_connection_post_layernorm", False),
        Follows("post_layer_norm", True),
        Follows("quantization_bit", 0),
        Follows("pre_seq_len", None, silent=True),
    ),
    unread=WITHOUT_EFFECT,
)
FAMILY = CONFIG.family(
    lambda module: (array(1, 8, dtype=jnp.int32),),
    {"transformers": rows},
    **STORED,
    ignored=(r"output_layer\.weight", r"rotary_pos_emb\.inv_freq"),  # the head for words, and what is computed
    also={"ChatGLMForConditionalGeneration": {}},
    published={"ChatGLM 3 6B": {"multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True}},
)
FAMILIES = {FAMILY.name: FAMILY}
