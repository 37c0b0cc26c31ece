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
                "path": "",  # run or checkpoint whose EMA weights the run starts from; "" for random weights
                "include": ".*",  # regular expression for the leaves to take, e.g. "blocks"
            },
            "base": {  # a text-to-image model that the run tunes: its folder has process, network and latents
                "path": "",  # a folder with model_index.json, as diffusers or examples.text wrote it
                "dtype": "float32",  # type of its frozen weights: "float32" or "bfloat16"
            },
            "tuning": {"name": ""},  # what the run trains in the base, e.g. "lora"; see docs/tuning.md
            "teacher": {  # the run that an objective distils
                "path": "",  # run folder; a run begins by reading the moving average of its latest checkpoint
                "parameterization": {"name": "velocity"},  # what the teacher predicts, as in its own config
                "scale": 1.0,  # scale of the classifier-free guidance of the teacher, which the student learns
                "pairs": {  # pairs of noise and the teacher's sample, for objectives that learn from them (reflow)
                    "number": 0,  # number of pairs, made when the run begins and kept in its folder
                    "sampler": {"name": "heun"},  # a deterministic sampler
                    "steps": 20,
                },
            },
            "second_player": {  # a network that trains in turn with the model, starting from the teacher's weights
                # fake_score for distribution_matching, adversarial_discriminator for adversarial_generator
                "objective": {"name": ""},
                "network": {"name": ""},  # "" for the teacher's architecture; or patch_discriminator, feature_heads
                "optimizer": {"name": "adamw", "learning_rate": 1e-4},
                "updates": 1,  # updates of the second player for each update of the model
            },
            "encoder": {  # a frozen image encoder, for objectives with an alignment term
                "network": {"name": ""},
                "path": "",  # file of its weights, read whenever the run starts
                "size": 0,  # side to which its pictures are resized; 0 keeps their size
            },
            "autoencoder": {  # an autoencoder that trains with the model on its latents (wrapper end_to_end)
                "network": {"name": ""},
                "path": "",  # folder or file of its initial weights; the run then keeps the weights itself
            },
            "perceptual": {  # a frozen network, by whose features objectives of autoencoders compare pictures
                "network": {"name": ""},
                "path": "",  # file of its weights, read when the run begins; the run then keeps them itself
            },
            "data": {
                "source": {"name": "tfds"},  # the format of the data, with its arguments: docs/data.md
                "name": "digits",  # name of a TFDS dataset
                "dir": "",  # folder of prepared TFDS datasets; "" is TFDS's default
                "split": "train",
                "augment": (),  # e.g. ({"name": "flip"}, {"name": "crop", "padding": 4})
                "threads": 2,  # threads that read and decode
                "processes": 0,  # worker processes that read and decode instead of the threads, for a GPU; 0 for none
                "viewed": True,  # whether pictures are turned as EXIF says, as in a viewer; False: stored pixels
                "damaged": "stop",  # at a damaged record; or "skip", which takes the next intact record instead
                "changed": "stop",  # if the examples have changed when a run resumes; or "accept"
                "shape": placeholder(tuple),  # shape of an example, of any rank; None for the shape of the data
                # Pictures of several sizes: each batch has one size, the nearest in aspect ratio to its pictures. The
                # shape above is then the shape of the samples, and one of the sizes.
                "buckets": {
                    "area": 0,  # most pixels of a size, e.g. 1024 * 1024; every size has nearly as many; 0 for one size
                    "multiple": 64,  # every side is a multiple of this
                    "widest": 4.0,  # largest ratio of the two sides
                },
                "latents": {
                    "dir": "",  # cache of the data's latents (diffusion encode), read instead of pictures
                    "autoencoder": "",  # autoencoder of the latents, which decodes samples; "" accepts any latents
                },
                "text": {  # the captions of the data, for networks that receive text
                    "tokenizer": "",  # a vocabulary (diffusion encode_text), for text encoders, which read tokens
                    "dir": "",  # a text encoder's outputs for the captions (diffusion encode_text), for a denoiser
                    "prompt": "",  # for a tuning: one caption for all pictures, instead of their own
                },
            },
            "schedule": {"name": "rectified_flow"},
            "parameterization": {"name": "velocity"},  # what flow_matching predicts; its clock is the network's time
            "objective": {
                "name": "flow_matching",
                "density": {"name": "uniform_density"},
                # What wraps the objective, the innermost first: terms, augmentation, ...; docs/objectives.md#wrappers.
                "wrappers": (),  # guidance needs e.g. ({"name": "condition_dropout", "rate": 0.1},)
            },
            "model": {
                "name": "dit",
                "patch": 2,
                "width": 384,
                "depth": 12,
                "heads": 6,
                "num_classes": 0,  # 0: unconditional
            },
            "optimizer": {"name": "adamw", "learning_rate": 1e-4},
            "ema": {
                "name": "moving_average",
                "decay": 0.9999,
                "warmup": True,  # whether the decay is smaller at the start of a run
                "sigma_rel": 0.0,  # above 0: relative width of a power-function average, instead of decay and warmup
            },
            "train": {
                "steps": 1000,
                "batch_size": 128,  # examples of a step, over all devices
                "accumulate": 0,  # micro-batches whose gradients are summed in a step; 0 for the fastest number
                "log_every": 50,
                "dtype": "float32",  # type of the computations; parameters and losses stay float32
                "products": "dtype",  # type of the products of tokens with kernels: "dtype" for the above, or "fp8"
            },
            "checkpoint": {
                "every": 1000,  # training steps
                "keep": 2,  # number of latest checkpoints that are kept
                "keep_every": 0,  # checkpoints at multiples of this step are never removed; 0 for none
                "best": "",  # figure of evaluations, e.g. "fd_inception"; the checkpoint with the lowest is kept
            },
            "mesh": {
                "data": -1,  # devices over which only the batch is split; -1 for the remaining devices
                "fsdp": 1,  # devices over which batch, parameters, optimizer and moving average are split
                "sequence": 1,  # devices over which the tokens of an example are split; in attention, the heads
                "tensor": 1,  # devices over which heads and hidden features are split, with their parameters
                "split": "all",  # what fsdp splits: "all", or "optimizer" for all but the parameters
                "kind": "jit",  # or "pmap", with only the axis data
            },
            "sample": {
                "sampler": {"name": "heun"},
                "grid": {"name": "uniform"},
                "shift": 1.0,  # factor that moves times towards the noise, for large images; 1 for none
                "steps": 50,
                "plan": {"name": "plan"},  # plan over the grid's times; or "restart_plan", "repaint", "staggered", ...
                "driver": {"name": "sample"},  # how samples follow the plan; or "picard", "adaptive", "twisted", ...
                "guidance": {
                    "name": "classifier_free",
                    "scale": 1.0,  # 1 for no guidance
                    "interval": placeholder(tuple),  # (t_low, t_high) outside of which the scale is 1; None: all times
                },
                "guides": (),  # changes of the guided denoiser, in order, e.g. ({"name": "dynamic_threshold"},)
                "cache": {"name": ""},  # cache of the network's blocks, e.g. {"name": "first_block", "threshold": 0.1}
                "merge": 0.0,  # share of the tokens that self-attention merges with the most similar ones
                "measurement": {  # measured pictures that samples agree with, for guides and drivers that read them
                    "operator": {"name": ""},  # e.g. {"name": "pooled", "factor": 2}
                    "pictures": "",  # a split of the data, or a .npz or .npy file; sample i agrees with picture i
                    "noise_std": 0.0,  # standard deviation of the noise in the measurement, in the scale [-1, 1]
                },
                "number": 1000,
                "batch_size": 250,
                "seed": 0,
            },
            "evaluate": {
                "failed": "skip",  # at a failed evaluation in the loop: "skip" continues the run; or "stop"
                "every": 0,  # training steps between evaluations in the loop; 0 for none
                "number": 1000,
                "split": "test",  # split that samples are compared with
                "overlap": "stop",  # if that split has training records; or "accept", and reports say how many
                "features": ("pixels",),
                "inception": "",  # file of FID's Inception-v3, for the feature "inception"
                "protocol": "adm",  # how images are prepared for the feature "inception"
                "loss": {  # the objective's loss on held-out records, always with the same times and noises
                    "every": 0,  # training steps between two measurements; 0 for none
                    "number": 1024,  # draws of a record, a time and a noise; after the last record, records repeat
                    "latents": "",  # for a run on cached latents: a cache of the held-out pictures' latents
                },
            },
        }
    )
