"""Z-Image's transformer by the names of diffusers' ZImageTransformer2DModel and of its authors' single files."""

__all__ = ["build", "describe", "example", "table"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.io import schema
from diffusion.models.interchange.family import DEPTH, SIZES, Family, Fields, Refusal
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, Layout, Row, linear, stacked, within
from diffusion.models.z_image import PATCH, ZImage

NAME = "ZImageTransformer2DModel"
PADDING = Layout(lambda a, shape: a.reshape(shape), lambda a: a[None])  # theirs [1, D], ours [D]
NORMS = {
    "attention_norm": "attention_norm1",
    "after_attention": "attention_norm2",
    "mlp_norm": "ffn_norm1",
    "after_mlp": "ffn_norm2",
}
ENDS = {"diffusers": ("all_x_embedder.2-1", "all_final_layer.2-1"), "original": ("x_embedder", "final_layer")}
STACKS = {"noise_refiner": "picture_refiners", "context_refiner": "text_refiners", "layers": "blocks"}


def _attention(layout: str) -> list[Row]:
    if layout == "original":  # all three in one layer
        return [
            Row("attention.qkv.weight", "attention/qkv/kernel", DENSE),
            Row("attention.q_norm.weight", "attention/query_norm/scale"),
            Row("attention.k_norm.weight", "attention/key_norm/scale"),
            Row("attention.out.weight", "attention/out/kernel", DENSE_OUT),
        ]
    rows = [
        Row(f"attention.to_{name}.weight", "attention/qkv/kernel", DENSE, (slice(None), i))
        for i, name in enumerate("qkv")
    ]
    return [
        *rows,
        Row("attention.norm_q.weight", "attention/query_norm/scale"),
        Row("attention.norm_k.weight", "attention/key_norm/scale"),
        Row("attention.to_out.0.weight", "attention/out/kernel", DENSE_OUT),
    ]


def _layer(layout: str, conditioned: bool) -> list[Row]:
    rows = [Row(f"{theirs}.weight", f"{ours}/scale") for ours, theirs in NORMS.items()]
    rows += _attention(layout)
    rows += [
        Row(f"feed_forward.w{n}.weight", "mlp/hidden/kernel", DENSE, (slice(None), i)) for i, n in ((0, 1), (1, 3))
    ]
    rows.append(Row("feed_forward.w2.weight", "mlp/out/kernel", DENSE))
    return rows + (linear("adaLN_modulation.0", "modulation/dense") if conditioned else [])


def table(module: ZImage, layout: str) -> list[Row]:
    """The rows of a network, by the names of a layout, "diffusers" or "original"."""
    enter, leave = ENDS[layout]
    rows = [
        *linear(enter, "patch_embedding"),
        *linear("t_embedder.mlp.0", "time/hidden"),
        *linear("t_embedder.mlp.2", "time/out"),
        Row("cap_embedder.0.weight", "text_norm/scale"),
        *linear("cap_embedder.1", "text_embedding"),
        Row("x_pad_token", "picture_padding", PADDING),
        Row("cap_pad_token", "text_padding", PADDING),
        *linear(f"{leave}.adaLN_modulation.1", "final_modulation/dense"),
        *linear(f"{leave}.linear", "final"),
    ]
    for theirs, ours in STACKS.items():
        layer = _layer(layout, ours != "text_refiners")
        for i in range(module.depth if ours == "blocks" else module.refiners):
            rows += within(stacked(layer, i), f"{theirs}.{i}.", f"{ours}/")
    return rows


def build(config: Mapping[str, Any]) -> ZImage:
    """Our module for a config.json of ZImageTransformer2DModel."""
    fields = Fields(NAME, config, ("axes_lens",))  # how many positions their tables have
    fields.only("all_patch_size", (PATCH,))
    fields.only("all_f_patch_size", (1,))
    fields.only("qk_norm", True)
    fields.only("siglip_feat_dim", None)
    fields.only("t_scale", 1000.0)
    heads = fields.take("n_heads", 30)
    keys = fields.take("n_kv_heads", 30)
    if keys != heads:
        raise Refusal(f"{NAME}: n_kv_heads = {keys} is not supported; supported: n_heads, {heads}.")
    module = ZImage(
        channels=fields.take("in_channels", 16),
        width=fields.take("dim", 3840),
        depth=fields.take("n_layers", 30, DEPTH),
        refiners=fields.take("n_refiner_layers", 2, DEPTH),
        heads=heads,
        text_width=fields.take("cap_feat_dim", 2560),
        axes=fields.take("axes_dims", (32, 48, 48), SIZES),
        theta=float(fields.take("rope_theta", 256.0, schema.number(1))),
        epsilon=fields.take("norm_eps", 1e-5, schema.number(1e-12, 1)),
    )
    fields.end()
    return module


def describe(module: ZImage) -> dict[str, Any]:
    """The config.json of one of our modules; the inverse of `build`."""
    return {
        "all_patch_size": [PATCH],
        "all_f_patch_size": [1],
        "in_channels": module.channels,
        "dim": module.width,
        "n_layers": module.depth,
        "n_refiner_layers": module.refiners,
        "n_heads": module.heads,
        "n_kv_heads": module.heads,
        "norm_eps": module.epsilon,
        "qk_norm": True,
        "cap_feat_dim": module.text_width,
        "rope_theta": module.theta,
        "t_scale": 1000.0,
        "axes_dims": list(module.axes),
        "axes_lens": [1536, 512, 512],
    }


def example(module: ZImage) -> tuple:
    """Arguments of a small call."""
    array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    condition = {"text": array(1, 1, module.text_width), "text_mask": jax.ShapeDtypeStruct((1, 1), jnp.bool_)}
    return array(1, PATCH, PATCH, module.channels), array(1), condition


FAMILY = Family(
    NAME,
    ZImage,
    build,
    describe,
    example,
    {layout: lambda module, layout=layout: table(module, layout) for layout in ENDS},
    published={"Z-Image": {}},
    prefixes=("model.diffusion_model.", ""),
    ignored=(r"norm_final\.weight",),  # of single files, which nothing reads
)
