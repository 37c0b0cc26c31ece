"""A tuning that teaches a text-to-image model to read image prompts: an IP-Adapter.

The image encoder reads each picture once, before the training, and the run stores the features (`Tuning.see`).
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.adapters import ip_adapter as at_work, ip_adapter_files
from diffusion.adapters.tuning import Params, Tuning
from diffusion.models import interchange
from diffusion.models.image_encoders import prompt_features
from diffusion.models.interchange import folders
from diffusion.models.layers.choices import look_up

FILE = "ip_adapter.safetensors"
ENTRY = "image_prompt"  # the entry of a record's condition that has the features of its picture
NAME = "image"
"""Name of the attachment, for controls."""


def ip_adapter(
    base: Any,
    encoder: str,
    kind: str = "global",
    tokens: int | None = None,
    inner: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    prompt: str = "",
) -> Tuning:
    """IP-Adapter: each picture is its own image prompt, and only the prompt's projection, keys and values are trained.

    With `prompt`, the image prompt is another picture of the record, for example of the same subject elsewhere, so that
    the adapter does not learn to copy.

    The layers for values are initialised to zero, so that the first step is bit for bit the base model's. If a run
    drops a caption, it drops the picture too. An example without features gets the features of no picture, as in
    sampling.

    Args:
        base: the model, from `text_to_image.described`.
        encoder: folder of the image encoder as transformers writes it: CLIP with projection, SigLIP or DINOv2.
        kind: the kind of projection, "global", "full" or "plus".
        tokens: number of tokens of an image prompt, for the kinds "global" (default 4) and "plus" (16).
        inner, depth, heads: width, number of layers and number of heads of the resampler for the kind "plus" (default
            768, 4 and 12).
        prompt: the entry of a record's condition with the image prompt, a column of pictures; "" for the picture that
            is generated.

    Raises:
        ValueError: if the kind is unknown, a field is out of range, or the denoiser has no layers for image prompts.
        FileNotFoundError: if the encoder's folder does not exist.

    Reference: Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models", 2023,
    section 3.2.
    """
    folder = pathlib.Path(encoder).expanduser()
    reader = folders.find(folder).module
    reads_tokens = look_up(ip_adapter_files.KINDS, kind, "kind").reads_tokens
    sizes = {"tokens": tokens, "inner": inner, "depth": depth, "heads": heads}
    sizes = {field: size for field, size in sizes.items() if size is not None}
    module = ip_adapter_files.fresh(base.denoiser, prompt_features.width(reader, reads_tokens), kind, **sizes)
    name = base.kind.denoiser.folder
    loaded = functools.cache(lambda: interchange.load(folder)[1])
    side = prompt_features.side(reader)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    compiled = jax.jit(lambda params, images: prompt_features.image_features(reader, params, images, reads_tokens))
    shapes = jax.eval_shape(reader.init, jax.random.key(0), image)["params"]
    form = jax.eval_shape(compiled, shapes, image)

    def see(pictures: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        images = np.stack([prompt_features.fitted(reader, picture) for picture in pictures])
        return {ENTRY: np.asarray(compiled(loaded(), images))}

    @functools.cache
    def nothing() -> np.ndarray:
        with jax.ensure_compile_time_eval():
            params = loaded() if reads_tokens else None
        # One program, since JAX cannot compile operations one by one while it lowers another program.
        absent = jax.jit(lambda params: prompt_features.absent(reader, params, reads_tokens)).lower(params).compile()
        return np.asarray(absent(params))

    def init(key: Array, params: Params) -> Any:
        return module.init(key, jnp.zeros(form.shape))["params"]

    def apply(params: Params, weights: Any, x: Array, clock: Array, condition: Mapping[str, Array]) -> Array:
        condition = dict(condition)
        features = condition.pop(ENTRY)
        present = (features != 0).any(tuple(range(1, features.ndim)), keepdims=True)
        features = jnp.where(present, features, nothing())
        extra = at_work.prompt(module, weights, features, jnp.ones(len(x)))
        frozen = jax.lax.stop_gradient(params[name])
        return base.denoiser.apply({"params": frozen}, x, clock, {**condition, "extra": (extra,)})

    def write(folder: pathlib.Path, weights: Any, metadata: Mapping[str, str]) -> list[pathlib.Path]:
        texts = {**metadata, "image_encoder": encoder}
        ip_adapter_files.save(folder / FILE, module, weights, base.denoiser, metadata=texts)
        return [folder / FILE]

    def attach(model: Any, weights: Any) -> Any:
        attachment = at_work.attachment(module, weights, model.denoiser, reader, loaded())
        return model.replaced(attachments={**model.attachments, NAME: attachment})

    entries = {ENTRY: tuple(form.shape[1:])}
    return Tuning(base, init, apply, write, attach, (name,), see=see, sees=entries, sees_of=prompt)
