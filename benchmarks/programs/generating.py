"""Programs without a backward pass: the guided sampler, text to image, and the features of FID."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks.programs.cases import Maker, Program
from benchmarks.programs.training import SMALL_DIT, dit
from diffusion import samplers
from diffusion.experiments.run.networks import flops_of, inputs
from diffusion.experiments.sampling import generate, run_denoiser
from diffusion.metrics import inception, inception_weights
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.budget.counted_flops import counted_flops
from diffusion.models.interchange import schedulers
from diffusion.published.stable_diffusion.network import ConditionalUNet
from diffusion.recipe import Recipe
from diffusion.text_to_image import TextToImage, pipelines, programs

STEPS = 50
# The sizes of Stable Diffusion 1.5, and the scheduler in its folder.
WIDTHS, DEPTHS, HEADS = (320, 640, 1280, 1280), (1, 1, 1, 0), (8, 8, 8, 8)
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
TEXT = (77, 768)


def guided(batch: int) -> Maker:
    """The guided sampler of DiT-XL/2's recipe in 50 steps, from `batch` labels and seeds to latents."""

    def make(mesh: Mesh, small: bool) -> Program:
        config = dit()
        fields = {"train.dtype": "bfloat16", "sample.steps": STEPS, **(SMALL_DIT if small else {})}
        config.update_from_flattened_dict(fields)
        shape = tuple(config.data.shape)
        recipe = Recipe.from_config(config, shape)
        network = run_denoiser.build_for_sampler(recipe)

        def sampled(params: Any, labels: jax.Array, seeds: jax.Array) -> jax.Array:
            first, rest = generate.keys(seeds)
            x = samplers.prior(recipe.schedule, first, shape)
            return samplers.sample(
                recipe.sampling.sampler, network(params, labels), recipe.schedule, x, recipe.sampling.plan, rest
            )

        params = jax.eval_shape(
            recipe.network.init, jax.random.key(0), *inputs(recipe.network, shape, recipe.examples.null)
        )
        rows = lambda kind: jax.ShapeDtypeStruct((batch,), kind)
        lowered = jax.jit(sampled).lower(*_on(mesh, params), *_on(mesh, rows(np.int32), rows(np.uint32)))
        once = flops_of(recipe.network, params, shape, recipe.examples.null)
        return Program(lowered, 2 * STEPS * batch * once, batch)

    return make


def text_to_image(batch: int, steps: int) -> Maker:
    """Pictures of 512 x 512 pixels by Stable Diffusion 1.5, from encoded prompts to bytes."""

    def make(mesh: Mesh, small: bool) -> Program:
        narrow = 5 if small else 1
        widths = tuple(width // narrow for width in WIDTHS)
        unet = ConditionalUNet(widths, DEPTHS, HEADS, TEXT[1], dtype="bfloat16")
        vae = AutoencoderKL(widths=tuple(width // (4 if small else 1) for width in (128, 256, 512, 512)))
        side = 512 // (4 if small else 1)
        x = jax.ShapeDtypeStruct((1, side // vae.factor, side // vae.factor, vae.latent_channels), np.float32)
        text = jax.ShapeDtypeStruct((1, *TEXT), jnp.bfloat16)
        key = jax.random.key(0)
        t = jax.ShapeDtypeStruct((1,), np.float32)
        params = {
            "unet": _short(jax.eval_shape(unet.init, key, x, t, {"text": text})["params"]),
            "vae": jax.eval_shape(vae.init, key, jax.ShapeDtypeStruct((1, side, side, 3), np.float32))["params"],
        }
        kind = pipelines.KINDS["StableDiffusionPipeline"]
        process = schedulers.read(SCHEDULER)
        modules = {"unet": unet, "vae": vae}
        model = TextToImage("StableDiffusionPipeline", kind, modules, params, {}, process, side, False)
        trajectory = schedulers.trajectory(process, "dpmpp_2m", steps)
        course = programs.Course((side, side), trajectory, False, True, 0, ())

        def pictures(params: Any, text: jax.Array, other: jax.Array, scale: jax.Array, seeds: jax.Array) -> jax.Array:
            keys = jax.vmap(jax.random.key)(seeds)
            conditions = ({"text": text}, {"text": other})
            return programs.pictures(model, course, params, *conditions, scale, keys, None, None)[0].pictures

        rows = jax.ShapeDtypeStruct((batch, *TEXT), jnp.bfloat16)
        seeds = jax.ShapeDtypeStruct((batch,), np.uint32)
        scale = jax.ShapeDtypeStruct((), np.float32)
        lowered = jax.jit(pictures).lower(*_on(mesh, params, rows, rows, scale, seeds))
        plain = unet.clone(attention="matmul")
        once = counted_flops(plain.apply, {"params": params["unet"]}, x, t, {"text": text})
        decode = lambda params, x: vae.clone(attention="matmul").apply({"params": params}, x, method="decode")
        decoded = counted_flops(decode, params["vae"], x)
        return Program(lowered, batch * (2 * len(trajectory.plan.t) * once + decoded), batch)

    return make


def features(batch: int) -> Maker:
    """The Inception features of FID, in float32, which published figures use."""

    def make(mesh: Mesh, small: bool) -> Program:
        number = 2 if small else batch
        params = {}
        for name, (outputs, taken, height, width) in inception_weights.CONVOLUTIONS.items():
            params[f"{name}.kernel"] = jax.ShapeDtypeStruct((height, width, taken, outputs), np.float32)
            params[f"{name}.bias"] = jax.ShapeDtypeStruct((outputs,), np.float32)
        x = jax.ShapeDtypeStruct((number, inception.SIZE, inception.SIZE, 3), np.float32)
        lowered = jax.jit(inception.features).lower(*_on(mesh, params, x))
        return Program(lowered, counted_flops(inception.features, params, x), number)

    return make


def _short(params: Any) -> Any:
    """The shapes of parameters in bfloat16, as `text_to_image.load(dtype="bfloat16")` returns them."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), params)


def _on(mesh: Mesh, *trees: Any) -> tuple[Any, ...]:
    """The arguments of a program, replicated on each device of a mesh."""
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), trees)


PROGRAMS: dict[str, Maker] = {
    "sample_dit_xl2": guided(64),
    "text_to_image_512": text_to_image(4, 20),
    "inception": features(256),
}
