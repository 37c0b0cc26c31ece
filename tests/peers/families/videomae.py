"""VideoMAE's encoder, small, by transformers; and the sizes of its published networks."""

import transformers

from tests.peers.cases import Case
from tests.peers.made_weights import drawn

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "image_size": 14,
    "patch_size": 7,
    "num_frames": 6,
    "tubelet_size": 2,
}
INPUTS = {"clips": drawn("videomae clips", 2, 6, 14, 14, 3)}


def first(clips):
    return clips.permute(0, 1, 4, 2, 3)


def tokens(model, inputs):
    x = model(pixel_values=first(inputs["clips"])).last_hidden_state
    return {"tokens": x, "pooled": x.mean(1)}


def classified(model, inputs):
    """The pooled vector is what the last layer sees."""
    seen = []
    model.classifier.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    clips = first(inputs["clips"])
    model(pixel_values=clips)
    return {"tokens": model.videomae(pixel_values=clips).last_hidden_state, "pooled": seen[0]}


def config(**fields):
    return transformers.VideoMAEConfig(**{**SMALL, **fields})


GIANT = {
    "hidden_size": 1408,
    "num_hidden_layers": 40,
    "num_attention_heads": 16,
    "intermediate_size": 6144,
    "patch_size": 14,
}
CASES = {
    "videomae": Case(lambda: transformers.VideoMAEModel(config(use_mean_pooling=False)), INPUTS, tokens, by_file=True),
    "videomae_without_norm": Case(lambda: transformers.VideoMAEModel(config()), INPUTS, tokens, by_file=True),
    "videomae_classifier": Case(
        lambda: transformers.VideoMAEForVideoClassification(config()), INPUTS, classified, by_file=True
    ),
}
LISTINGS = {
    "videomae_full_giant": lambda: transformers.VideoMAEForVideoClassification(
        transformers.VideoMAEConfig(**GIANT, num_labels=174)
    )
}
