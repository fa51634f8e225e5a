"""Prompts and batches of ids, on the CPU. The batches are described in `reca.models.openuni.model`.

Forms as published (`processors.py`, `caption_datasets.py`, `image_edit.py` of OpenUni): one user turn without system
message, the open assistant turn, and `<img>`, after which the learned queries follow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from reca.models.base import Example, Task, stacked
from reca.models.openuni.config import OpenUniConfig
from reca.models.openuni.tokenizer import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, TURN_END, TURN_START
from reca.models.words import answer_text, text_ids

TURNS = f"{TURN_START}user\n{{}}{TURN_END}\n{TURN_START}assistant\n"
CAPTION = "Generate an image: {}"
NO_CAPTION = "Generate an image."
"""What a dropped caption, and the unconditional branch of text-to-image, say instead."""
NO_TEMPLATE = "Keep the image as it is."
"""What the unconditional branch of a reconstruction says beside the image."""


@dataclass(frozen=True)
class Prompts:
    """Prompts of a batch.

    Attributes:
        ids: int64 [B, L], padded.
        mask: bool [B, L], True on valid ids.
    """

    ids: Tensor
    mask: Tensor


class Prompter:
    """Tokenizes and stacks. `names` in its methods say what to call each text in an error message."""

    def __init__(self, config: OpenUniConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.image = f"{IMAGE_START}{IMAGE_CONTEXT * config.image_tokens}{IMAGE_END}\n"

    def batch(self, task: Task, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Batch of one task, as `reca.models.openuni.model` describes it.

        Raises:
            ValueError: naming the sample, when its text does not fit or has an unknown word.
        """
        names = [f"sample {example.key!r}" for example in examples]
        texts = [example.text for example in examples]
        wanted = ("latents", "features") if task == "reconstruction" else ("latents",)
        images = {name: value.float() for name, value in stacked(examples, wanted).items()}
        if task == "reconstruction":
            prompts = self.templates(texts, names)
            return {**images, "input_ids": prompts.ids, "mask": prompts.mask}
        cut = [row[: self.config.max_caption] for row in self._ids([self._caption(text) for text in texts], names)]
        both = pad([*cut, *self._ids([self._drawn(NO_CAPTION)], ["unconditional prompt"])])
        count = len(texts)
        return {
            **images,
            "input_ids": both.ids[:count],
            "mask": both.mask[:count],
            "dropped_ids": both.ids[count:].expand(count, -1),
            "dropped_mask": both.mask[count:].expand(count, -1),
        }

    def captions(self, texts: Sequence[str], names: Sequence[str], unconditional: bool) -> Prompts:
        """Text-to-image prompts of B captions, followed by B unconditional ones if asked for.

        Args:
            texts: the captions.
            names: what to call each in an error message.
            unconditional: whether to ask.

        Raises:
            ValueError: a prompt exceeds `max_prompt`.
        """
        bare = self._drawn(NO_CAPTION) if unconditional else None
        return self._beside([self._caption(text) for text in texts], names, bare)

    def templates(self, texts: Sequence[str], names: Sequence[str], unconditional: bool = False) -> Prompts:
        """Reconstruction prompts of B template texts, followed by B unconditional ones (which keep the image) if asked
        for.

        Args:
            texts: the template prompts.
            names: what to call each in an error message.
            unconditional: whether to ask.

        Raises:
            ValueError: a prompt exceeds `max_prompt`.
        """
        bare = self._drawn(self.image + NO_TEMPLATE) if unconditional else None
        return self._beside([self._drawn(self.image + text) for text in texts], names, bare)

    def questions(self, texts: Sequence[str], names: Sequence[str], new_tokens: int) -> Prompts:
        """Questions about an image, padded on the left, ready to be answered in up to `new_tokens` ids.

        Raises:
            ValueError: a prompt exceeds `max_prompt`, or has no room for its answer.
        """
        rows = self._fitting([TURNS.format(self.image + text) for text in texts], names)
        held = self.config.language.max_position_embeddings
        for row, name in zip(rows, names, strict=True):
            if len(row) + new_tokens > held:
                raise ValueError(
                    f"{name}: the prompt has {len(row)} ids (image features included) and its answer up to "
                    f"{new_tokens}, but the context holds {held}; shorten the text or ask for fewer"
                )
        return pad(rows, left=True)

    def answer(self, ids: Sequence[int]) -> str:
        """Text of decoded ids up to the end of the turn."""
        return answer_text(self.tokenizer, ids, self.turn_end)

    @property
    def turn_end(self) -> int:
        """Id that ends an answer."""
        found = self.tokenizer.convert_tokens_to_ids(TURN_END)
        assert isinstance(found, int)
        return found

    def _caption(self, text: str) -> str:
        return self._drawn(CAPTION.format(text.strip()))

    def _drawn(self, text: str) -> str:
        return TURNS.format(text) + IMAGE_START

    def _beside(self, prompts: Sequence[str], names: Sequence[str], bare: str | None) -> Prompts:
        rows = self._fitting(prompts, names)
        unconditional = [] if bare is None else self._fitting([bare], ["unconditional prompt"])
        return pad([*rows, *unconditional * len(rows)])

    def _ids(self, prompts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
        rows = text_ids(self.tokenizer, prompts, names)
        for row, prompt, name in zip(rows, prompts, names, strict=True):
            expected = self.config.image_tokens if self.image in prompt else 0
            if row.count(self.config.image_context_id) != expected:
                raise ValueError(f"{name}: the text contains {IMAGE_CONTEXT}, which stands for images only; remove it")
        return rows

    def _fitting(self, prompts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
        rows = self._ids(prompts, names)
        for row, name in zip(rows, names, strict=True):
            if len(row) > self.config.max_prompt:
                raise ValueError(
                    f"{name}: the prompt has {len(row)} ids (image features included) but the context holds "
                    f"max_prompt={self.config.max_prompt}; shorten the text"
                )
        return rows


def pad(rows: Sequence[Sequence[int]], left: bool = False) -> Prompts:
    """Stack rows of ids of different lengths; pads have id 0 and are masked."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        columns = slice(longest - len(row), None) if left else slice(len(row))
        ids[number, columns] = torch.tensor(row, dtype=torch.long)
        mask[number, columns] = True
    return Prompts(ids, mask)
