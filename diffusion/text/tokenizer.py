"""Text as token ids, by the vocabularies that encoders are published with.

    tokenizer = text.Tokenizer.open("stable-diffusion/tokenizer")
    ids, mask, cut = tokenizer(["a cat", ""])

A folder holds one vocabulary:
- `tokenizer.json`, or `vocab.json` and `merges.txt` (CLIP's byte-pair encoding), or `vocab.txt` (BERT's pieces of
  words), which the `tokenizers` library reads;
- `spiece.model` (T5's) or `tokenizer.model` (ChatGLM's), which `sentencepiece` reads;
- none for ByT5, which reads bytes.
`tokenizer_config.json` beside it, where it is published, states the length and the padding. It or `added_tokens.json`
names words that were added to the vocabulary, as textual inversion does.
CLIP's own vocabulary is padded with the end of the text in SD 1 and in the first encoder of SDXL, and with "!", id 0,
in SD 2 and in SDXL's second.
"""

import contextlib
import math
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import sentencepiece
import tokenizers
from tokenizers import normalizers, pre_tokenizers

from diffusion.io import limits, opener, schema
from diffusion.text import stored_words

BOUNDLESS = 10**6  # configs without a length have a larger "model_max_length"
# How OpenAI's code cuts text into words, whose bytes are then merged.
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
GROWTH = 1000  # letters that rules of a vocabulary may make of one
REPEATED = 64  # ways to repeat a letter that count for a repetition without an end
TRIES = 200_000  # ways to match that the expressions of a vocabulary may have at one letter; GPT-4o's have 147,000
EXPRESSION = 4096  # letters of one
QUANTIFIER = re.compile(r"(?:(?P<sign>[*+?])|\{(?P<least>\d*)(?P<comma>,?)(?P<most>\d*)\})[?+]?")
TOKEN = schema.optional(
    schema.either(
        schema.text(),
        schema.Valid(
            "a table with a text as its content",
            lambda value: isinstance(value, Mapping) and schema.text().holds(value.get("content")),
        ),
    )
)
KINDS = {  # what the fields of tokenizer_config.json and special_tokens_map.json may hold
    "model_max_length": schema.optional(schema.number(0, math.inf)),
    "extra_ids": schema.integer(0, 1000),
    "do_lower_case": schema.FLAG,
    "strip_accents": schema.optional(schema.FLAG),
    "tokenize_chinese_chars": schema.FLAG,
    "padding_side": schema.optional(schema.Valid("'left' or 'right'", lambda value: value in ("left", "right"))),
    "bos_token": TOKEN,
    "eos_token": TOKEN,
    "unk_token": TOKEN,
    "pad_token": TOKEN,
}
CLIP_SPECIAL = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}


# Classes of transformers that pad on the left where neither tokenizer_config.json nor tokenizer.json says a side.
LEFT_PADDED = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer")
BYTES, OF_BYTES = "ByT5Tokenizer", 3  # the class that has no vocabulary, and its ids before those of bytes
BERT_FRAME = {"cls_token": "[CLS]", "sep_token": "[SEP]"}  # start and end
BERT_MASK = "[MASK]"  # a special token too, where the vocabulary has it


class Tokens(NamedTuple):
    """Texts as an encoder takes them.

    Attributes:
        ids: int32 [B, N].
        mask: Bool [B, N], True from the start to the end of the text, False where it is padded.
        cut: part of each text that did not fit, "" where all of it did.
    """

    ids: np.ndarray
    mask: np.ndarray
    cut: tuple[str, ...]


