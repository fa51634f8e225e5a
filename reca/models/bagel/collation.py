"""From examples to batches on the CPU, and from batches to packed layouts.

Batches, batch axis first; pictures of different sizes are filled up with zeros at the right and the bottom, which costs
memory of the batch only: packing leaves the filling out.

- all tasks: `text` int64 [B, T] (caption, template prompt or question, filled up with zeros), `text_length` int64 [B].
- reconstruction and image_to_text: `features` float32 [B, R, C, D], `feature_grid` int64 [B, 2] (rows, columns).
- reconstruction and text_to_image: `latent_mean`, `latent_std` float32 [B, Z, H, W], `latent_grid` int64 [B, 2] in
  latent tokens.
- image_to_text: `answer` int64 [B, A], `answer_length` int64 [B].
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from reca.models.bagel.config import BagelConfig
from reca.models.bagel.packing import Layout, Marks, Picture, Split, Text, pack
from reca.models.base import Batch, Example, Task
from reca.models.words import answer_text, numbered, questions_and_answers, text_ids


class Collator:
    """Tokenizes, stacks and packs.

    Args:
        config: sizes.
        tokenizer: the checkpoint's tokenizer.
        marks: ids of its special tokens.
    """

    def __init__(self, config: BagelConfig, tokenizer: PreTrainedTokenizerFast, marks: Marks) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.marks = marks

    def batch(self, task: Task, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Batch of one task (see the top of the module).

        Raises:
            ValueError: naming the sample, when it does not fit the context or its text is not what the task needs.
        """
        names = [f"sample {example.key!r}" for example in examples]
        texts = [example.text for example in examples]
        batch: dict[str, Tensor] = {}
        if task != "text_to_image":
            batch |= _stack("feature", ["features"], examples, 1)
        if task != "image_to_text":
            batch |= _stack("latent", ["latent_mean", "latent_std"], examples, self.config.latent_patch_size)
        answers: list[list[int]] = [[] for _ in names]
        if task == "image_to_text":
            texts, answered = questions_and_answers(texts, names)
            answers = text_ids(self.tokenizer, answered, names)
            batch |= _rows("answer", answers)
        ids = text_ids(self.tokenizer, texts, names)
        grids = [batch[name] for name in ("feature_grid", "latent_grid") if name in batch]
        pictures = [sum(int(grid[row].prod()) + 2 for grid in grids) for row in range(len(ids))]
        for name, text, answer, tokens in zip(names, ids, answers, pictures, strict=True):
            self.check(name, len(text) + 2 + (len(answer) + 2 if task == "image_to_text" else 0), tokens)
        return {**batch, **_rows("text", ids)}

    def prompts(self, texts: Sequence[str], pictures: int, what: str = "prompt") -> list[list[int]]:
        """Ids of prompts, without marks.

        Args:
            texts: the prompts.
            pictures: tokens that share the context with each: of pictures, their marks included, and of an answer.
            what: what to call a prompt in an error message.

        Raises:
            ValueError: a prompt is too long or has an unknown word.
        """
        names = numbered(what, texts)
        rows = text_ids(self.tokenizer, texts, names)
        for name, row in zip(names, rows, strict=True):
            self.check(name, len(row) + 2, pictures)
        return rows

    def check(self, name: str, text: int, pictures: int) -> None:
        """Refuse what does not fit the context.

        Args:
            name: what to call it in the message.
            text: its text tokens, marks included.
            pictures: its other tokens, marks included.

        Raises:
            ValueError: naming the sample.
        """
        limit = self.config.language.max_position_embeddings
        if text + pictures > limit:
            raise ValueError(
                f"{name}: {text} text and {pictures} picture tokens make {text + pictures}, but the context holds "
                f"{limit} (max_position_embeddings); shorten the text"
            )

    def answer(self, ids: Sequence[int]) -> str:
        """Text of generated ids up to the end mark."""
        return answer_text(self.tokenizer, ids, self.marks.end)

    def layout(self, task: Task, batch: Batch, dropped: Sequence[bool]) -> Layout:
        """Pack a batch: [seen picture][text][noised picture], as far as the task has them, or question and answer.

        Args:
            task: the task.
            batch: of `batch`.
            dropped: whether each example loses its text, and with it the rope positions of the text.
        """
        names = ("text", "answer", "answer_length", "feature_grid", "latent_grid")
        columns: dict[str, Any] = {name: batch[name].tolist() for name in names if name in batch}
        samples: list[list[Split]] = []
        for row, length in enumerate(batch["text_length"].tolist()):
            splits: list[Split] = []
            if "feature_grid" in columns:
                splits.append(Picture("seen", *columns["feature_grid"][row]))
            if not dropped[row]:
                splits.append(Text(columns["text"][row][:length]))
            if task == "image_to_text":
                splits.append(Text(columns["answer"][row][: columns["answer_length"][row]], scored=True))
            else:
                splits.append(Picture("noised", *columns["latent_grid"][row]))
            samples.append(splits)
        return pack(samples, self.marks, self.config.seen_side, self.config.max_latent_size)


