"""From examples to batches of ids, on the CPU. The batches are described in `reca.models.harmon.model`."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from reca.models.base import Example, Task, stacked
from reca.models.harmon.config import HarmonConfig
from reca.models.harmon.text import DRAW, DRAW_ANY, END, PAD, START, prompt
from reca.models.losses import IGNORED
from reca.models.words import answer_text, questions_and_answers, text_ids


class Collator:
    """Tokenizes and stacks. `names` in its methods say what to call each text in an error message."""

    def __init__(self, config: HarmonConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.end, self.pad = (int(tokenizer.get_vocab()[token]) for token in (END, PAD))
        self.header = self.ids([f"{START}user\n"], ["header"])[0]

    def batch(self, task: Task, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Batch of one task, as `reca.models.harmon.model` describes it.

        Raises:
            ValueError: naming the sample, when its text does not fit or is not what the task needs.
        """
        names = [f"sample {example.key!r}" for example in examples]
        texts = [example.text for example in examples]
        latents = stacked(examples, ["latents"])["latents"].float()
        if task == "image_to_text":
            return {"latents": latents, **self.instructions(texts, names)}
        rows = self.captions(texts, names) if task == "text_to_image" else self.templates(texts, names)
        plain = self.plain() * len(rows)
        ids, mask = padded([*rows, *plain], self.end)
        (ids, plain_ids), (mask, plain_mask) = ids.chunk(2), mask.chunk(2)
        return {"latents": latents, "ids": ids, "mask": mask, "plain_ids": plain_ids, "plain_mask": plain_mask}

    def captions(self, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
        """Text-to-image prompts in training; what exceeds `max_text` ids is cut off, as published.

        Raises:
            ValueError: what is left of a prompt exceeds the context.
        """
        rows = [row[: self.config.max_text] for row in self._requests(texts, names)]
        self._check(rows, names, blocks=1)
        return rows

    def requests(self, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
        """Text-to-image prompts when drawing.

        Raises:
            ValueError: a prompt exceeds the context.
        """
        rows = self._requests(texts, names)
        self._check(rows, names, blocks=1)
        return rows

    def _requests(self, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
        return self.ids([prompt(DRAW.format(text.strip())) for text in texts], names)

    def templates(self, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
        """Prompts of a reconstruction in training: a newline between picture and text, which fuses with the header's.

        Raises:
            ValueError: a prompt is longer than `max_text` ids, or exceeds the context.
        """
        rows = self.ids([prompt(f"\n{text}") for text in texts], names)
        for row, name in zip(rows, names, strict=True):
            if len(row) > self.config.max_text:
                raise ValueError(
                    f"{name}: the prompt has {len(row)} ids, max_text is {self.config.max_text}; shorten it"
                )
        self._check(rows, names, blocks=2)
        return rows

    def plain(self) -> list[list[int]]:
        """One row: the drawing prompt without text."""
        return self.ids([prompt(DRAW_ANY)], ["prompt without text"])

    def reconstructions(self, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
        """Prompts of a reconstruction when drawing: the text follows the picture at once, as published.

        Raises:
            ValueError: a prompt exceeds the context.
        """
        rows = self._after_picture(texts, names)
        self._check(rows, names, blocks=2)
        return rows

    def questions(self, texts: Sequence[str], names: Sequence[str], new_tokens: int = 0) -> list[list[int]]:
        """Open conversations about a picture, which comes after the header, with room for `new_tokens` ids of answer.

        Raises:
            ValueError: a question and its answer exceed the context.
        """
        rows = self._after_picture([f"\n{text}" for text in texts], names)
        self._check(rows, names, blocks=1, new_tokens=new_tokens)
        return rows

    def instructions(self, texts: Sequence[str], names: Sequence[str]) -> dict[str, Tensor]:
        """Training conversations of texts that are question, newline, answer; answer and end mark are labelled, the
        newline after it is not.

        Returns:
            `ids` int64, `mask` bool and `labels` int64, [B, P] each.

        Raises:
            ValueError: a text has no newline, or the conversation exceeds the context.
        """
        asked, answered = questions_and_answers(texts, names)
        questions = self.questions(asked, names)
        answers = self.ids([f"{answer}{END}" for answer in answered], names)
        newline = self.ids(["\n"], ["newline"])[0]
        rows = [[*question, *answer, *newline] for question, answer in zip(questions, answers, strict=True)]
        self._check(rows, names, blocks=1)
        ids, mask = padded(rows, self.end)
        labels = torch.full_like(ids, IGNORED)
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            labels[number, len(question) : len(question) + len(answer)] = torch.tensor(answer)
        return {"ids": ids, "mask": mask, "labels": labels}

    def answer(self, ids: Sequence[int]) -> str:
        """Text of decoded ids up to the end mark; ids that are no text are left out."""
        return answer_text(self.tokenizer, ids, self.end)

    def _after_picture(self, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
        ends = self.ids([f"{text}{END}\n{START}assistant\n" for text in texts], names)
        return [[*self.header, *row] for row in ends]

    def ids(self, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
        """Ids of each text.

        Raises:
            ValueError: a text has a word that the tokenizer does not know.
        """
        return text_ids(self.tokenizer, texts, names)

    def _check(self, rows: Sequence[Sequence[int]], names: Sequence[str], blocks: int, new_tokens: int = 0) -> None:
        room = self.config.llm.max_position_embeddings - blocks * self.config.block
        for row, name in zip(rows, names, strict=True):
            if len(row) > room:
                raise ValueError(f"{name}: the text has {len(row)} ids but the context holds {room}; shorten it")
            if len(row) + new_tokens > room:
                raise ValueError(
                    f"{name}: the text has {len(row)} ids and its answer up to {new_tokens}, but the context holds "
                    f"{room}; shorten the text or ask for fewer"
                )


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Rows padded on the right to the longest, int64 [B, P], and where they are real, bool [B, P]."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], dtype=torch.long)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(width) < lengths[:, None]
