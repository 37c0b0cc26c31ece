"""Scores of pictures for their prompts, each as its authors compute it, as data.

| name          | network                                | score                                                  |
|---------------|----------------------------------------|--------------------------------------------------------|
| clip          | any CLIPModel                          | scaled cosine, and the CLIP score 100 max(cosine, 0)   |
| pickscore     | CLIP ViT-H/14, of people's choices     | scaled cosine                                          |
| hpsv2         | the same architecture, of others       | 100 cosine                                             |
| hpsv2-plain   | the same network                       | the same, pictures resized without antialiasing        |
| siglip        | SigLIP 2                               | sigmoid(scale cosine + bias)                           |
| imagereward   | BLIP and a head                        | reward, in standard deviations                         |
| vqascore      | a function of your own                 | probability that it answers "Yes"                      |

To add one: a function of a `Source` that returns a `Scorer`, and a line in SCORES.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion import text
from diffusion.metrics import vqa_score
from diffusion.metrics.clip_score import clip_scores
from diffusion.metrics.vqa_score import AnswerLogProbability
from diffusion.models import image_reward, interchange
from diffusion.models.image_encoders.picture_fitting import FITTINGS, stated_square
from diffusion.models.interchange import folders
from diffusion.models.text_encoders import clip

Columns = dict[str, np.ndarray]
"""What is computed of the pictures or prompts, by name, a row for each."""


class Source(NamedTuple):
    """The files of a score, or its function.

    Attributes:
        weights: the path of the network's folder or file; "" where there is none.
        tokenizer: the folder of its vocabulary; "": the weights' folder.
        answer_log_probability: the function of your own that "vqascore" asks.
    """

    weights: str = ""
    tokenizer: str = ""
    answer_log_probability: AnswerLogProbability | None = None


class Scorer(NamedTuple):
    """Scores pictures for their prompts.

    Attributes:
        columns: (pictures uint8 [H, W, 1 or 3] of any sizes, as many prompts) -> float64 [B] by name; "score" is the
            score.
        figures: names of the columns whose mean a report has, with their words for people.
        record: the record of the network and the protocol, for reports.
        choice: people choose the first of two pictures of a prompt with the probability
            sigmoid(choice (score_1 - score_2)) by the network's own model of choices; None if it has none.
        compiled: whether a batch of another size compiles another program.
    """

    columns: Callable[[Sequence[np.ndarray], Sequence[str]], Columns]
    figures: Mapping[str, str]
    record: Mapping[str, Any]
    choice: float | None = None
    compiled: bool = True


class PromptProtocol(NamedTuple):
    """How a published network scores pictures.

    Attributes:
        name: the protocol's name in SCORES.
        network: its published name, for reports.
        weights: a description of a source's weights, for errors and the docs.
        family: the family of the weights, a name of `interchange.FAMILIES`.
        published: the published network of the family that they must be; "" for any.
        fitting: the way in which pictures are fitted to the network's side, a name of FITTINGS.
        length: the number of ids of a prompt; 0 for the number that its vocabulary's folder or the network states.
        reading: (network, parameters, tokenizer) -> its columns and its `choice`; the pictures are fitted.
        figures: the figures of a `Scorer`.
        notes: other things that the figures depend on.
        source: the publication or code that defines it.
    """

    name: str
    network: str
    weights: str
    family: str
    published: str
    fitting: str
    length: int
    reading: Callable[[Any, Any, text.Tokenizer], tuple[Callable[[np.ndarray, Sequence[str]], Columns], float | None]]
    figures: Mapping[str, str]
    notes: str
    source: str


class Towers(NamedTuple):
    """A CLIP as scores read it.

    Attributes:
        side: the side of the pictures that it sees.
        scale: T, the factor of the logits.
        images: fitted pictures [B, side, side, 3], bytes or floats in [-1, 1] -> [B, D] of length one.
        texts: prompts -> [B, D] of length one.
    """

    side: int
    scale: float
    images: Callable[[np.ndarray], np.ndarray]
    texts: Callable[[Sequence[str]], np.ndarray]


def clip_towers(folder: str) -> Towers:
    """Both towers of a CLIPModel's folder; errors as `opened`."""
    return _towers(*_network(_CLIP, Source(folder)))


