"""The marks Janus needs in its tokenizer, and a word-level tokenizer for tiny models."""

from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from reca.models.errors import CheckpointError
from reca.models.janus.config import Sizes
from reca.models.words import UNKNOWN, word_level

IMAGE_MARKS = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
"""transformers' attribute of each image mark -> its published text."""

ROLES = ("<|User|>", "<|Assistant|>")
ENDS = {
    "bos_token": "<｜begin▁of▁sentence｜>",  # noqa: RUF001 - as published
    "eos_token": "<｜end▁of▁sentence｜>",  # noqa: RUF001
    "pad_token": "<｜▁pad▁｜>",  # noqa: RUF001
}


@dataclass(frozen=True)
class Marks:
    """Ids of the special tokens.

    Attributes:
        start: begin of a sequence.
        end: end of an answer.
        pad: fills short sequences, and stands for every id of a dropped caption.
        image: place of one understanding feature.
        begin_image: what the codes of a picture, or its features, follow.
        end_image: what follows the features.
    """

    start: int
    end: int
    pad: int
    image: int
    begin_image: int
    end_image: int


def find_marks(tokenizer: PreTrainedTokenizerFast, source: str) -> Marks:
    """Look up the marks.

    Args:
        tokenizer: the checkpoint's tokenizer.
        source: where it comes from, for the message.

    Raises:
        CheckpointError: naming every mark that the tokenizer lacks.
    """
    known = tokenizer.get_vocab()
    found = {name: getattr(tokenizer, f"{name}_id") for name in ENDS}
    found |= {name: known.get(text) for name, text in IMAGE_MARKS.items()}
    missing = [IMAGE_MARKS.get(name, name) for name, number in found.items() if number is None]
    if missing:
        raise CheckpointError(
            f"{source}: the tokenizer has no {', '.join(missing)}; use the tokenizer files of a Janus checkpoint"
        )
    return Marks(
        start=found["bos_token"],
        end=found["eos_token"],
        pad=found["pad_token"],
        image=found["image_token"],
        begin_image=found["boi_token"],
        end_image=found["eoi_token"],
    )


def matching_marks(tokenizer: PreTrainedTokenizerFast, sizes: Sizes, source: str) -> Marks:
    """Marks of a tokenizer that fits a configuration.

    Args:
        tokenizer: the checkpoint's tokenizer.
        sizes: of the configuration.
        source: where the tokenizer comes from, for the message.

    Raises:
        CheckpointError: it lacks a mark, has more ids than the vocabulary, or another id for the image mark.
    """
    marks = find_marks(tokenizer, source)
    if marks.image != sizes.image_token or len(tokenizer) > sizes.vocabulary:
        raise CheckpointError(
            f"{source}: its image mark is id {marks.image} of {len(tokenizer)} ids; config.json expects id "
            f"{sizes.image_token} of at most {sizes.vocabulary}. Use the tokenizer files of this checkpoint"
        )
    return marks


def generation_config(marks: Marks) -> GenerationConfig:
    """What transformers' own `generate` needs beside a checkpoint, as the published ones have it."""
    return GenerationConfig(
        bos_token_id=marks.start,
        eos_token_id=marks.end,
        pad_token_id=marks.pad,
        guidance_scale=5.0,
        generation_kwargs={"boi_token_id": marks.begin_image},
    )


def build_word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Tokenizer of whole lower-case words, with every run of punctuation a word of its own, and the published marks.

    Blanks and line ends are dropped. No text may need `<unk>`.

    Args:
        words: words or whole texts; each is split the way later texts are.
    """
    tokenizer = word_level(words, pre_tokenizers.Whitespace(), (UNKNOWN, ":"))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, **ENDS, extra_special_tokens=IMAGE_MARKS
    )
    fast.add_tokens(list(ROLES), special_tokens=True)
    return fast