class Tokenizer(NamedTuple):
    """A vocabulary, and how a text is framed for its encoder: start, ids, end, padding.

    Attributes:
        split: text -> (ids, n -> the text from id n on), without start and end.
        start: ids before a text.
        end: ids after it.
        pad: id after the end.
        length: number N of ids for each text, with start, end and padding.
        left: whether padding precedes a text; otherwise it follows the text.
        join: ids -> text, without special tokens and ids that are no token; None where the vocabulary does not
            say how.
    """

    split: Callable[[str], tuple[list[int], Callable[[int], str]]]
    start: tuple[int, ...]
    end: tuple[int, ...]
    pad: int
    length: int
    left: bool = False
    join: Callable[[Sequence[int]], str] | None = None

    @classmethod
    def open(cls, folder: str | pathlib.Path, length: int = 0, pad: str = "") -> "Tokenizer":
        """Reads a tokenizer's folder, in the form in which it is published beside an encoder.

        Args:
            folder: published folder, see the module.
            length: number N of ids for each text; 0: the number in tokenizer_config.json.
            pad: the token that pads a text by its name in tokenizer_config.json, such as "eos_token"; "": "pad_token".

        Raises:
            FileNotFoundError: if no vocabulary is there.
            ValueError: if no length is known, or it is too short for any text.
            limits.Refused: for damaged files.
        """
        folder = pathlib.Path(folder).expanduser()
        config = _config(folder / "special_tokens_map.json") | _config(folder / "tokenizer_config.json")
        build = next((build for name, build in BUILDS.items() if (folder / name).is_file()), None)
        if build is None and config.get("tokenizer_class") == BYTES:
            build = _from_bytes
        if build is None:
            holds = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
            raise FileNotFoundError(
                f"{folder} holds no vocabulary ({', '.join(BUILDS)}); it holds {holds or 'nothing'}."
            )
        config = config | {"pad_token": config.get(pad)} if pad else config
        known = config.get("model_max_length") or 0
        length = length or (known if known < BOUNDLESS else 0)
        if length < 1:
            raise ValueError(
                f"{folder}: its tokenizer_config.json states no length. Set it, for example length=77 for CLIP, 256 "
                "or 512 for T5"
            )
        tokenizer = build(folder, config, int(length))
        if tokenizer.room < 1:
            raise ValueError(f"length={length} leaves no room for text between the start and the end")
        side = config.get("padding_side")
        return tokenizer._replace(left=side == "left") if side else tokenizer

    @property
    def room(self) -> int:
        """Ids of a text that fit between start and end."""
        return self.length - len(self.start) - len(self.end)

    def begin(self, ids: int) -> int:
        """The position of the first id of a text of `ids` ids."""
        return self.length - len(self.end) - ids if self.left else len(self.start)

    def longer(self, ids: int) -> "Tokenizer":
        """The same vocabulary with room for `ids` more ids in each text."""
        return self._replace(length=self.length + ids)

    def ids(self, text: str) -> list[int]:
        """All ids of a text, without start and end."""
        return self.split(checked(text))[0]

    def framed(self, rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [B, N], mask Bool [B, N]) of rows of at most `room` ids: start and end put on, and padded.

        Raises:
            ValueError: for a longer row.
        """
        if longest := max((len(row) for row in rows if len(row) > self.room), default=0):
            raise ValueError(f"{longest} ids do not fit into the {self.room} positions between start and end")
        ids = np.full((len(rows), self.length), self.pad, np.int32)
        mask = np.zeros(ids.shape, bool)
        for i, row in enumerate(rows):
            framed_row = (*self.start, *row, *self.end)
            first = self.begin(len(row)) - len(self.start)
            span = slice(first, first + len(framed_row))
            ids[i, span], mask[i, span] = framed_row, True
        return ids, mask

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """The texts, each cut to what fits: "" is a text as any other.

        Raises:
            ValueError: for one text in place of a list, or a text that is no Unicode.
        """
        if isinstance(texts, str):
            raise ValueError("a tokenizer takes a list of texts; put a single text into a list")
        parts = [self.split(checked(text)) for text in texts]
        cut = tuple(rest(self.room) if len(ids) > self.room else "" for ids, rest in parts)
        return Tokens(*self.framed([ids[: self.room] for ids, _ in parts]), cut)


def checked(text: str) -> str:
    """The text itself, if it is one.

    Raises:
        ValueError: if it is no str, or no Unicode.
    """
    if not isinstance(text, str):
        raise ValueError(f"a text must be a str; got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text {text[:40]!r} is not valid Unicode: {error.reason} at character {error.start}"
        ) from error
    return text


def _config(path: pathlib.Path) -> dict[str, Any]:
    table = opener.read_table(path) if path.is_file() else {}
    schema.check(KINDS, table, str(path))
    return table


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turns the errors of a library of vocabularies into refusals: it has one class of errors, and panics in Rust."""
    try:
        yield
    except limits.Refused:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # no module exports this type
            raise
        raise limits.Refused(f"{what}: {limits.reason(error)}.") from error


def _special(config: Mapping[str, Any], defaults: Mapping[str, str]) -> dict[str, str]:
    """The special tokens by their part, "pad_token": configs have them as text or as a table with their content."""
    stated = {name: config[name] for name in CLIP_SPECIAL if config.get(name)}
    return {**defaults, **{name: t["content"] if isinstance(t, Mapping) else t for name, t in stated.items()}}


