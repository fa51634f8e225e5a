"""Prompts as ids: the chat form of Qwen2.5-Instruct without a system turn, and tokenizers for it."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from reca.models.errors import CheckpointError
from reca.models.words import UNKNOWN, text_ids, word_level
from reca.models.words import load_tokenizer as load_any_tokenizer

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

DRAW = "Generate an image: {}"
"""Text-to-image prompt of a caption."""

DRAW_ANY = "Generate an image."
"""Prompt without text: of unconditional rows, and in training of a tenth of all drawing rows."""

HEADER = 3
"""Ids before the picture: start mark, `user`, and one newline mark (of one or two newlines)."""


def prompt(text: str) -> str:
    """One user turn and the opening of the assistant's."""
    return f"{START}user\n{text}{END}\n{START}assistant\n"


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
        ids = text_ids(tokenizer, [prompt(f"{text}{DRAW_ANY}")], ["header"])[0]
        alone = text_ids(tokenizer, [f"{START}user\n{text}"], ["header"])[0]
        if ids[0] != start or len(alone) != HEADER or ids[:HEADER] != alone:
            raise ValueError(
                f"writes {START}, user and {1 + len(text)} newlines as {alone}; expected {HEADER} ids, the last for "
                "all newlines together"
            )


def build_word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Tokenizer of whole lower-case words for tiny models, with every run of punctuation a word of its own and one and
    two newlines as in Qwen's.

    The words of the chat form and of `DRAW` and `DRAW_ANY` are always known. No text may need `<unk>` (`text_ids`
    raises).

    Args:
        words: words or whole texts; each is split the way later texts are.
    """
    pieces = r"\n\n|\n|\w+|[^\w\s]+"
    # Whatever matches is a piece; the spaces in between are dropped.
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pieces), "isolated"), pre_tokenizers.Split(Regex(r" +"), "removed")]
    )
    texts = ["user assistant", DRAW.format(""), DRAW_ANY, *words]
    tokenizer = word_level(texts, splitter, ("\n", "\n\n"), (UNKNOWN, PAD, START, END))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (PAD, START, END)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN, pad_token=PAD, eos_token=END)


def load_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """Tokenizer of a checkpoint folder; nothing is looked up on the network.

    Raises:
        CheckpointError: there is none, it cannot be read, or it does not know the chat form.
    """
    path = folder / "tokenizer.json"
    tokenizer = load_any_tokenizer(folder, "Qwen2.5-Instruct's")
    try:
        check_tokenizer(tokenizer, vocab_size)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return tokenizer
