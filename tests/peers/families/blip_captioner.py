"""BLIP's captioner out of transformers, small, with the captions that it generates by the likeliest tokens."""

import numpy as np
import torch
import transformers

from tests.peers.cases import Case, first
from tests.peers.families.image_reward import TEXT, VISION
from tests.peers.made_weights import drawn

START, STOP, LENGTH = 38, 7, 9
PROMPT = [5, 17]
DECODER = {**TEXT, "bos_token_id": START, "sep_token_id": STOP, "pad_token_id": 0}
WORDS = "text_decoder.bert.embeddings.word_embeddings.weight"


def captioner(vision, text):
    config = transformers.BlipConfig(vision_config=vision, text_config=text)
    return transformers.BlipForConditionalGeneration(config)


def generated(model, images, prompt):
    """Ids of the likeliest tokens; the end fills a row, where transformers pads it."""
    ids = torch.tensor([[0, *prompt, 0]]).repeat(len(images), 1)  # the first id is replaced, the last one cut off
    rows = model.generate(pixel_values=images, input_ids=ids, max_length=LENGTH, do_sample=False, num_beams=1)
    rows = torch.nn.functional.pad(rows, (0, LENGTH - rows.shape[1]), value=STOP)
    after = (rows[:, len(prompt) + 1 :] == STOP).cumsum(1) > 0
    rows[:, len(prompt) + 1 :][after] = STOP
    return rows.int()


def run(model, inputs):
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    images = first(((inputs["images"] + 1) / 2 - mean) / std).contiguous()
    return {
        "logits": model(pixel_values=images, input_ids=inputs["ids"]).logits,
        "likeliest": generated(model, images, []),
        "prompted": generated(model, images, PROMPT),
    }


INPUTS = {
    "ids": np.array([[START, 9, 8, 7, 11], [START, 30, 21, 4, 0], [START, 2, 13, 13, 6]]),
    "images": np.clip(drawn("pictures", 3, 28, 28, 3), -1, 1),
}
SAME = {
    "text_decoder.cls.predictions.decoder.weight": WORDS,
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}
CASES = {"blip_captioner": Case(lambda: captioner(VISION, DECODER), INPUTS, run, SAME)}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
LISTINGS = {"blip_captioner_full_large": lambda: captioner(LARGE, BASE)}
