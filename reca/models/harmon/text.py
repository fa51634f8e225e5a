"""Prompts as ids: the chat form of Qwen2.5-Instruct without a system turn, and tokenizers for it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from reca.models.errors import CheckpointError

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
UNKNOWN = "<unk>"

DRAW = "Generate an image: {}"
"""Text-to-image prompt of a caption."""

DRAW_ANY = "Generate an image."
"""Prompt without text: of unconditional rows, and in training of a tenth of all drawing rows."""

HEADER = 3
"""Ids before the picture: start mark, `user`, and one newline mark (of one or two newlines)."""


def prompt(text: str) -> str:
    """One user turn and the opening of the assistant's."""
    return f"{START}user\n{text}{END}\n{START}assistant\n"


def token_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
    """Ids of each text, special tokens written out in it included.

    Args:
        tokenizer: the checkpoint's tokenizer.
        texts: texts of one batch.
        names: what to call each text in an error message.

    Raises:
        ValueError: a text has a word that the tokenizer does not know.
    """
    if not texts:
        return []
    rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    for row, text, name in zip(rows, texts, names, strict=True):
        if unknown is not None and unknown in row:
            spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            start, end = spans[row.index(unknown)]
            raise ValueError(
                f"{name}: the tokenizer does not know the word {text[start:end]!r} in {text!r}; use words it knows"
            )
    return rows


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> None:
    """Make sure that a tokenizer can write the chat form.

    Raises:
        ValueError: a special token is missing, ids exceed the embedding table, or the header is not `HEADER` ids.
    """
    known = tokenizer.get_vocab()
    missing = [token for token in (START, END, PAD) if token not in known]
    if missing:
        raise ValueError(f"special tokens {', '.join(missing)} are missing; use the tokenizer of Qwen2.5-Instruct")
    if max(known.values()) >= vocab_size:
        raise ValueError(f"has ids up to {max(known.values())}, but llm.vocab_size is {vocab_size}")
    start = known[START]
    for text in ("", "\n"):
        ids = token_ids(tokenizer, [prompt(f"{text}{DRAW_ANY}")], ["header"])[0]
        alone = token_ids(tokenizer, [f"{START}user\n{text}"], ["header"])[0]
        if ids[0] != start or len(alone) != HEADER or ids[:HEADER] != alone:
            raise ValueError(
                f"writes {START}, user and {1 + len(text)} newlines as {alone}; expected {HEADER} ids, the last for "
                "all newlines together"
            )


def build_word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Tokenizer of whole lower-case words for tiny models, with every run of punctuation a word of its own and one and
    two newlines as in Qwen's.

    The words of the chat form and of `DRAW` and `DRAW_ANY` are always known. No text may need `<unk>` (`token_ids`
    raises).

    Args:
        words: words or whole texts; each is split the way later texts are.
    """
    pieces = r"\n\n|\n|\w+|[^\w\s]+"
    # Whatever matches is a piece; the spaces in between are dropped.
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pieces), "isolated"), pre_tokenizers.Split(Regex(r" +"), "removed")]
    )
    known = dict.fromkeys(["\n", "\n\n"])
    for word in ["user assistant", DRAW.format(""), DRAW_ANY, *words]:
        known.update(dict.fromkeys(piece for piece, _ in splitter.pre_tokenize_str(word.lower())))
    vocabulary = {word: number for number, word in enumerate([*known, UNKNOWN, PAD, START, END])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = splitter
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (PAD, START, END)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN, pad_token=PAD, eos_token=END)


def load_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """Tokenizer of a checkpoint folder; nothing is looked up on the network.

    Raises:
        CheckpointError: there is none, it cannot be read, or it does not know the chat form.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: file is missing; copy the tokenizer's files of Qwen2.5-Instruct there")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the tokenizers library raises a bare Exception on files it cannot parse
        raise CheckpointError(f"{path}: cannot be read as a tokenizer: {error}") from error
    try:
        check_tokenizer(tokenizer, vocab_size)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return tokenizer
