"""A small row of each kind in the zoo, weights for it in the authors' spelling, and digits to compare with.

diffusion zoo --extend=tests/experiments/zoo/tiny_rows.py --row=tiny_sit --weights=...
"""

import os
import pathlib
import signal

import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from diffusion.data.digits import digits
from diffusion.experiments.evaluation import comparison
from diffusion.experiments.sampling import batches_on_disk
from diffusion.experiments.zoo import published_rows
from diffusion.models import interchange
from diffusion.models.ddt import DIT_DH
from diffusion.models.interchange import folder_writing, folders
from diffusion.recipe import checks
from tests.metrics import torch_writer

NUMBER = 8
DIGITS = {"data.name": "digits", "data.shape": (8, 8, 1), "sample.batch_size": 4, "train.dtype": "float32"}
ON_PIXELS = {"data.latents.dir": "", "sample.guidance": {"name": "classifier_free", "scale": 1.5}, "sample.steps": 2}
DIT = {"name": "dit", "patch": 4, "width": 16, "depth": 2, "heads": 2, "num_classes": 10}
LIGHTNING = {"norm": "scaled_rmsnorm", "mlp": "swiglu", "positions": "sincos_rope"}
UNET = {"name": "unet", "widths": (32, 64), "blocks": 1, "attention_levels": (1,), "num_classes": 10, "head_size": 32}
OF_ADM = {"heads": None, "scale_shift": True, "resample": "block"}
FLOW = {
    "name": "flow_matching",
    "density": {"name": "uniform_density"},
    "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
}
CHANGES = {  # by the row that each is a small one of
    "dit_xl_2_256": {**ON_PIXELS, "model": DIT},
    "sit_xl_2_256_ode": {**ON_PIXELS, "model": DIT},
    "repa_sit_xl_2_256": {**ON_PIXELS, "model": DIT, "objective": FLOW, "encoder.network": {"name": ""}},
    "ddt_xl_2_256": {
        **ON_PIXELS,
        "model": {**DIT, "name": "ddt", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
        "objective": FLOW,
        "encoder.network": {"name": ""},
    },
    "mask_dit_xl_2_256": {
        **ON_PIXELS,
        "model": {**DIT, "name": "mask_dit", "decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2},
    },
    "mdt_v2_xl_2_256": {
        **ON_PIXELS,
        "model": {**DIT, "name": "mdt", "depth": 3, "decoder_depth": 1},
        "objective": {
            "name": "hybrid",
            "density": {"name": "discrete_density"},
            "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
        },
        "sample.guidance": {"name": "classifier_free", "scale": 1.5, "ramp": {"name": "power_cosine"}},
    },
    "pixnerd_xl_16_256": {
        "model": {**DIT, "name": "pixnerd", "field_width": 8, "field_depth": 1, "field_ratio": 2},
        "objective": FLOW,
        "encoder.network": {"name": ""},
        "sample.steps": 2,
    },
    "lightning_dit_xl_1_256": {**ON_PIXELS, "model": {**DIT, **LIGHTNING}},
    "rae_dit_dh_xl_256": {
        "data.latents.dir": "",
        "model": {**DIT, **DIT_DH, "name": "ddt", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
        "sample.steps": 2,
    },
    "jit_b_16_256": {
        "model": {**DIT, "name": "jit", "bottleneck": 4, "class_tokens": 2, "class_start": 1},
        "sample.steps": 2,
        "data.augment": (),
    },
    "u_vit_h_2_256": {**ON_PIXELS, "model": {**DIT, "name": "u_vit"}},
    "edm_cifar10_cond_vp": {
        "model": {"name": "song_unet", "width": 8, "multipliers": (1, 2), "blocks": 1, "num_classes": 10},
        "sample.steps": 2,
    },
    "edm_imagenet64_adm": {"model": {**UNET, **OF_ADM}, "sample.steps": 2},
    "edm2_s_imagenet64": {
        "model": {
            "name": "edm2_unet",
            "width": 32,
            "multipliers": (1, 2),
            "blocks": 1,
            "num_classes": 10,
            "head_size": 32,
        },
        "sample.steps": 2,
    },
    "mean_flow_b_4_256": {"data.latents.dir": "", "model": DIT},
    "imf_xl_2_256_2_steps": {
        "data.latents.dir": "",
        "model": {**DIT, "name": "mit", "default_strength": 4.0, "default_interval": (0.36, 0.64)},
    },
    "pmf_h_16_256": {
        "data.augment": (),
        "model": {**DIT, "name": "mit", "clean": True, "bottleneck": 8, "default_strength": 7.0},
    },
    "drifting_l_latent_256": {
        "data.latents.dir": "",
        "model": {**DIT, "name": "drifting", "class_tokens": 2, "codes": 4},
    },
    "edm2_s_imagenet512": {
        "data.latents.dir": "",
        "model": {
            "name": "edm2_unet",
            "width": 32,
            "multipliers": (1, 2),
            "blocks": 1,
            "num_classes": 10,
            "head_size": 32,
        },
        "sample.steps": 2,
    },
    "cd_bedroom256": {"model": {**UNET, **OF_ADM, "scale_shift": False, "num_classes": 0, "qkv_per_head": False}},
    "cd_imagenet64": {"model": {**UNET, **OF_ADM, "qkv_per_head": False}},
}


def tiny(name: str):
    """The small row of one of the zoo's."""
    row = published_rows.ROWS[name]
    changes = {**row.changes, **DIGITS, **CHANGES[name]}
    kept = {field: value for field, value in changes.items() if not field.startswith(("model.", "objective."))}
    return row._replace(
        name=f"tiny_{name}", changes=kept, number=NUMBER, protocol="", autoencoder="", autoencoder_config={}
    )


if "KILLED" in os.environ:  # after the first batch, of a process that a test starts

    def images(*arguments, make=batches_on_disk.images, **named):
        """As `batches_on_disk.images`; when the first batch is on the disk the process is killed."""
        return make(*arguments[:-1], lambda done: os.kill(os.getpid(), signal.SIGKILL), **named)

    batches_on_disk.images = images

for each in CHANGES:
    if f"tiny_{each}" not in published_rows.ROWS:
        published_rows.add(tiny(each))


def random_like(shapes, seed: int = 0):
    """Parameters of these shapes, none of them zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 8, jnp.float32), shapes)


def authors_tensors(row, seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors of the row's network at random weights, as its authors name and arrange them."""
    recipe = checks.validate(row.config())
    family = interchange.FAMILIES[row.checkpoint.family]
    module = row.checkpoint.stored(recipe.network)
    layout = "consistency" if row.checkpoint.repository == "openai/consistency_models" else next(iter(family.tables))
    params = random_like(folders.shapes_of(family, module), seed)
    tensors = {name: np.asarray(a, order="C") for name, a in folder_writing.write(family, module, layout, params)}
    if "REPA" in row.checkpoint.repository:
        tensors["projectors.0.0.weight"] = np.zeros((3, 16), np.float32)
    return tensors


def _flax_file(row, tensors, folder: pathlib.Path) -> pathlib.Path:
    """A checkpoint of Flax with the average that the row names, beside another one of zeros."""
    named = lambda prefix, value: {f"{prefix}{name}": value(a) for name, a in tensors.items()}
    prefix = row.checkpoint.prefix or "ema_params.net."
    leaves = {**named("ema_params.7.net.", np.zeros_like), **named(prefix, np.asarray), "step": 3}
    folder.mkdir()
    path = folder / "checkpoint_3"
    state = flax.traverse_util.unflatten_dict(leaves, sep=".")
    path.write_bytes(flax.serialization.msgpack_serialize(state))
    return path


def authors_file(row, folder: pathlib.Path, seed: int = 0) -> pathlib.Path:
    """A file of the network at random weights under the name of what is read: of torch.save, safetensors, or Flax."""
    path = folder / row.checkpoint.readable
    tensors = authors_tensors(row, seed)
    if path.suffix == ".msgpack":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(flax.serialization.msgpack_serialize(flax.traverse_util.unflatten_dict(tensors, sep=".")))
        return path
    if row.checkpoint.inside:
        return _flax_file(row, tensors, path)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch_writer.archive(path, *torch_writer.state(tensors))
    return path


def statistics(folder: pathlib.Path) -> pathlib.Path:
    """Statistics of digits in pixels."""
    np.savez(folder / "digits.npz", images=digits()[0][:40])
    out = folder / "digits.safetensors"
    comparison.make_reference(comparison.Request(reference=str(folder / "digits.npz"), features="pixels"), out)
    return out
