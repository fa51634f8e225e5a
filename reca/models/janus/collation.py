"""From examples to left-padded batches of ids, on the CPU. The batches are described in `reca.models.janus.model`.

Text forms, after the published processor and chat template (BOS before each, `IMG` = `<begin_of_image>`, one place per
understanding feature, `<end_of_image>`):

- caption: `<|User|>: CAPTION\\n\\n<|Assistant|>:<begin_of_image>`, then the codes.
- reconstruction (ours: image, then text, then the picture): `<|User|>: IMG\\nTEMPLATE\\n\\n<|Assistant|>:
  <begin_of_image>` without the blank, then the codes. It is the published question form without its system prompt,
  with the end of the caption form.
- question: system prompt, `<|User|>: IMG\\nQUESTION\\n\\n<|Assistant|>:`, then ` ANSWER` and the end mark.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.models.janus.processing_janus import DEFAULT_SYSTEM_PROMPT

from reca.models.base import Example, Task, stacked
from reca.models.janus.config import Sizes
from reca.models.janus.tokenizer import IMAGE_MARKS, Marks
from reca.models.losses import IGNORED
from reca.models.words import answer_text, numbered, questions_and_answers, text_ids

PICTURE = "".join(IMAGE_MARKS[name] for name in ("boi_token", "image_token", "eoi_token"))
CAPTION = "<|User|>: {}\n\n<|Assistant|>:" + IMAGE_MARKS["boi_token"]
RECONSTRUCTION = "<|User|>: " + PICTURE + "\n{}\n\n<|Assistant|>:" + IMAGE_MARKS["boi_token"]
QUESTION = "<|User|>: " + PICTURE + "\n{}\n\n<|Assistant|>:"
ANSWER = " {}"


class Collator:
    """Tokenizes, pads and stacks. `names` in its methods say what to call each text in an error message.

    Args:
        tokenizer: the checkpoint's tokenizer.
        marks: its special ids.
        sizes: sizes of the model.
        system_prompt: put the published system prompt before questions.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, marks: Marks, sizes: Sizes, *, system_prompt: bool) -> None:
        self.tokenizer = tokenizer
        self.marks = marks
        self.sizes = sizes
        self.question = (DEFAULT_SYSTEM_PROMPT if system_prompt else "") + QUESTION

    def batch(self, task: Task, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Batch of one task, as `reca.models.janus.model` describes it.

        Raises:
            ValueError: naming the sample, when its text does not fit or is not what the task needs.
        """
        names = [f"sample {example.key!r}" for example in examples]
        texts = [example.text for example in examples]
        encoded = stacked(examples)
        if task == "image_to_text":
            return {"features": encoded["features"].float(), **self.instructions(texts, names)}
        codes = {"codes": encoded["codes"].long()}
        if task == "text_to_image":
            return {**codes, **self.captions(texts, names)}
        return {**codes, "features": encoded["features"].float(), **self.templates(texts, names)}

    def captions(self, texts: Sequence[str], names: Sequence[str]) -> dict[str, Tensor]:
        """`ids` int64 and `mask` bool [B, T] of captions.

        Raises:
            ValueError: a text does not fit, has an unknown word, or holds a special token.
        """
        return self._padded(self._ids(CAPTION, texts, names), self.sizes.codes, names)

    def templates(self, texts: Sequence[str], names: Sequence[str]) -> dict[str, Tensor]:
        """`ids` int64 and `mask` bool [B, T] of template prompts, with places for the features of the image.

        Raises:
            ValueError: a text does not fit, or holds a special token.
        """
        return self._padded(self._ids(RECONSTRUCTION, texts, names), self.sizes.codes, names)

    def questions(self, questions: Sequence[str], new_tokens: int) -> dict[str, Tensor]:
        """`ids` int64 and `mask` bool [B, T] of open questions, with room for an answer of `new_tokens` ids.

        Raises:
            ValueError: a question does not fit, or holds a special token.
        """
        names = numbered("question", questions)
        return self._padded(self._ids(self.question, questions, names), new_tokens, names)

    def instructions(self, texts: Sequence[str], names: Sequence[str]) -> dict[str, Tensor]:
        """`ids` int64, `mask` bool and `labels` int64, [B, T] each, of texts that are question, newline, answer; only
        answer and end are labelled.

        Raises:
            ValueError: a text has no newline, does not fit, or holds a special token.
        """
        asked, answered = questions_and_answers(texts, names)
        questions = self._ids(self.question, asked, names)
        answers = [[*row, self.marks.end] for row in self._text(ANSWER, answered, names)]
        rows = [question + answer for question, answer in zip(questions, answers, strict=True)]
        batch = self._padded(rows, 0, names)
        width = batch["ids"].shape[1]
        labels = [[IGNORED] * (width - len(answer)) + answer for answer in answers]
        return {**batch, "labels": torch.tensor(labels, dtype=torch.long)}

    def answer(self, ids: Sequence[int]) -> str:
        """Text of decoded ids up to the end mark."""
        return answer_text(self.tokenizer, ids, self.marks.end)

    def _text(self, form: str, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
        for text, name in zip(texts, names, strict=True):
            found = [token for token in self.tokenizer.all_special_tokens if token in text]
            if found:
                raise ValueError(f"{name}: the text holds the special token {found[0]!r}; remove it from {text!r}")
        return text_ids(self.tokenizer, [form.format(text.strip()) for text in texts], names)

    def _ids(self, form: str, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
        """Ids with the start mark, and as many image places as there are features."""
        places = [self.marks.image] * self.sizes.features
        rows = self._text(form, texts, names)
        return [
            [self.marks.start, *(part for word in row for part in (places if word == self.marks.image else [word]))]
            for row in rows
        ]

    def _padded(self, rows: Sequence[Sequence[int]], room: int, names: Sequence[str]) -> dict[str, Tensor]:
        for row, name in zip(rows, names, strict=True):
            if len(row) + room > self.sizes.context:
                raise ValueError(
                    f"{name}: the prompt fills {len(row)} ids and {room} follow, but the context holds "
                    f"{self.sizes.context}; shorten the text"
                )
        width = max(len(row) for row in rows)
        ids = [[self.marks.pad] * (width - len(row)) + list(row) for row in rows]
        mask = [[False] * (width - len(row)) + [True] * len(row) for row in rows]
        return {"ids": torch.tensor(ids, dtype=torch.long), "mask": torch.tensor(mask)}
