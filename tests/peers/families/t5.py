"""T5's encoder and umT5's, small, by transformers."""

import numpy as np
import transformers

from tests.peers.cases import Case

SMALL = {"vocab_size": 40, "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_heads": 3}
# Longer than the distance from which on all places are alike.
IDS = (np.arange(2 * 40).reshape(2, 40) * 7 % 37 + 3).astype(np.int32)
MASK = np.arange(40)[None] < np.array([[40], [11]])


def run(model, inputs):
    return {
        "tokens": model(input_ids=inputs["ids"]).last_hidden_state,
        "masked": model(input_ids=inputs["ids"], attention_mask=inputs["mask"]).last_hidden_state,
    }


def case(**fields):
    build = lambda: transformers.T5EncoderModel(transformers.T5Config(**SMALL, **fields))
    return Case(build, {"ids": IDS, "mask": MASK}, run, same={"encoder.embed_tokens.weight": "shared.weight"})


def whole(**fields):
    """With a decoder and a table for its words, of which the encoder's output is taken."""
    build = lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**SMALL, **fields))
    same = {f"{part}.weight": "shared.weight" for part in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head")}
    return Case(build, {"ids": IDS, "mask": MASK}, lambda model, inputs: run(model.encoder, inputs), same=same)


def umt5(**fields):
    """Each layer has positions of its own; "masked" is compared where there is text, for padding has no neighbours."""
    build = lambda: transformers.UMT5EncoderModel(transformers.UMT5Config(**SMALL, **fields))
    return Case(build, {"ids": IDS, "mask": MASK}, run, same={"encoder.embed_tokens.weight": "shared.weight"})


CASES = {
    "umt5": umt5(relative_attention_max_distance=20),
    "t5_whole": whole(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "t5_gated": case(feed_forward_proj="gated-gelu", relative_attention_max_distance=20),
    "t5_relu": case(feed_forward_proj="relu", relative_attention_num_buckets=8),
}


def listing(**fields):
    return lambda: transformers.T5EncoderModel(transformers.T5Config(d_kv=64, feed_forward_proj="gated-gelu", **fields))


LISTINGS = {
    "t5_base": listing(d_model=768, d_ff=2048, num_layers=12, num_heads=12),
    "t5_xxl": listing(d_model=4096, d_ff=10240, num_layers=24, num_heads=64),
    "umt5_xxl": lambda: transformers.UMT5EncoderModel(
        transformers.UMT5Config(vocab_size=256384, d_model=4096, d_ff=10240, num_layers=24, num_heads=64)
    ),
}
