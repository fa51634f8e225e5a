"""From examples to batches of ids, on the CPU. The batches are described in `reca.models.showo.model`."""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from reca.models.base import Example, Task, stacked
from reca.models.losses import IGNORED
from reca.models.showo import sequences
from reca.models.showo.config import ShowoConfig
from reca.models.words import numbered, questions_and_answers, text_ids

CONVERSATION = "USER: \n {} ASSISTANT:"
"""Form of a template prompt and of a question, as in the released training code."""


class CutPrompt(UserWarning):
    """A prompt is longer than what the model reads of it."""


class Collator:
    """Tokenizes and stacks. `names` in its methods say what to call each text in an error message."""

    def __init__(self, config: ShowoConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        self.config = config
        self.vocabulary = config.vocabulary
        self.tokenizer = tokenizer
        self.system = text_ids(tokenizer, [config.system_prompt], ["ShowoConfig.system_prompt"])[0]
        self.warned = False

    def batch(self, task: Task, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Batch of one task, as `reca.models.showo.model` describes it.

        Raises:
            ValueError: naming the sample, when its text does not fit or is not what the task needs.
        """
        names = [f"sample {example.key!r}" for example in examples]
        texts = [example.text for example in examples]
        encoded = stacked(examples)
        if task == "image_to_text":
            return self.instructions(self.understanding_features(encoded), texts, names)
        codes = {"codes": encoded["codes"].long()}
        if task == "text_to_image":
            return {**codes, "prefix": self.captions(texts, names)}
        return {**codes, **self.condition(encoded), "prefix": self.templates(texts, names)}

    def captions(self, texts: Sequence[str], names: Sequence[str]) -> Tensor:
        """Caption blocks int64 [B, M + 1]; a caption that is too long is cut, as published."""
        return sequences.caption_block(text_ids(self.tokenizer, texts, names), self.vocabulary, self.config.max_text)

    def requests(self, texts: Sequence[str], names: Sequence[str]) -> Tensor:
        """Caption blocks int64 [B, M + 1] of what is to be drawn. The release cuts these too (some prompts of DPG-Bench
        are too long for it), so they are not refused; the first one that is cut gives a `CutPrompt` warning.
        """
        rows, room = text_ids(self.tokenizer, texts, names), self.config.max_text - 2
        cut = [(name, len(row)) for name, row in zip(names, rows, strict=True) if len(row) > room]
        if cut and not self.warned:
            self.warned = True
            name, size = cut[0]
            message = (
                f"{name}: the prompt has {size} ids but only the first {room} are read, as published "
                f"(max_text={self.config.max_text}); shorten it. Said once, for {len(cut)} of {len(rows)} prompts here"
            )
            warnings.warn(message, CutPrompt, stacklevel=2)
        return sequences.caption_block(rows, self.vocabulary, self.config.max_text)

    def templates(self, texts: Sequence[str], names: Sequence[str]) -> Tensor:
        """Template prompts int64 [B, P], or [B, M + 3] for the VQ condition.

        Raises:
            ValueError: a prompt does not fit.
        """
        ids = text_ids(self.tokenizer, [CONVERSATION.format(text) for text in texts], names)
        if self.config.condition == "vq":
            return sequences.template_block(ids, self.vocabulary, self.config.max_text, names)
        return sequences.template_prefix(ids, self.vocabulary, self.config.prefix_length, names)

    def condition(self, encoded: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a reconstruction sees of the image, of what `encode` gave: `features` float32 [B, C, D], or
        `condition_codes` int64 [B, Nc] for the VQ condition.
        """
        if self.config.condition == "vq":
            return {"condition_codes": encoded["condition_codes"].long()}
        return {"features": encoded["features"].float()}

    def understanding_features(self, encoded: Mapping[str, Tensor]) -> Tensor:
        """What a question sees of the image, float32 [B, C, D], of what `encode` gave."""
        return encoded["understanding_features" if "understanding_features" in encoded else "features"].float()

    def instructions(self, features: Tensor, texts: Sequence[str], names: Sequence[str]) -> dict[str, Tensor]:
        """Training conversations of texts that are question, newline, answer; only answer and end mark are labelled.

        Args:
            features: float32 [B, C, D].
            texts: the conversations.
            names: what to call each in an error message.

        Returns:
            The batch of image_to_text that `reca.models.showo.model` describes.

        Raises:
            ValueError: a text has no newline, or the conversation exceeds the context.
        """
        questions, answers = questions_and_answers(texts, names)
        rows = text_ids(self.tokenizer, [f" {answer}" for answer in answers], names)
        closed = [[*row, self.vocabulary.end_of_text] for row in rows]
        return self._conversations(features, self._questions(questions, names), closed, names)

    def questions(
        self, encoded: Mapping[str, Tensor], questions: Sequence[str], new_tokens: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Open conversations, as `instructions` gives them but without a label, and their valid lengths in the whole
        sequence, int64 [B].

        Args:
            encoded: what `encode` gave for B images.
            questions: one for each image.
            new_tokens: ids of the answer, for which the context must have room.

        Raises:
            ValueError: a question exceeds the context or has an unknown word.
        """
        names, features = numbered("question", questions), self.understanding_features(encoded)
        ids = self._questions(questions, names)
        batch = self._conversations(features, ids, [[] for _ in ids], names, new_tokens)
        before = 3 + len(self.system) + features.shape[1]
        return batch, torch.tensor([before + len(row) for row in ids])

    def answer(self, ids: Sequence[int]) -> str:
        """Text of decoded ids up to the end mark; ids that are no text are left out."""
        end = self.vocabulary.end_of_text
        words = ids[: ids.index(end)] if end in ids else ids
        return str(self.tokenizer.decode([word for word in words if word < self.vocabulary.text_size])).strip()

    def _questions(self, questions: Sequence[str], names: Sequence[str]) -> list[list[int]]:
        return text_ids(self.tokenizer, [CONVERSATION.format(question) for question in questions], names)

    def _conversations(
        self,
        features: Tensor,
        questions: list[list[int]],
        answers: list[list[int]],
        names: Sequence[str],
        new_tokens: int = 0,
    ) -> dict[str, Tensor]:
        sizes = [len(question) + len(answer) for question, answer in zip(questions, answers, strict=True)]
        room = self.config.phi.max_positions - 3 - len(self.system) - features.shape[1]
        text: list[list[int]] = []
        labels: list[list[int]] = []
        for question, ending, size, name in zip(questions, answers, sizes, names, strict=True):
            if size + new_tokens > room:
                answer = f" and its answer up to {new_tokens}," if new_tokens else ""
                raise ValueError(
                    f"{name}: the conversation has {size} ids{answer} but the context holds {room}; shorten it"
                )
            gap = max(sizes) - size
            text.append([*question, *ending, *[self.vocabulary.pad] * gap])
            labels.append([*[IGNORED] * len(question), *ending, *[IGNORED] * gap])
        return {
            "features": features,
            "system": torch.tensor(self.system, dtype=torch.long).expand(len(text), -1),
            "text": torch.tensor(text, dtype=torch.long),
            "labels": torch.tensor(labels, dtype=torch.long),
        }
