"""Editing by a text-to-image model, measured on the captioned shapes: what stays, whether the seam shows, what changed.

Each function returns {"figures": ..., "rows": [(words, uint8 [C, H, W, 3]), ..]}, the rows for a picture.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import editing, samplers, text_to_image
from diffusion.data.shapes import drawing, scenes
from diffusion.data.shapes.scenes import COLOURS, NONE, SHAPES, WITHHELD, Lot, Scene
from diffusion.data.transforms import to_model, to_uint8
from diffusion.experiments.text import judge
from diffusion.metrics import bootstrap
from diffusion.metrics.attribute_reader import Reader
from diffusion.models.autoencoders import latent_space
from diffusion.models.interchange import schedulers

STREAM = 50  # of the pictures that are edited
SHOWN = 6  # edits in a picture
HALF = drawing.SIDE // 2
WAY = 7  # pictures from one prompt to another
RESAMPLINGS = 2  # of walks that keep a part of a picture


def starts(number: int, **fixed: str) -> list[tuple[np.ndarray, Scene]]:
    """Real pictures of one object to edit, and what they show; new ones, that are in no split.

    Args:
        number: of pictures.
        **fixed: attributes that all have, such as `position="left"`.
    """
    stated = Scene("one", "plain", NONE)._replace(**fixed)
    every = ((scenes.completed(stated, lot), lot) for lot in (Lot(1, STREAM, place) for place in itertools.count()))
    trained = ((drawing.draw(scene, lot), scene) for scene, lot in every if not scenes.withheld(scene))
    return list(itertools.islice(trained, number))


def image_to_image(model: text_to_image.TextToImage, reader: Reader, number: int, **settings: Any) -> dict[str, Any]:
    """A picture of one shape is made one of another colour: how often the new colour is there, and the shape stays.

    Args:
        model: that edits.
        reader: the judge.
        number: of pictures.
        **settings: of `text_to_image.generate`.
    """
    metrics, rows = {}, []
    for strength in (0.4, 0.6, 0.8, 0.95):
        requested, made, begun = [], [], []
        for seed, (image, scene) in enumerate(starts(number)):
            requested.append(_recoloured(scene))
            made.append(
                text_to_image.generate(
                    model, scenes.phrase(requested[-1]), image=image, strength=strength, seeds=seed, **settings
                )[0]
            )
            begun.append(image)
        shown = judge.seen(reader, np.stack(made))
        share = lambda name, requested=requested, shown=shown: bootstrap.share(
            [getattr(a, name) == getattr(b, name) for a, b in zip(requested, shown)]
        )
        metrics[f"{strength:g}"] = {name: share(name) for name in ("colour", "shape", "size", "position")}
        if not rows:
            rows.append(("before", np.stack(begun[:SHOWN])))
        rows.append((f"strength {strength:g}", np.stack(made[:SHOWN])))
    return {"figures": metrics, "rows": rows}


def style(model: text_to_image.TextToImage, reader: Reader, number: int, **settings: Any) -> dict[str, Any]:
    """A plain picture and a style word, by SDEdit: how often the style is there, and what is shown stays.

    Arguments as those of `image_to_image`.
    """
    metrics, rows = {}, []
    begun = starts(number, size="large")
    rows.append(("before", np.stack([image for image, _ in begun[:SHOWN]])))
    for word in ("outlined", "neon"):
        requested = [scene._replace(style=word) for _, scene in begun]
        made = np.stack(
            [
                text_to_image.generate(model, scenes.phrase(scene), image=image, strength=0.9, seeds=seed, **settings)[
                    0
                ]
                for seed, ((image, _), scene) in enumerate(zip(begun, requested))
            ]
        )
        shown = judge.seen(reader, made)
        metrics[word] = {
            name: bootstrap.share([getattr(a, name) == getattr(b, name) for a, b in zip(requested, shown)])
            for name in ("style", "colour", "shape", "position")
        }
        rows.append((word, made[:SHOWN]))
    return {"figures": metrics, "rows": rows}


def inpainting(model: text_to_image.TextToImage, reader: Reader, number: int, **settings: Any) -> dict[str, Any]:
    """The empty right half of a picture is painted with a second object.

    What is kept is compared byte by byte; the seam by `seam`; the object by the judge, who reads the relation, too.
    Arguments as those of `image_to_image`.
    """
    mask = np.zeros((drawing.SIDE, drawing.SIDE), bool)
    mask[:, HALF:] = True
    begun = _left_objects(number)
    # The second object has the third colour after the first's; its shape is another one, too.
    other = lambda scene: _recoloured(scene._replace(shape=SHAPES[(SHAPES.index(scene.shape) + 5) % 8]), 3)
    requested = [
        Scene(
            "pair",
            "plain",
            scene.colour,
            scene.shape,
            count=2,
            relation="left of",
            second_colour=other(scene).colour,
            second_shape=other(scene).shape,
        )
        for _, scene in begun
    ]
    made = np.stack(
        [
            text_to_image.generate(
                model, scenes.phrase(scene), image=image, mask=mask, seeds=seed, resamplings=RESAMPLINGS, **settings
            )[0]
            for seed, ((image, _), scene) in enumerate(zip(begun, requested))
        ]
    )
    before = np.stack([image for image, _ in begun])
    verdicts = [judge.verdict(one, shown) for one, shown in zip(requested, judge.seen(reader, made))]
    figures = {
        "kept_to_the_bit": bootstrap.share([np.array_equal(a[~mask], b[~mask]) for a, b in zip(before, made)]),
        "seam": seam(made, through_autoencoder(model, before), before),
        "asked": judge.score(verdicts),
    }
    painted = before.copy()
    painted[:, mask] = 200
    return {
        "figures": figures,
        "rows": [("before", before[:SHOWN]), ("to paint", painted[:SHOWN]), ("after", made[:SHOWN])],
    }


def outpainting(model: text_to_image.TextToImage, reader: Reader, number: int, **settings: Any) -> dict[str, Any]:
    """The right half of a picture is cut off, and painted anew beyond the edge of what is left.

    Arguments as those of `image_to_image`; figures as those of `inpainting`, with the attributes of the object that is
    kept.
    """
    begun = _left_objects(number)
    whole = np.stack([image for image, _ in begun])
    before = whole[:, :, :HALF]
    made = np.stack(
        [
            text_to_image.generate(
                model,
                scenes.phrase(scene),
                image=half,
                margins=(0, 0, 0, HALF),
                seeds=seed,
                resamplings=RESAMPLINGS,
                **settings,
            )[0]
            for seed, (half, (_, scene)) in enumerate(zip(before, begun))
        ]
    )
    verdicts = [judge.verdict(scene, shown) for (_, scene), shown in zip(begun, judge.seen(reader, made))]
    figures = {
        "kept_to_the_bit": bootstrap.share([np.array_equal(a, b[:, :HALF]) for a, b in zip(before, made)]),
        "seam": seam(made, through_autoencoder(model, whole), whole),
        "asked": judge.score(verdicts),
    }
    shown = np.pad(before, ((0, 0), (0, 0), (0, HALF), (0, 0)), constant_values=200)
    return {"figures": figures, "rows": [("before", shown[:SHOWN]), ("after", made[:SHOWN])]}


def _recoloured(scene: Scene, turns: int = 1) -> Scene:
    """The object in another colour, the first from `turns` colours on that it has in training."""
    later = [COLOURS[(COLOURS.index(scene.colour) + i) % 8] for i in range(turns, 8)]
    return scene._replace(colour=next(one for one in later if (one, scene.shape) not in WITHHELD))


def _left_objects(number: int) -> list[tuple[np.ndarray, Scene]]:
    """Pictures of an object that lies in the left half."""
    return starts(number, position="left", size="medium")


def seam(made: np.ndarray, coded: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """How much pixels on both sides of the seam in the middle differ, of edits whose left half is that of `real`.

    Args:
        made: uint8 [N, H, W, 3], edits.
        coded: uint8 [N, H, W, 3], the real pictures as the autoencoder gives them back: with their left halves put back
            as in an edit, they have the seam of a model that would paint the very latents of the real picture.
        real: uint8 [N, H, W, 3], real pictures.

    Returns:
        {"mean", "worst"} of the edits, and of the others after "coded_" and "real_": mean absolute differences of 255,
        over all pixels of the seam, and of the pixel at which they are largest, the mean over pictures.
    """
    pasted = np.concatenate([real[:, :, :HALF], coded[:, :, HALF:]], axis=2)
    differences = {}
    for name, images in (("", made), ("coded_", pasted), ("real_", real)):
        steps = np.abs(images[:, :, HALF].astype(float) - images[:, :, HALF - 1]).mean(-1)
        differences |= {f"{name}mean": float(steps.mean()), f"{name}worst": float(steps.max(1).mean())}
    return differences


def through_autoencoder(model: text_to_image.TextToImage, images: np.ndarray) -> np.ndarray:
    """Pictures uint8 [N, H, W, 3] as the autoencoder gives them back."""
    return np.asarray(_coded(model, {"params": model.params["vae"]}, images))


@functools.partial(jax.jit, static_argnums=0)
def _coded(model, params, images):
    vae = model.modules["vae"]
    return to_uint8(vae.apply(params, vae.apply(params, to_model(images), method="encode").mean, method="decode"))


def interpolation(model: text_to_image.TextToImage, reader: Reader, number: int, **settings: Any) -> dict[str, Any]:
    """From one prompt to another at one seed, and from one seed to another with one prompt.

    Along the way between prompts each picture is compared with both: the share that shows the one or the other. Along
    the way between seeds every picture is to show what is requested. Arguments as those of `image_to_image`, with
    guidance and steps among the settings.
    """
    ends = [(scene, _recoloured(scene, 4)) for _, scene in starts(number, size="large", position="middle")]
    weights = np.linspace(0, 1, WAY)
    prompts = [
        between(model, [scenes.phrase(a), scenes.phrase(b)], (seed, seed), weights, **settings)
        for seed, (a, b) in enumerate(ends)
    ]
    seeds = [
        between(model, [scenes.phrase(a)] * 2, (seed, seed + number), weights, **settings)
        for seed, (a, _) in enumerate(ends)
    ]
    right = lambda requested, images: [
        all(judge.verdict(requested, shown).values()) for shown in judge.seen(reader, images)
    ]
    first = np.array([right(a, images) for (a, _), images in zip(ends, prompts)])
    last = np.array([right(b, images) for (_, b), images in zip(ends, prompts)])
    kept = [right(a, images) for (a, _), images in zip(ends, seeds)]
    figures = {
        "first_prompt_at_the_start": bootstrap.share(first[:, 0]),
        "second_prompt_at_the_end": bootstrap.share(last[:, -1]),
        "either_prompt_on_the_way": bootstrap.share((first | last).ravel()),
        "prompt_between_seeds": bootstrap.share(np.ravel(kept)),
    }
    rows = [("prompt to prompt", images) for images in prompts[:3]] + [("seed to seed", each) for each in seeds[:3]]
    return {"figures": figures, "rows": rows}


def between(
    model: text_to_image.TextToImage,
    prompts: list[str],
    seeds: tuple[int, int],
    weights: np.ndarray,
    *,
    guidance: float,
    steps: int,
) -> np.ndarray:
    """Pictures on the way between two prompts and two seeds: embeddings on a line, noises on a sphere (`slerp`).

    Args:
        model: of `text_to_image.load`.
        prompts: two.
        seeds: two; equal ones for one noise.
        weights: [N] in 0..1 of the second.
        guidance, steps: as `text_to_image.generate`.

    Returns:
        uint8 [N, H, W, 3].
    """
    factor = model.modules["vae"].factor
    weight = jnp.asarray(weights, jnp.float32)
    conditional, unconditional = text_to_image.conditions(model, prompts, None, guidance, model.side, model.side)
    conditional, unconditional = (
        jax.tree.map(lambda ends: _mixed(ends, weight), each) for each in (conditional, unconditional)
    )
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    shape = (model.side // factor, model.side // factor, model.channels)
    noise = jax.vmap(lambda key: jax.random.normal(jax.random.split(key, 3)[0], shape))(keys)
    one, other = (jnp.repeat(noise[i : i + 1], len(weights), axis=0) for i in (0, 1))
    x = one if seeds[0] == seeds[1] else editing.slerp(one, other, weight)
    params = {part: model.params[part] for part in (model.kind.denoiser, "vae")}
    keys = jax.random.split(keys[0], len(weights))
    return np.asarray(_sampled(model, steps, params, x, conditional, unconditional, guidance, keys))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sampled(model, steps, params, x, conditional, unconditional, guidance, keys):
    """uint8 [N, H, W, 3] of latents of the prior and of conditions."""
    vae = model.modules["vae"]
    trajectory = schedulers.trajectory(model.process, "", steps, (model.side // model.multiple) ** 2)
    denoise = text_to_image.denoise(model, params[model.kind.denoiser], conditional, unconditional, guidance)
    x = samplers.sample(
        trajectory.sampler, denoise, model.process.schedule, trajectory.start * x, trajectory.plan, keys
    )
    scaled = latent_space.from_diffusion(x, vae.scale, vae.shift)
    return to_uint8(vae.apply({"params": params["vae"]}, scaled, method="decode"))


def _mixed(ends: jax.Array, weight: jax.Array) -> jax.Array:
    """[N, ...] between the two rows of an array; what is no number (a mask) is that of either."""
    if ends.dtype == bool:
        return jnp.repeat(ends.any(0, keepdims=True), len(weight), axis=0)
    weight = weight.reshape(-1, *[1] * (ends.ndim - 1))
    return ((1 - weight) * ends[:1] + weight * ends[1:]).astype(ends.dtype)


EDITS = {
    "image to image": image_to_image,
    "style": style,
    "inpainting": inpainting,
    "outpainting": outpainting,
    "interpolation": interpolation,
}
