"""The tokenizer of a BAGEL checkpoint: any fast one that knows the four marks."""

from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from reca.models import words as words_only
from reca.models.bagel.packing import Marks
from reca.models.errors import CheckpointError

MARKS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
"""Qwen2.5's names, in the order of `Marks`: 151644, 151645, 151652, 151653 there."""


def build_word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Word-level tokenizer for tiny models, with the four marks as its last ids.

    Args:
        words: words or whole texts.
    """
    tokenizer = words_only.build_word_tokenizer(words)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
    return tokenizer


def marks_of(tokenizer: PreTrainedTokenizerFast, vocabulary: int, folder: Path | str) -> Marks:
    """Ids of the marks. They are looked up, never added: an added token would change the shape of the embedding.

    Args:
        tokenizer: the checkpoint's tokenizer.
        vocabulary: rows of the embedding.
        folder: where it was found, for error messages.

    Raises:
        CheckpointError: a mark is unknown, or the tokenizer has more ids than the embedding has rows.
    """
    known = tokenizer.get_vocab()
    missing = [mark for mark in MARKS if mark not in known]
    if missing:
        raise CheckpointError(
            f"{folder}: the tokenizer does not know {', '.join(missing)}; use the tokenizer of the BAGEL release"
        )
    largest = max(known.values())
    if largest >= vocabulary:
        raise CheckpointError(
            f"{folder}: the tokenizer has ids up to {largest}, but llm_config.json has vocab_size {vocabulary}; "
            "tokenizer and weights do not belong together"
        )
    return Marks(*(known[mark] for mark in MARKS))
