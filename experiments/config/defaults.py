"""The fields that every config has, with their defaults: recipes change values, and no other field is known.

An entry with a "name" names a function of the library and its arguments, e.g. {"name": "cosine", "s": 0.008};
experiments/config/names.py lists the names.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def defaults() -> ConfigDict:
    """The config that every recipe starts from."""
    return ConfigDict(
        {
            "seed": 0,  # of the parameters, the order of the data, and every draw in training
            "init_from": {
                "path": "",  # start from the EMA weights of this run or checkpoint; "" starts from random ones
                "include": ".*",  # regular expression: the leaves to take, e.g. "blocks"
            },
            "base": {  # a text-to-image model that the run tunes: its folder has process, network and latents
                "path": "",  # a folder with model_index.json, as diffusers or examples.text wrote it
                "dtype": "float32",  # of its weights, which stay as they are; or "bfloat16"
            },
            "tuning": {"name": ""},  # what is taught beside the base: "lora" ..., docs/tuning.md
            "teacher": {  # of objectives that distil a run
                "path": "",  # its folder; the moving average of its latest checkpoint is read when the run begins
                "parameterization": {"name": "velocity"},  # what it predicts, as its own config says
                "scale": 1.0,  # of the classifier-free guidance with which it teaches; its student has it built in
                "pairs": {  # of noise and the sample that it makes of it, for objectives that learn from them (reflow)
                    "number": 0,  # made when the run begins, and kept in its folder
                    "sampler": {"name": "heun"},  # a deterministic one
                    "steps": 20,
                },
            },
            "second_player": {  # a network that trains in turn with the model, from the teacher's weights
                # fake_score beside distribution_matching, adversarial_discriminator beside adversarial_generator
                "objective": {"name": ""},
                "network": {"name": ""},  # of a critic of pictures, which has no teacher's: patch_discriminator
                "optimizer": {"name": "adamw", "learning_rate": 1e-4},
                "updates": 1,  # of it for one of the model, which acts at every so many-th step
            },
            "encoder": {  # a frozen one of pictures, for objectives with a term of alignment
                "network": {"name": ""},
                "path": "",  # file of its weights, read when the run begins or goes on
                "size": 0,  # side of the pictures that it receives, to which they are resized; 0: as they are
            },
            "autoencoder": {  # one that trains with the model on its latents: the wrapper end_to_end
                "network": {"name": ""},
                "path": "",  # folder or file of the weights that it begins with, which the run then keeps itself
            },
            "perceptual": {  # a frozen network by whose features autoencoders' objectives compare pictures
                "network": {"name": ""},
                "path": "",  # file of its weights, read when the run begins, which then keeps them itself
            },
            "data": {
                "source": {"name": "tfds"},  # the format of the data, with its arguments: docs/data.md
                "name": "digits",  # of tfds: as TFDS names it
                "dir": "",  # of tfds: where the prepared dataset lies; "" is TFDS's own default
                "split": "train",
                "augment": (),  # e.g. ({"name": "flip"}, {"name": "crop", "padding": 4})
                "threads": 2,  # that read and decode
                "damaged": "stop",  # at a damaged record; or "skip": the next sound one takes its place and is counted
                "changed": "stop",  # where a run that goes on finds other examples than before; or "accept" them
                "shape": placeholder(tuple),  # of one example, of any rank; None: as the data say
                # Pictures of several sizes: each batch is of one, nearest in aspect ratio to its pictures. The shape
                # above is then that of the samples, and one of the sizes.
                "buckets": {
                    "area": 0,  # pixels that no size exceeds and all nearly have, e.g. 1024 * 1024; 0: one size
                    "multiple": 64,  # of which every side is one
                    "widest": 4.0,  # the most that a side is of the other
                },
                "latents": {
                    "dir": "",  # a cache of the latents of name at split (diffusion encode), in place of pictures
                    "autoencoder": "",  # the one that must have made them, and decodes samples; "": whichever it was
                },
                "text": {  # the captions of name at split, for networks that receive text
                    "tokenizer": "",  # a vocabulary (diffusion encode_text), for text encoders, which read tokens
                    "dir": "",  # what a text encoder made of the captions (diffusion encode_text), for a denoiser
                    "prompt": "",  # of a tuning: one caption for all pictures, in place of their own
                },
            },
            "schedule": {"name": "rectified_flow"},
            "parameterization": {"name": "velocity"},  # of flow_matching; its clock is what the network receives
            "objective": {
                "name": "flow_matching",
                "density": {"name": "uniform_density"},
                # What wraps it, from the inside to the outside: terms, augmentation, ...; docs/objectives.md#wrappers.
                "wrappers": (),  # guidance needs e.g. ({"name": "condition_dropout", "rate": 0.1},)
            },
            "model": {
                "name": "dit",
                "patch": 2,
                "width": 384,
                "depth": 12,
                "heads": 6,
                "num_classes": 0,  # unconditional
            },
            "optimizer": {"name": "adamw", "learning_rate": 1e-4},
            "ema": {
                "name": "moving_average",
                "decay": 0.9999,
                "warmup": True,  # shortens it at the start of a run
                "sigma_rel": 0.0,  # in place of both: width of a power function, as a share of the run; 0.05 is EDM2's
            },
            "train": {
                "steps": 1000,
                "batch_size": 128,  # of the whole job
                "accumulate": 0,  # micro-batches whose gradients are summed before an update; 0: as is fastest here
                "log_every": 50,
                "dtype": "float32",  # of the network's computations; parameters and losses stay float32
                "products": "dtype",  # of tokens with kernels: in that type; or in "fp8", docs/speed.md
            },
            "checkpoint": {
                "every": 1000,  # steps
                "keep": 2,  # the latest so many
                "keep_every": 0,  # and for good those at multiples of this step; 0: none
                "best": "",  # and that of the least figure so far of the evaluations in the loop, e.g. "fd_inception"
            },
            "mesh": {
                "data": -1,  # devices over which the batch alone is split; -1: the rest of them
                "fsdp": 1,  # devices over which batch, parameters, optimizer and moving average are split
                "sequence": 1,  # devices over which the tokens of an example are split; in attention, the heads
                "tensor": 1,  # devices over which heads and hidden features are split, with their parameters
                "split": "all",  # what fsdp splits: "all", or "optimizer": it and the average, not the parameters
                "kind": "jit",  # or "pmap", for the axis data alone
            },
            "sample": {
                "sampler": {"name": "heun"},
                "grid": {"name": "uniform"},
                "shift": 1.0,  # towards the noise, for large images: 1 is none
                "steps": 50,
                "plan": {"name": "plan"},  # of the grid's times; or e.g. "restart_plan", "repaint", "staggered"
                "driver": {"name": "sample"},  # that carries samples along the plan; or "picard", "adaptive"
                "guidance": {
                    "name": "classifier_free",
                    "scale": 1.0,  # 1 is none
                    "interval": placeholder(tuple),  # (t_low, t_high) outside of which the scale is 1; None: everywhere
                },
                "guides": (),  # of the guided denoiser, in order, e.g. ({"name": "dynamic_threshold"},)
                "cache": {"name": ""},  # of a network's blocks, e.g. {"name": "first_block", "threshold": 0.1}
                "merge": 0.0,  # share of the tokens that self-attention sees merged with those most alike
                "measurement": {  # of pictures that the samples agree with, for guides that read it
                    "operator": {"name": ""},  # e.g. {"name": "pooled", "factor": 2}
                    "pictures": "",  # a split of the data, or a .npz or .npy file; sample i agrees with picture i
                    "noise_std": 0.0,  # on the scale [-1, 1] of the network
                },
                "number": 1000,
                "batch_size": 250,
                "seed": 0,
            },
            "evaluate": {
                "failed": "skip",  # at an evaluation in the loop that fails: the run goes on; or "stop"
                "every": 0,  # training steps between evaluations in the loop; 0: none
                "number": 1000,
                "split": "test",  # that samples are compared with
                "overlap": "stop",  # where that has records of the training; or "accept": reports say how many
                "features": ("pixels",),
                "inception": "",  # file of FID's Inception-v3, for the feature "inception"
                "protocol": "adm",  # how images are prepared for it
                "loss": {  # the objective's, on held-out records, at the same times and noises for every checkpoint
                    "every": 0,  # training steps between two measurements; 0: none
                    "number": 1024,  # draws of a record, a time and a noise; beyond the last record they begin again
                    "latents": "",  # of a run on cached latents: a cache of those of the held-out pictures
                },
            },
        }
    )
