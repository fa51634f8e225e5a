"""The tokenizer of an InternVL3 folder, and a word-level one for tiny models."""

from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from reca.models.errors import CheckpointError
from reca.models.words import build_word_tokenizer

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
IMAGE_START, IMAGE_END, IMAGE_CONTEXT = "<img>", "</img>", "<IMG_CONTEXT>"
SPECIAL = (TURN_START, TURN_END, IMAGE_START, IMAGE_END, IMAGE_CONTEXT)
"""Special tokens that every prompt is made of."""

FIXED_WORDS = ("user assistant", "generate an image: .", "keep the image as it is.")
"""Words of the prompt forms."""


def build_chat_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Tokenizer of whole lower-case words that knows the special tokens and all words of the prompt forms.

    Args:
        words: words or whole texts; each is split the way later texts are.
    """
    tokenizer = build_word_tokenizer([*FIXED_WORDS, *words])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    return tokenizer


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Tokenizer of an InternVL3 folder (`tokenizer.json`, or `vocab.json` and `merges.txt`); nothing is looked up on
    the network.

    Raises:
        CheckpointError: there is none, it cannot be read, or it lacks a special token.
    """
    kinds = {"tokenizer.json": PreTrainedTokenizerFast, "vocab.json": Qwen2Tokenizer}
    kind = next((kind for name, kind in kinds.items() if (folder / name).is_file()), None)
    if kind is None:
        raise CheckpointError(f"{folder}: no tokenizer.json and no vocab.json; copy the files of InternVL3's tokenizer")
    try:
        tokenizer = kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the tokenizers library raises a bare Exception on files it cannot parse
        raise CheckpointError(f"{folder}: the tokenizer cannot be read: {error}") from error
    known = tokenizer.get_added_vocab()
    missing = [token for token in SPECIAL if tokenizer.encode(token, add_special_tokens=False) != [known.get(token)]]
    if missing:
        raise CheckpointError(
            f"{folder}: the tokenizer has no special tokens {', '.join(missing)}; OpenUni needs InternVL3's tokenizer, "
            "not that of its plain language model"
        )
    return tokenizer
