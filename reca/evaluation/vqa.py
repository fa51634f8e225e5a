"""DPG-Bench's questions answered by a vision-language model of transformers: yes or no, by the first token alone.

The published judge, mPLUG-large, is on ModelScope only. With any other model the number is "DPG with judge X".
"""

from collections.abc import Sequence
from typing import Any, Self, cast

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from reca.evaluation.dpgbench import NO, YES, Asked, Seen
from reca.evaluation.picture_files import cells_of
from reca.evaluation.records import BenchmarkError

INSTRUCTION = "{question} Answer yes or no."
"""What the judge is told; the published judge gets the question alone."""

UNREAD = ""
"""Answer where the logits are not finite; the rules leave such a picture unscored."""


class YesNoJudge:
    """A vision-language model on a device.

    Args:
        model: an image-text-to-text model, in evaluation mode.
        processor: its processor, with a chat template.
        batch_size: questions asked at once.
        cell: side in pixels of a sample where a picture holds four as a 2 x 2 grid; 0 where it holds one.
    """

    def __init__(self, model: Any, processor: Any, batch_size: int = 16, cell: int = 0) -> None:
        self.model, self.processor, self.batch_size, self.cell = model.eval(), processor, batch_size, cell
        # The answer's token follows the last column, so shorter questions are filled up on the left.
        processor.tokenizer.padding_side = "left"
        self.yes, self.no = answer_tokens(processor.tokenizer)

    @classmethod
    def load(cls, place: str, device: str = "cpu", batch_size: int = 16, cell: int = 0) -> Self:
        """Read a model and its processor.

        Args:
            place: folder or hub id.
            device: `cpu` or `cuda`.
            batch_size: questions asked at once.
            cell: as of the class.

        Raises:
            BenchmarkError: when they cannot be read, or there is no chat template.
        """
        try:
            processor = AutoProcessor.from_pretrained(place)
            model = cast("Any", AutoModelForImageTextToText).from_pretrained(place, dtype="auto")
        except (OSError, ValueError) as error:
            raise BenchmarkError(
                f"{place}: no readable vision-language model: {error}; give a folder or a hub id"
            ) from error
        if getattr(processor, "chat_template", None) is None:
            raise BenchmarkError(f"{place}: its processor has no chat template; give a chat model")
        return cls(model.to(device), processor, batch_size, cell)

    def see(self, asked: Sequence[Asked], pictures: Sequence[Image.Image]) -> list[Seen]:
        """Answers by question for each cell of each picture.

        Args:
            asked: questions about each picture.
            pictures: RGB, of any size.

        Returns:
            One entry for each picture: `yes`, `no` or `UNREAD` by question, cells in reading order.
        """
        cells = [cells_of(picture, self.cell) if self.cell else (picture,) for picture in pictures]
        rows = [
            (row, number, question.id, cell, question.text)
            for row, questions in enumerate(asked)
            for number, cell in enumerate(cells[row])
            for question in questions
        ]
        seen: list[list[dict[int, str]]] = [[{} for _ in row] for row in cells]
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            answers = self.answer([cell for *_, cell, _ in part], [text for *_, text in part])
            for (row, number, question, *_), answer in zip(part, answers, strict=True):
                seen[row][number][question] = answer
        return [tuple(row) for row in seen]

    @torch.inference_mode()
    def answer(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """`yes` or `no` to one question about each picture, whichever has more probability as first token.

        Args:
            pictures: RGB, of any size.
            questions: one for each.

        Returns:
            `yes` or `no`; `UNREAD` where the logits are not finite.
        """
        conversations = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": picture},
                        {"type": "text", "text": INSTRUCTION.format(question=question)},
                    ],
                }
            ]
            for picture, question in zip(pictures, questions, strict=True)
        ]
        inputs = self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"padding": True, "return_tensors": "pt"},
        )
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        output = self.model.generate(
            **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        return [self._read(row) for row in output.logits[0].float().cpu()]

    def _read(self, logits: Tensor) -> str:
        if not logits.isfinite().all():
            return UNREAD
        return YES if logits[self.yes].logsumexp(dim=0) > logits[self.no].logsumexp(dim=0) else NO


def answer_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """First tokens of yes and of no, in lower and upper case, with and without a blank before.

    Raises:
        BenchmarkError: when the tokenizer has no token that begins only one of them.
    """
    found: list[set[int]] = []
    for word in (YES, NO):
        texts = [blank + spelled for blank in ("", " ") for spelled in (word, word.capitalize(), word.upper())]
        firsts = (tokenizer.encode(text, add_special_tokens=False)[:1] for text in texts)
        found.append({token for first in firsts for token in first} - {tokenizer.unk_token_id})
    yes, no = (sorted(side - other) for side, other in (found, found[::-1]))
    if not (yes and no):
        raise BenchmarkError("the judge's tokenizer has no first token of its own for yes and for no; take another")
    return yes, no