def _from_library(
    library: tokenizers.Tokenizer,
    special: Mapping[str, str],
    length: int,
    path: pathlib.Path,
    added: Mapping[int, tokenizers.AddedToken] = MappingProxyType({}),
) -> Tokenizer:
    with _refusing(f"{path} is not a vocabulary of the tokenizers library"):
        library.no_truncation()
        library.no_padding()
        before = {word.content for word in library.get_added_tokens_decoder().values()}
        new = {number: word for number, word in added.items() if word.content not in before}
        library.add_tokens(list(new.values()))
        given = {word.content: library.token_to_id(word.content) for word in new.values()}
        # A special token within a text is one id: "!" too, where it is the padding.
        library.add_special_tokens(sorted(set(special.values())))
        numbers = {name: library.token_to_id(token) for name, token in special.items()}
        largest = max(library.get_vocab().values(), default=0)
    for number, word in new.items():
        if given[word.content] != number:
            raise limits.Refused(
                f"{path.parent}: the added word {word.content!r} has the id {number}, but the next of the vocabulary "
                f"is {given[word.content]}."
            )
    vocabulary = {name: number for name, number in numbers.items() if number is not None}
    if missing := [token for name, token in special.items() if name not in vocabulary]:
        raise limits.Refused(f"{path}: the vocabulary has no {missing[0]!r}, which its config names.")
    if why := schema.objection("the largest id of its vocabulary", largest, stored_words.IDS):
        raise limits.Refused(f"{path}: {why}")

    def split(text: str) -> tuple[list[int], Callable[[int], str]]:
        with _refusing(f"{path} cannot read the text {text[:40]!r}"):
            encoded = library.encode(text, add_special_tokens=False)
        return encoded.ids, lambda i: text[encoded.offsets[i][0] :]

    with _refusing(f"{path} cannot read the text 'a'"):
        bare, with_special = (library.encode("a", add_special_tokens=special).ids for special in (False, True))
    at = next((i for i in range(len(with_special) + 1) if with_special[i : i + len(bare)] == bare), None)
    if at is None:
        raise limits.Refused(
            f"{path} splits a text differently when a start and an end are added, which is not supported."
        )
    start = tuple(with_special[:at])
    end = tuple(with_special[at + len(bare) :])
    pad = vocabulary.get("pad_token", end[-1] if end else 0)
    join = lambda ids: library.decode(list(ids), skip_special_tokens=True)
    return Tokenizer(split, start, end, pad, length, join=join if library.decoder else None)