def random_draws(batch: Batch, seeds: Sequence[int], config: BagelConfig) -> dict[str, Tensor]:
    """Draws of a drawing task on the CPU, as `reca.models.bagel.model` describes them, from one generator per example.

    Args:
        batch: its `latent_mean` and `latent_grid` are used, the filling of smaller pictures gets no draws.
        seeds: 63 bits, one for each example.
        config: sizes.
    """
    shape, patch = batch["latent_mean"].shape, config.latent_patch_size
    draws = {name: torch.empty(len(seeds)) for name in ("text_drop", "timestep")}
    draws["noise"] = torch.zeros(len(seeds), shape[2] * shape[3] // patch**2, config.token_values)
    draws["posterior"] = torch.zeros(len(seeds), *shape[1:])
    for row, (seed, (rows, columns)) in enumerate(zip(seeds, batch["latent_grid"].tolist(), strict=True)):
        generator = torch.Generator().manual_seed(seed)
        draws["text_drop"][row] = torch.rand((), generator=generator)
        draws["timestep"][row] = torch.randn((), generator=generator)
        draws["noise"][row, : rows * columns] = torch.randn(rows * columns, config.token_values, generator=generator)
        size = (shape[1], rows * patch, columns * patch)
        draws["posterior"][row, :, : size[1], : size[2]] = torch.randn(size, generator=generator)
    return draws


def _rows(name: str, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    longest = max(len(row) for row in rows)
    filled = [[*row, *[0] * (longest - len(row))] for row in rows]
    lengths = torch.tensor([len(row) for row in rows])
    return {name: torch.tensor(filled, dtype=torch.long), f"{name}_length": lengths}


def _stack(kind: str, names: Sequence[str], examples: Sequence[Example], token: int) -> dict[str, Tensor]:
    """Named arrays of examples, filled up to the largest, and `<kind>_grid`. Features are [rows, columns, D], latents
    [Z, height, width]."""
    axes = (0, 1) if kind == "feature" else (1, 2)
    grids = [[example.encoded[names[0]].shape[axis] // token for axis in axes] for example in examples]
    found = {name: _filled([example.encoded[name] for example in examples], axes) for name in names}
    return {**found, f"{kind}_grid": torch.tensor(grids)}


def _filled(arrays: Sequence[NDArray[np.generic]], axes: tuple[int, int]) -> Tensor:
    if len({array.shape for array in arrays}) == 1:
        return torch.from_numpy(np.stack(arrays)).float()
    largest = [max(array.shape[axis] for array in arrays) for axis in axes]
    shape = list(arrays[0].shape)
    for axis, size in zip(axes, largest, strict=True):
        shape[axis] = size
    filled = torch.zeros(len(arrays), *shape)
    for row, array in enumerate(arrays):
        filled[row][tuple(slice(size) for size in array.shape)] = torch.from_numpy(array)
    return filled
