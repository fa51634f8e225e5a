"""A model answers questions about the pictures of a benchmark."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reca.data.fit import fit
from reca.evaluation.benchmark import Benchmark
from reca.evaluation.picture_files import Pictures, require_sources
from reca.evaluation.picture_questions import Answers, Asked
from reca.evaluation.refusals import Refusal, after_encoding, tried
from reca.models.base import Geometry


class Answering(Protocol):
    """The part of `reca.models.base.UnifiedModel` that is needed here; a torch module."""

    @property
    def geometry(self) -> Geometry:
        """What its pictures are fitted to."""
        ...

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 [B, 3, S, S], RGB, to named tensors, batch axis first."""
        ...

    def answer(self, encoded: dict[str, Tensor], questions: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        """Greedy answers to one question for each picture; `encoded` is what `encode` gave for them."""
        ...


class Examinee:
    """A model that is asked.

    Args:
        load: loads the model on the CPU.
        device: `cpu` or `cuda`.
        batch_size: questions asked at once.
        max_new_tokens: most tokens of an answer.
        suffix: added to every question.
    """

    def __init__(
        self, load: Callable[[], Answering], device: str, batch_size: int, max_new_tokens: int, suffix: str = ""
    ) -> None:
        self.model = cast("Any", load()).to(device).eval()
        self.device, self.batch_size, self.max_new_tokens, self.suffix = device, batch_size, max_new_tokens, suffix

    def see(self, asked: Sequence[Asked], pictures: Sequence[Image.Image]) -> list[Answers | Refusal]:
        """Answers to the questions about each picture.

        Args:
            asked: questions about each picture.
            pictures: RGB, of any size; they are fitted as the model's `geometry` says.

        Returns:
            One entry for each picture: its answers, or a refusal where the model refuses one of them.
        """
        geometry = self.model.geometry
        fitted = [fit(np.array(picture), geometry.size, geometry.fit) for picture in pictures]
        rows = [(row, question.text + self.suffix) for row, questions in enumerate(asked) for question in questions]
        answers: list[list[str]] = [[] for _ in asked]
        refused: dict[int, Refusal] = {}
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            pixels = torch.from_numpy(np.stack([fitted[row] for row, _ in part])).to(self.device)
            with torch.inference_mode():
                given, faults = tried(partial(self._answers, pixels, [text for _, text in part]))
            for (row, _), answer in zip(part, given, strict=True):
                answers[row].append(answer)
            refused |= {part[number][0]: Refusal(fault) for number, fault in faults.items()}
        return [refused.get(row) or tuple(texts) for row, texts in enumerate(answers)]

    def _answers(self, pixels: Tensor, questions: Sequence[str]) -> list[str]:
        return after_encoding(
            lambda: self.model.encode(pixels),
            lambda encoded: self.model.answer(encoded, questions, max_new_tokens=self.max_new_tokens),
        )


def question_pictures(bench: Benchmark[Asked, Answers], folder: str) -> Pictures:
    """The picture of each question.

    Args:
        bench: items whose `source` is a path in the folder.
        folder: path or fsspec URL.

    Raises:
        BenchmarkError: when pictures are missing.
    """
    require_sources(folder, bench.items, "give the folder of the pictures that the questions name")
    found = {(item.key, 0): f"{folder.rstrip('/')}/{item.source}" for item in bench.items}
    return Pictures(folder, found, (), ())
