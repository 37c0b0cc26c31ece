"""Measures the time from a prompt to a picture (text encoder, denoiser, autoencoder), here and in diffusers' pipelines.

    make fixtures; python -m benchmarks.text_to_image --torch_python=.venv-peers/bin/python
    python -m benchmarks.text_to_image --torch_python=.venv-peers/bin/python --kinds=transformer --rounds=5

The peer runs diffusers with torch.compile and without it, and saves the folder of a small pipeline for 256 x 256
pixels. Both programs use the weights of that folder, start from the same noise and follow the same DPM-Solver++(2M)
grid. They must make the same picture before anything is timed. A time covers the whole call, from the prompt's text to
the picture's bytes. The limit is the time that the matrix products and convolutions of the trajectory and the decoder
would take at the measured rate of a 2048 x 2048 x 2048 matrix product. That rate is measured in the same round.
"""

from absl import flags, logging

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_list("kinds", ["transformer", "unet"], "kinds of denoiser to measure: transformer, unet")
    flags.DEFINE_integer("steps", 20, "number of sampling steps")
    flags.DEFINE_integer("rounds", 3, "number of rounds, each of which measures everything in turn")
    flags.DEFINE_string("torch_python", None, "python of the environment with diffusers", required=True)
    flags.DEFINE_string("out", None, "file for the rows as JSON")
    command_line.begin()

import functools
import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from benchmarks import rows, sampling
from diffusion import text_to_image

WHAT = {"transformer": "PixArt's transformer, 8 x 256", "unet": "Stable Diffusion's U-Net, 64-128-256"}
PROMPT, NEGATIVE, SCALE, SEED = "the red car on a hill", "bad", 4.5, 0
AGREEMENT = 5  # of 255: the largest accepted difference; 20 steps in float32 and a decoder of random weights reach it


def main(argv: list[str]) -> None:
    """Measures each kind, and prints one table."""
    logging.set_verbosity(logging.ERROR)  # JAX would warn about missing backends
    args = flags.FLAGS
    lines = []
    for kind in args.kinds:
        lines += measured(kind, args.steps, args.rounds, args.torch_python)
    rows.report(lines, f"text to image, jax {jax.__version__}, {os.cpu_count()} cores", args.out)


def measured(kind: str, steps: int, rounds: int, torch_python: str) -> list[rows.Row]:
    """Two rows for a kind of denoiser: the comparison with torch.compile, and the one with eager PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        peer = rows.Peer(torch_python, "benchmarks.peers.text_to_image", folder, kind, str(os.cpu_count()))
        model = text_to_image.load(folder)
        start(model, pathlib.Path(folder))
        ours = functools.partial(
            text_to_image.generate,
            model,
            PROMPT,
            negative=NEGATIVE,
            steps=steps,
            guidance=SCALE,
            seeds=SEED,
            sampler="dpmpp_2m",
        )
        check(kind, ours(), peer, steps, pathlib.Path(folder))
        square = jnp.ones((sampling.SIDE, sampling.SIDE))
        product = jax.jit(jnp.matmul)
        square_once = lambda: jax.block_until_ready(product(square, square))
        timed = {"ours": rows.seconds(ours), "product": rows.seconds(square_once)}
        timed |= {how: lambda how=how: float(peer.ask(f"{how} {steps}")) for how in ("compiled", "eager")}
        for run in timed.values():
            run()
        times = rows.interleaved(timed, rounds)
        peer.close()
        least = operations(model, steps) / (2 * sampling.SIDE**3)
    limit = tuple(least * seconds for seconds in times["product"])
    return [
        rows.Row(
            f"{WHAT[kind]}, from a prompt to 256x256 pixels, {steps} steps",
            "s",
            False,
            times["ours"],
            f"{peer.about}, {how}",
            times[how],
            limit,
        )
        for how in ("compiled", "eager")
    ]


def start(model: text_to_image.TextToImage, folder: pathlib.Path) -> None:
    """Writes the noise from which `generate` starts, and the settings, for the peer to read."""
    noise_key = jax.random.split(jax.random.key(SEED), 3)[0]
    side = model.side // model.modules["vae"].factor
    noise = np.asarray(jax.random.normal(noise_key, (side, side, model.channels)))
    latents = np.ascontiguousarray(np.moveaxis(noise, -1, 0))[None]
    settings = {"prompt": PROMPT, "negative": NEGATIVE, "scale": str(SCALE)}
    safetensors.numpy.save_file({"latents": latents}, folder / "start.safetensors", metadata=settings)


def check(kind: str, mine: np.ndarray, peer: rows.Peer, steps: int, folder: pathlib.Path) -> None:
    """Ends this process if the two pictures differ, or if ours is nearly uniform, so that agreement means little.

    Args:
        kind: the kind of denoiser, "transformer" or "unet".
        mine: our picture, uint8 [1, H, W, 3].
        peer: the running peer, which writes its picture.
        steps: the number of sampling steps.
        folder: the folder for the peer's picture.
    """
    peer.ask(f"write {folder / 'pictures.safetensors'} {steps}")
    theirs = safetensors.numpy.load_file(folder / "pictures.safetensors")["pictures"]
    away = np.abs(mine.astype(float) - 255 * np.moveaxis(theirs, 1, -1)).max()
    if not away <= AGREEMENT or np.ptp(mine) < 50:
        raise SystemExit(
            f"{kind}: the pictures of both programs differ by {away:.1f} of 255, and ours spans {np.ptp(mine)}. Valid: "
            f"at most {AGREEMENT}, and a span of at least 50."
        )
    print(f"{kind}: the pictures of both programs agree to {away:.1f} of 255")


def operations(model: text_to_image.TextToImage, steps: int) -> int:
    """The FLOPs of the matrix products and convolutions of the trajectory and the decoder."""
    conditional, unconditional = text_to_image.conditions(model, [PROMPT], NEGATIVE, SCALE, model.side, model.side)
    side = model.side // model.modules["vae"].factor
    x = jnp.zeros((1, side, side, model.channels))
    call = lambda params, x: text_to_image.denoise(model, params, conditional, unconditional, SCALE)(x, 0.5)
    decode = lambda params, z: model.modules["vae"].apply({"params": params}, z, method="decode")
    once = sampling.operations(call, model.params[model.kind.denoiser.folder], x)
    return steps * once + sampling.operations(decode, model.params["vae"], x)


if __name__ == "__main__":
    command_line.run(main)