def _from_json(folder: pathlib.Path, config: Mapping[str, Any], length: int) -> Tokenizer:
    path = folder / "tokenizer.json"
    content = opener.read_text(path)
    table = limits.parse_json(content, str(path))
    if not isinstance(table, dict):
        raise limits.Refused(f"{path} holds {type(table).__name__}, not a table of fields.")
    if (most := _growth(table.get("normalizer"))) > GROWTH:
        raise limits.Refused(f"{path}: its normalizer turns one letter into up to {most:g}. Valid: at most {GROWTH}.")
    parts = [table.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")]
    if (tries := sum(map(_tries, _expressions(parts)))) > TRIES:  # the library tries them all, and cannot be stopped
        raise limits.Refused(
            f"{path}: its regular expressions could be matched in {tries:.3g} ways at one letter, by repetitions one "
            f"in or after another. Valid: at most {TRIES:.3g}."
        )
    with _refusing(f"{path} is not a vocabulary of the tokenizers library"):
        library = tokenizers.Tokenizer.from_str(content)
    name = str(config.get("tokenizer_class")).removesuffix("Fast")
    left = library.padding["direction"] == "left" if library.padding else name in LEFT_PADDED
    words = stored_words.read(folder, config)
    return _from_library(library, _special(config, {}), length, path, words)._replace(left=left)


def _growth(rule: Any) -> float:
    """The most letters that a normalizer of tokenizer.json makes of one, by what it puts in."""
    if isinstance(rule, list):
        return math.prod(map(_growth, rule))
    if not isinstance(rule, dict):
        return 1.0
    put = [value for name in ("content", "prepend") if isinstance(value := rule.get(name), str)]
    return max(1.0, float(sum(map(len, put)))) * _growth(rule.get("normalizers"))


def _expressions(rule: Any) -> list[str]:
    """The regular expressions in the rules of tokenizer.json."""
    if isinstance(rule, list):
        return [expression for part in rule for expression in _expressions(part)]
    if not isinstance(rule, dict):
        return []
    mine = [rule["Regex"]] if isinstance(rule.get("Regex"), str) else []
    return mine + _expressions(list(rule.values()))


def _tries(expression: str) -> float:
    """A bound on the ways in which a regular expression can be matched at one letter of a text of `REPEATED` letters.

    A sequence has the product of its parts' ways, alternatives the sum; a repetition without an end has `REPEATED`, and
    infinitely many where its content has several, or the expression refers to a part of itself.
    """
    escaped = re.findall(r"\\(.)", expression, re.DOTALL)
    if len(expression) > EXPRESSION or {*"123456789gk"} & {*escaped}:
        return math.inf
    text = re.sub(r"\\(?:[pPx]\{[^}]*\}|.)", "x", expression, flags=re.DOTALL)
    while (plain := re.sub(r"\[[^\[\]]*\]", "x", text)) != text:  # classes of letters lie in one another
        text = plain
    text = re.sub(r"\(\?[a-zA-Z-]+\)", "", text)
    text = re.sub(r"\(\?(?:[a-zA-Z-]*:|[=!>]|<[=!]|P?<\w+>)", "(", text)
    try:
        return _alternatives(text, 0)[0]
    except RecursionError:
        return math.inf


def _alternatives(text: str, at: int) -> tuple[float, int]:
    """The ways of the alternatives that begin at a letter, and the position of the ")" after them."""
    total, product = 0.0, 1.0
    while at < len(text) and text[at] != ")":
        if text[at] == "|":
            total, product = total + product, 1.0
            at += 1
            continue
        content = 1.0
        if text[at] == "(":
            content, at = _alternatives(text, at + 1)
        at += 1
        if times := QUANTIFIER.match(text, at):
            content, at = _repeated(content, times), times.end()
        product = min(product * content, 1e300)
    return total + product, at


def _repeated(content: float, times: re.Match[str]) -> float:
    """The ways of a part with some ways that is repeated."""
    if times["sign"] == "?":
        return content + 1
    least = min(int(times["least"] or 0), EXPRESSION)
    most = min(int(times["most"] or 0), EXPRESSION) if times["comma"] else least
    if times["sign"] or (times["comma"] and not times["most"]):
        return math.inf if content > 1 else REPEATED
    return math.inf if content > 1 and most > 8 else content**most + min(most - least, REPEATED)


def _from_merges(folder: pathlib.Path, config: Mapping[str, Any], length: int) -> Tokenizer:
    path = folder / "vocab.json"
    vocabulary = opener.read_table(path)
    if wrong := next((token for token, number in vocabulary.items() if not stored_words.IDS.holds(number)), None):
        raise limits.Refused(f"{path}: {schema.objection(limits.short(wrong), vocabulary[wrong], stored_words.IDS)}")
    lines = opener.read_text(folder / "merges.txt").split("\n")
    # The first line is a remark; the published file ends after those that its vocabulary has.
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    special = _special(config, CLIP_SPECIAL)
    with _refusing(f"{folder}: vocab.json and merges.txt do not belong together"):
        model = tokenizers.models.BPE(
            vocabulary, merges, unk_token=special["unk_token"], continuing_subword_prefix="", end_of_word_suffix="</w>"
        )
    library = tokenizers.Tokenizer(model)
    library.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = "|".join(re.escape(special[part]) for part in ("bos_token", "eos_token")) + "|" + CLIP_WORDS
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(words), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    frame = _frame(path, vocabulary, (special["eos_token"], special["bos_token"]))
    library.post_processor = tokenizers.processors.RobertaProcessing(*frame, False, False)
    return _from_library(library, special, length, path, stored_words.read(folder, config))


def _sentencepiece(path: pathlib.Path) -> sentencepiece.SentencePieceProcessor:
    library = sentencepiece.SentencePieceProcessor()
    content = opener.read(path, most=limits.TEXT)
    with _refusing(f"{path} is not a model of sentencepiece"):
        library.LoadFromSerializedProto(content)
        library.encode("a")
    return library


def _from_sentencepiece(folder: pathlib.Path, config: Mapping[str, Any], length: int) -> Tokenizer:
    path = folder / "spiece.model"
    library = _sentencepiece(path)
    size = library.get_piece_size()
    if library.eos_id() < 0:
        raise limits.Refused(f"{path} has no id for the end of a text; vocabularies of T5 have one.")
    # T5's sentinels come after the vocabulary, the last first.
    sentinels = config.get("extra_ids", 100)
    special = {f"<extra_id_{i}>": size + sentinels - 1 - i for i in range(sentinels)}
    special |= {library.id_to_piece(i): i for i in (library.pad_id(), library.eos_id(), library.unk_id()) if i >= 0}
    special = {word.content: number for number, word in stored_words.read(folder, config).items()} | special
    longest_first = sorted(special, key=len, reverse=True)  # a word may begin with another
    pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def split(text: str) -> tuple[list[int], Callable[[int], str]]:
        with _refusing(f"{path} cannot read the text {text[:40]!r}"):
            parts = [[special[part]] if part in special else library.encode(part) for part in pattern.split(text)]
        ids = [i for part in parts for i in part]
        # The text was normalised, so that its tokens have no offsets: their text is decoded.
        return ids, lambda n: join(ids[n:])

    join = lambda ids: library.decode([i for i in ids if i < size])
    return Tokenizer(split, (), (library.eos_id(),), max(library.pad_id(), 0), length, join=join)


def _frame(path: pathlib.Path, vocabulary: Mapping[str, int], tokens: Sequence[str]) -> list[tuple[str, int]]:
    """The tokens at the end and at the start of a text, with their ids."""
    for token in tokens:
        if token not in vocabulary:
            raise limits.Refused(f"{path}: the vocabulary has no {token!r}, the start or the end of a text.")
    return [(token, vocabulary[token]) for token in tokens]


def _from_chat_glm(folder: pathlib.Path, config: Mapping[str, Any], length: int) -> Tokenizer:
    path = folder / "tokenizer.model"
    if (name := config.get("tokenizer_class")) != "ChatGLMTokenizer":
        raise limits.Refused(f"{path} belongs to a {name}, which has no tokenizer.json. Supported: ChatGLMTokenizer.")
    library = _sentencepiece(path)
    size = library.get_piece_size()

    def split(text: str) -> tuple[list[int], Callable[[int], str]]:
        with _refusing(f"{path} cannot read the text {text[:40]!r}"):
            ids = library.encode(text)
        return ids, lambda n: library.decode(ids[n:])

    join = lambda ids: library.decode([i for i in ids if i < size])
    # Behind the vocabulary stand [MASK], [gMASK], [sMASK] and sop: the second and the last begin a text.
    return Tokenizer(split, (size + 1, size + 3), (), library.unk_id(), length, left=True, join=join)


def _from_bytes(folder: pathlib.Path, config: Mapping[str, Any], length: int) -> Tokenizer:
    """ByT5's: the bytes of a text after three special ids, the padding, the end and one that no text has."""
    split = lambda text: (
        [byte + OF_BYTES for byte in text.encode()],
        lambda first: text.encode()[first:].decode(errors="ignore"),
    )
    letters = lambda ids: bytes(i - OF_BYTES for i in ids if 0 <= i - OF_BYTES < 256)
    return Tokenizer(split, (), (1,), 0, length, join=lambda ids: letters(ids).decode(errors="ignore"))


def _from_words(folder: pathlib.Path, config: Mapping[str, Any], length: int) -> Tokenizer:
    path = folder / "vocab.txt"
    vocabulary = {word: i for i, word in enumerate(opener.read_text(path).removesuffix("\n").split("\n"))}
    special = _special(config, {"unk_token": "[UNK]", "pad_token": "[PAD]"}) | BERT_FRAME
    special |= {"mask_token": BERT_MASK} if BERT_MASK in vocabulary else {}
    with _refusing(f"{path} is not a vocabulary of pieces of words"):
        library = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token=special["unk_token"]))
    library.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = tokenizers.decoders.WordPiece()
    frame = _frame(path, vocabulary, list(BERT_FRAME.values())[::-1])
    library.post_processor = tokenizers.processors.BertProcessing(*frame)
    return _from_library(library, special, length, path, stored_words.read(folder, config))


BUILDS = {
    "tokenizer.json": _from_json,
    "vocab.json": _from_merges,
    "spiece.model": _from_sentencepiece,
    "vocab.txt": _from_words,
    "tokenizer.model": _from_chat_glm,
}