def _towers(
    module: Any, params: Any, tokenizer: text.Tokenizer, scaled: Callable[[jax.Array], jax.Array] = clip.normalised
) -> Towers:
    images = jax.jit(lambda params, x: module.apply({"params": params}, scaled(x), method="encode_images"))
    texts = jax.jit(lambda params, ids: module.apply({"params": params}, ids, method="encode_text"))
    return Towers(
        module.vision.size,
        float(np.exp(params["logit_scale"])),
        lambda pictures: np.asarray(images(params, pictures)),
        lambda prompts: np.asarray(texts(params, tokenizer(prompts).ids)),
    )


def _cosines(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    return (images.astype(np.float64) * texts).sum(1)


def _clip(module: clip.CLIP, params: Any, tokenizer: text.Tokenizer):
    towers = _towers(module, params, tokenizer)

    def columns(pictures: np.ndarray, prompts: Sequence[str]) -> Columns:
        images = towers.images(pictures)
        texts = towers.texts(prompts)
        cosine = _cosines(images, texts)
        return {"cosine": cosine, "score": towers.scale * cosine, "clip_score": clip_scores(images, texts)}

    return columns, 1.0


def _hps(module: clip.CLIP, params: Any, tokenizer: text.Tokenizer):
    towers = _towers(module, params, tokenizer)

    def columns(pictures: np.ndarray, prompts: Sequence[str]) -> Columns:
        cosine = _cosines(towers.images(pictures), towers.texts(prompts))
        return {"cosine": cosine, "score": 100 * cosine}

    return columns, towers.scale / 100


def _siglip(module: Any, params: Any, tokenizer: text.Tokenizer):
    towers = _towers(module, params, tokenizer, _signed)
    bias = float(params["logit_bias"])

    def columns(pictures: np.ndarray, prompts: Sequence[str]) -> Columns:
        texts = towers.texts([prompt.lower() for prompt in prompts])  # lower case, as the tower was trained
        cosine = _cosines(towers.images(pictures), texts)
        return {"cosine": cosine, "score": np.exp(-np.logaddexp(0, -(towers.scale * cosine + bias)))}

    return columns, None


def _reward(module: Any, params: Any, tokenizer: text.Tokenizer):
    reward = jax.jit(lambda params, ids, mask, x: module.apply({"params": params}, ids, mask, _signed(x)))

    def columns(pictures: np.ndarray, prompts: Sequence[str]) -> Columns:
        ids, mask, _ = tokenizer(prompts)
        return {"score": np.asarray(reward(params, ids, mask, pictures), np.float64)}

    return columns, image_reward.STD  # it was trained on the differences of raw rewards


def _signed(pictures: jax.Array) -> jax.Array:
    """Pictures in [-1, 1], from bytes or as they are."""
    return pictures / jnp.float32(127.5) - 1 if pictures.dtype == jnp.uint8 else pictures


_CLIP = PromptProtocol(
    name="clip",
    network="CLIP",
    weights="the folder of a CLIPModel as transformers saves it",
    family="CLIPModel",
    published="",
    fitting="shorter side by Pillow's bicubic filter, then the middle",
    length=0,
    reading=_clip,
    figures={"clip_score": "CLIP score", "score": "scaled cosine"},
    notes="The CLIP score has the weight 100. Pictures are fitted as transformers' CLIPImageProcessor fits them.",
    source="Radford et al., 2021; Hessel et al., CLIPScore, 2021",
)
_HPS = PromptProtocol(
    name="hpsv2",
    network="HPS v2 or v2.1, of CLIP ViT-H/14",
    weights="HPS_v2_compressed.pt or HPS_v2.1_compressed.pt, or the folder of a CLIPModel",
    family="CLIPModel",
    published="ViT-H/14",
    fitting="longer side, bicubic with antialiasing in floats, black beside it",
    length=77,
    reading=_hps,
    figures={"score": "HPS"},
    notes="The package's score() gives the cosine, its tables 100 times its mean over prompts. It computes in float16 "
    "on a GPU, and here in float32; it also unescapes HTML in prompts. v2 and v2.1 are different weights.",
    source="Wu et al., Human Preference Score v2, 2023; tgxs002/HPSv2, hpsv2/img_score.py, evaluation.py and "
    "src/open_clip/transform.py (resize_longest_max)",
)
PROTOCOLS: dict[str, PromptProtocol] = {
    protocol.name: protocol
    for protocol in (
        _CLIP,
        _CLIP._replace(
            name="pickscore",
            network="PickScore v1, of CLIP ViT-H/14",
            weights="the folder of PickScore_v1, a CLIPModel, with the vocabulary of CLIP ViT-H/14",
            published="ViT-H/14",
            length=77,
            figures={"score": "PickScore"},
            notes="The score is a logit: of two pictures of a prompt, people choose the first with the probability "
            "sigmoid(score_1 - score_2).",
            source="Kirstain et al., Pick-a-Pic, 2023; yuvalkirstain/PickScore, README.md",
        ),
        _HPS,
        _HPS._replace(
            name="hpsv2-plain",
            fitting="longer side, PyTorch's bicubic without antialiasing in floats, black beside it",
            notes=f"{_HPS.notes} As the package resizes with torchvision before 0.17, the versions of the time of "
            "the paper.",
        ),
        PromptProtocol(
            name="siglip",
            network="SigLIP 2",
            weights="the folder of a SigLIP 2 for one resolution (a SiglipModel), with its tokenizer.json",
            family="SiglipModel",
            published="",
            fitting="square by Pillow's bilinear filter",
            length=0,
            reading=_siglip,
            figures={"score": "probability", "cosine": "cosine"},
            notes="The score is the probability that picture and prompt belong together. Prompts are in lower case. "
            "A preprocessor_config.json beside the weights names another filter.",
            source="Zhai et al., 2023; Tschannen et al., SigLIP 2, 2025; transformers, models/siglip and siglip2",
        ),
        PromptProtocol(
            name="imagereward",
            network="ImageReward v1.0",
            weights="ImageReward.pt",
            family="ImageReward",
            published="v1.0",
            fitting="shorter side by Pillow's bicubic filter, then the middle, halves rounded to even",
            length=35,
            reading=_reward,
            figures={"score": "ImageReward"},
            notes="In standard deviations from the mean of the authors' pictures. The vocabulary is that of "
            "bert-base-uncased; of a prompt 33 ids are read.",
            source="Xu et al., ImageReward, 2023; THUDM/ImageReward, ImageReward/ImageReward.py",
        ),
    )
}
"""The scores by a network of ours."""


def described(protocol: PromptProtocol) -> dict[str, Any]:
    """The protocol as a report holds it: its fields that are data."""
    return {name: value for name, value in protocol._asdict().items() if name not in ("reading", "figures", "weights")}


def opened(protocol: PromptProtocol, source: Source) -> Scorer:
    """Opens the network of a protocol.

    Args:
        protocol: the protocol, one of PROTOCOLS.
        source: its weights, and its vocabulary where it does not lie beside them.

    Raises:
        ValueError: for another network, a vocabulary of another kind, or files that cannot be read.
        FileNotFoundError: where there are no weights or no vocabulary.
    """
    module, params, tokenizer = _network(protocol, source)
    fitting = protocol.fitting
    if protocol.family == "SiglipModel":
        fitting = stated_square(pathlib.Path(source.weights).expanduser(), fitting)
    read, choice = protocol.reading(module, params, tokenizer)
    side = module.vision.size
    fit = lambda picture: FITTINGS[fitting](picture, side)

    def columns(pictures: Sequence[np.ndarray], prompts: Sequence[str]) -> Columns:
        return read(np.stack([fit(picture) for picture in pictures]), prompts)

    scale = {"scale": float(np.exp(params["logit_scale"]))} if "logit_scale" in params else {}
    record = {**described(protocol), "fitting": fitting, "size": side, **scale}
    return Scorer(columns, protocol.figures, record, choice)


def _network(protocol: PromptProtocol, source: Source) -> tuple[Any, Any, text.Tokenizer]:
    """The network of a protocol, its parameters and its vocabulary; errors as `opened`."""
    if not source.weights:
        raise ValueError(f"the score {protocol.name!r} needs weights: {protocol.weights}")
    path = pathlib.Path(source.weights).expanduser()
    family = interchange.FAMILIES[protocol.family]
    vocabulary = pathlib.Path(source.tokenizer or path).expanduser()
    if path.is_file() and not source.tokenizer:
        raise ValueError(f"{path} is a file without a vocabulary; name a folder that has one by --tokenizer")
    # A folder says what it holds, which a SiglipModel's is opened as a part of.
    weights_found = folders.find(path, "" if path.is_dir() and protocol.family == "CLIPModel" else family.name)
    module = weights_found.module
    if not isinstance(module, family.module):
        raise ValueError(f"it holds a {type(module).__name__}. Valid: {protocol.weights}")
    if protocol.published:
        expected = family.build(family.published[protocol.published])
        if why := _difference(module, expected):
            raise ValueError(f"it is not {protocol.network}: {why}")
    length = protocol.length or (module.text.positions if protocol.family == "SiglipModel" else 0)
    tokenizer = text.Tokenizer.open(vocabulary, length)
    if protocol.family == "SiglipModel":
        tokenizer = _framed(vocabulary, tokenizer)
    _check_vocabulary(vocabulary, tokenizer, module.text.vocabulary)
    return module, folders.read(weights_found), tokenizer


def _framed(path: pathlib.Path, tokenizer: text.Tokenizer) -> text.Tokenizer:
    """SigLIP 2's vocabulary as in its training, without a start; Gemma's own files have one, and not always an end."""
    end = tokenizer.ids("<eos>")
    if len(end) != 1:
        raise ValueError(f"{path} has no <eos>. SigLIP 2 reads prompts by Gemma's vocabulary, which has one")
    return tokenizer._replace(start=(), end=tuple(end))


def _check_vocabulary(path: pathlib.Path, tokenizer: text.Tokenizer, size: int) -> None:
    """Refuses a vocabulary whose start, end or padding the network has no embedding of."""
    if (largest := max((*tokenizer.start, *tokenizer.end, tokenizer.pad, *tokenizer.ids("a picture")))) >= size:
        raise ValueError(
            f"{path} has the id {largest}, but the network knows only {size} ids: this vocabulary belongs to another "
            "network"
        )


WITHOUT_EFFECT = ("parent", "name", "eos", "scale", "token_std", "attention", "remat", "dtype")


def _difference(module: nn.Module, expected: nn.Module, where: str = "") -> str:
    """The first field in which a network differs from the published one; "" if none does."""
    for field in dataclasses.fields(expected):
        if field.name in WITHOUT_EFFECT:
            continue
        ours = getattr(expected, field.name)
        theirs = getattr(module, field.name)
        if isinstance(ours, nn.Module):
            if why := _difference(theirs, ours, f"{where}{field.name}."):
                return why
        elif theirs != ours:
            return f"its {where}{field.name} is {theirs!r}, not {ours!r}"
    return ""


def _vqa(source: Source) -> Scorer:
    answer = source.answer_log_probability
    if answer is None:
        raise ValueError(
            "the score 'vqascore' needs a function that answers questions; name one by --answerer, which --extend adds"
        )

    def columns(pictures: Sequence[np.ndarray], prompts: Sequence[str]) -> Columns:
        log_probability = vqa_score.log_probabilities(answer, pictures, prompts)
        return {"log_probability": log_probability, "score": np.exp(log_probability)}

    record = {
        "name": "vqascore",
        "question": vqa_score.QUESTION,
        "answer": vqa_score.ANSWER,
        "source": "Lin et al., Evaluating Text-to-Visual Generation with Image-to-Text Generation, 2024",
    }
    return Scorer(columns, {"score": "VQAScore"}, record, compiled=False)


SCORES: dict[str, Callable[[Source], Scorer]] = {
    **{name: functools.partial(opened, protocol) for name, protocol in PROTOCOLS.items()},
    "vqascore": _vqa,
}
"""The scores by name; `names.add(picture_scores.SCORES, function)` adds one of your own."""
