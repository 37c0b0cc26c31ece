"""The fields of every config, with their defaults. Recipes change values; other fields do not exist.

An entry with a "name" names a function of the library and its arguments, e.g. {"name": "cosine", "s": 0.008};
diffusion/recipe/names.py lists the names.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def defaults() -> ConfigDict:
    """The config that every recipe starts from."""
    return ConfigDict(
        {
            "seed": 0,  # seed of the parameters, the order of the data, and every draw in training
            "init_from": {
                "path": "",  # start from the EMA weights of this run or checkpoint; "" starts from random ones
                "include": ".*",  # regular expression: the leaves to take, e.g. "blocks"
            },
            "base": {  # a text-to-image model that the run tunes: its folder has process, network and latents
                "path": "",  # a folder with model_index.json, as diffusers or examples.text wrote it
                "dtype": "float32",  # type of its frozen weights; or "bfloat16"
            },
            "tuning": {"name": ""},  # what the run teaches the base: "lora" ..., docs/tuning.md
            "teacher": {  # the run that an objective distils
                "path": "",  # run folder; the run begins by reading the moving average of its latest checkpoint
                "parameterization": {"name": "velocity"},  # what it predicts, as its own config says
                "scale": 1.0,  # scale of the classifier-free guidance of the teacher, which the student learns
                "pairs": {  # pairs of noise and the teacher's sample, for objectives that learn from them (reflow)
                    "number": 0,  # made when the run begins, and kept in its folder
                    "sampler": {"name": "heun"},  # a deterministic one
                    "steps": 20,
                },
            },
            "second_player": {  # a network that trains in turn with the model, from the teacher's weights
                # fake_score beside distribution_matching, adversarial_discriminator beside adversarial_generator
                "objective": {"name": ""},
                "network": {"name": ""},  # its own, where it has not the teacher's: patch_discriminator, feature_heads
                "optimizer": {"name": "adamw", "learning_rate": 1e-4},
                "updates": 1,  # updates of the second player for one of the model
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
                "name": "digits",  # name of a TFDS dataset
                "dir": "",  # folder of prepared TFDS datasets; "" is TFDS's default
                "split": "train",
                "augment": (),  # e.g. ({"name": "flip"}, {"name": "crop", "padding": 4})
                "threads": 2,  # threads that read and decode
                "processes": 0,  # worker processes that read and decode in their place, for a GPU; 0: none
                "viewed": True,  # pictures as a viewer shows them, turned as EXIF says; False: their stored pixels
                "damaged": "stop",  # what a damaged record does; or "skip": the next sound one replaces it
                "changed": "stop",  # what other examples do when a run resumes; or "accept"
                "shape": placeholder(tuple),  # shape of an example, of any rank; None: the data's
                # Pictures of several sizes: each batch is of one, nearest in aspect ratio to its pictures. The shape
                # above is then that of the samples, and one of the sizes.
                "buckets": {
                    "area": 0,  # pixels that no size exceeds and all nearly have, e.g. 1024 * 1024; 0: one size
                    "multiple": 64,  # every side is a multiple of this
                    "widest": 4.0,  # the most that a side is of the other
                },
                "latents": {
                    "dir": "",  # a cache of the latents of name at split (diffusion encode), in place of pictures
                    "autoencoder": "",  # the one that must have made them, and decodes samples; "": whichever it was
                },
                "text": {  # the captions of name at split, for networks that receive text
                    "tokenizer": "",  # a vocabulary (diffusion encode_text), for text encoders, which read tokens
                    "dir": "",  # what a text encoder made of the captions (diffusion encode_text), for a denoiser
                    "prompt": "",  # for a tuning: one caption for all pictures, in place of their own
                },
            },
            "schedule": {"name": "rectified_flow"},
            "parameterization": {"name": "velocity"},  # flow_matching's; its clock is the network's time
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
                "sigma_rel": 0.0,  # in place of both: width of a power function, as a share of the run; EDM2 has 0.05
            },
            "train": {
                "steps": 1000,
                "batch_size": 128,  # examples of a step of the whole job
                "accumulate": 0,  # micro-batches whose gradients are summed before an update; 0: as is fastest here
                "log_every": 50,
                "dtype": "float32",  # type of the computations; parameters and losses stay float32
                "products": "dtype",  # type of the products of tokens with kernels; or "fp8", docs/speed.md
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
                "plan": {"name": "plan"},  # plan over the grid's times; or e.g. "restart_plan", "repaint", "staggered"
                "driver": {
                    "name": "sample"
                },  # driver of samples along the plan; or "picard", "adaptive", "twisted", "daps", ...
                "guidance": {
                    "name": "classifier_free",
                    "scale": 1.0,  # 1 is none
                    "interval": placeholder(tuple),  # (t_low, t_high) outside of which the scale is 1; None: everywhere
                },
                "guides": (),  # changes of the guided denoiser, in order, e.g. ({"name": "dynamic_threshold"},)
                "cache": {"name": ""},  # cache of the network's blocks, e.g. {"name": "first_block", "threshold": 0.1}
                "merge": 0.0,  # share of the tokens that self-attention sees merged with those most alike
                "measurement": {  # measured pictures that samples agree with, for guides and drivers that read them
                    "operator": {"name": ""},  # e.g. {"name": "pooled", "factor": 2}
                    "pictures": "",  # a split of the data, or a .npz or .npy file; sample i agrees with picture i
                    "noise_std": 0.0,  # in the network's scale [-1, 1]
                },
                "number": 1000,
                "batch_size": 250,
                "seed": 0,
            },
            "evaluate": {
                "failed": "skip",  # what a failed evaluation in the loop does: the run continues; or "stop"
                "every": 0,  # training steps between evaluations in the loop; 0: none
                "number": 1000,
                "split": "test",  # split that samples are compared with
                "overlap": "stop",  # what records of the training in that split do; or "accept": reports say how many
                "features": ("pixels",),
                "inception": "",  # file of FID's Inception-v3, for the feature "inception"
                "protocol": "adm",  # how images are prepared for it
                "loss": {  # the objective's, on held-out records, at the same times and noises for every checkpoint
                    "every": 0,  # training steps between two measurements; 0: none
                    "number": 1024,  # draws of a record, a time and a noise; beyond the last record they begin again
                    "latents": "",  # for a run on cached latents: a cache of the held-out pictures' latents
                },
            },
        }
    )
