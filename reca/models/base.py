"""The interface every unified multimodal model (UMM) family implements.

A model is a plain `nn.Module`. Randomness is data: `draw` makes every random choice of a step from one seed per
example, and `loss` is then a pure function of weights, batch and draws. That gives parity tests against the authors'
code, exact resume, and results that do not depend on how examples are spread over workers.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from reca.config import SamplingConfig

Task = Literal["reconstruction", "text_to_image", "image_to_text"]
"""Reconstruction: draw the image again from its own understanding embeddings and a template prompt (RecA).
Text-to-image: draw it from a caption. Image-to-text: answer a question about it."""

DRAWING: tuple[Task, ...] = ("reconstruction", "text_to_image")
"""Tasks whose loss is about a picture that is drawn."""

Batch = Mapping[str, Tensor]
"""Named tensors, batch axis first. Each family documents its names and shapes in `collate`."""

Draws = Mapping[str, Tensor]
"""Named random choices of one step, batch axis first (those of `draw_shared` have none). Each family documents them in
`draw`."""


@dataclass(frozen=True)
class Example:
    """One training example, still on the CPU.

    Attributes:
        key: the sample's key in the shards, used in error messages and batch records.
        text: template prompt (reconstruction), caption (text-to-image), or question + newline + answer (image-to-text).
        encoded: tensors of `UnifiedModel.encode` for this image, without the batch axis.
    """

    key: str
    text: str
    encoded: Mapping[str, np.ndarray]


def stacked(examples: Sequence[Example], names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Encoded tensors of examples by name, batch axis first, in the data types that `encode` gave.

    Args:
        examples: at least one; their tensors of one name have the same shape.
        names: which; None for all that the first example has.
    """
    wanted = examples[0].encoded if names is None else names
    return {name: torch.from_numpy(np.stack([example.encoded[name] for example in examples])) for name in wanted}


@dataclass(frozen=True)
class LossTerm:
    """A loss as sum and count, so that means over several workers can be formed exactly.

    Attributes:
        total: scalar float32, loss summed over the counted positions.
        count: scalar float32, number of counted positions.
    """

    total: Tensor
    count: Tensor

    @property
    def mean(self) -> Tensor:
        """Scalar float32: `total / max(count, 1)`, the loss as the papers state it."""
        return self.total / self.count.clamp(min=1)


@dataclass(frozen=True)
class Geometry:
    """What a family wants its images fitted to.

    Attributes:
        size: side in pixels of the square image given to `encode`.
        fit: `squash` (aspect ratio not kept) or `crop` (centre crop of the short side).
    """

    size: int
    fit: Literal["squash", "crop"]


class UnifiedModel(nn.Module, ABC):
    """One network that both understands and draws images."""

    family: ClassVar[str]

    stored: Mapping[str, torch.dtype] = MappingProxyType({})
    """Type of each tensor in the files that `load` read, by published name."""

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """Geometry of the images given to `encode`."""

    @property
    def understanding_frozen(self) -> bool:
        """Whether RecA trains the generation side only (decoupled families): then image-to-text trains nothing."""
        return False

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Tasks that train the model."""
        return DRAWING if self.understanding_frozen else get_args(Task)

    @abstractmethod
    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Run the frozen encoders (image tokenizer or VAE; the understanding tower where it is frozen).

        Args:
            pixels: uint8 [B, 3, S, S], RGB, fitted to `geometry`.

        Returns:
            Named tensors, batch axis first, on the device of the model: everything later steps need of the image. They
            are cached and shared by all epochs.

        Raises:
            ValueError: the pictures have another size.
            NonFiniteOutputError: naming the rows whose latents or features are not finite (codes of such latents would
                be codes like any others).
        """

    @abstractmethod
    def collate(self, task: Task, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Tokenize and stack examples of one task into a batch on the CPU.

        Args:
            task: what the batch is for.
            examples: at least one.

        Returns:
            Named tensors, batch axis first; each family says which at the top of its module.

        Raises:
            ValueError: naming the sample's key, when a text does not fit the model's context, has a word that the
                tokenizer does not know, or is not what the task needs.
        """

    @abstractmethod
    def draw(self, task: Task, batch: Batch, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Make every random choice of one step from one 63-bit seed per example, whatever else is in the batch.

        Args:
            task: what the batch is for.
            batch: of `collate`; its shapes are used.
            seeds: one for each example.

        Returns:
            Named tensors on the CPU, batch axis first; each family says which at the top of its module.
        """

    def draw_shared(self, task: Task, seed: int) -> dict[str, Tensor]:
        """Random choices that hold for the whole global batch, from one 63-bit seed of the update.

        Every worker has the same seed, however the batch is split. `loss` takes them among its draws.

        Returns:
            Named tensors on the CPU without a batch axis; none by default.
        """
        del task, seed
        return {}

    @abstractmethod
    def loss(self, task: Task, batch: Batch, draws: Draws) -> LossTerm:
        """Pure loss of one task: same weights, batch and draws give the same value.

        Args:
            task: what the batch is for.
            batch: of `collate`, on the device of the model.
            draws: of `draw` and `draw_shared`, on the device of the model.
        """

    def count(self, task: Task, batch: Batch, draws: Draws) -> Tensor | None:
        """The count of `loss`, scalar float32, where batch and draws tell it without the network; else None.

        An update of several micro-batches needs it before its first backward pass. None costs one forward pass more.
        """
        del task, batch, draws

    def forward(self, work: Mapping[Task, tuple[Batch, Draws]]) -> dict[Task, LossTerm]:
        """Losses of several tasks in one forward pass (what a distributed wrapper needs)."""
        return {task: self.loss(task, batch, draws) for task, (batch, draws) in work.items()}

    @abstractmethod
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        """Draw one image per prompt. Each depends on its own prompt and seed only.

        Args:
            prompts: captions.
            seeds: 63 bits, one for each image.
            sampling: sampler settings.

        Returns:
            uint8 [B, 3, S, S], RGB, of the side that `geometry` says, on the device of the model.

        Raises:
            ValueError: naming the prompt, when it does not fit the model's context or has an unknown word.
            NonFiniteOutputError: naming the rows whose numbers are not finite (see `reca.models.finite`).
        """

    @abstractmethod
    def reconstruct(
        self, encoded: Mapping[str, Tensor], prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        """Draw images again from their understanding embeddings and a template prompt each.

        Args:
            encoded: what `encode` gave for B images, on any device.
            prompts: template prompts, one for each image.
            seeds: 63 bits, one for each image.
            sampling: sampler settings.

        Returns:
            As of `generate`.

        Raises:
            ValueError: as in `generate`.
            NonFiniteOutputError: as in `generate`.
        """

    @abstractmethod
    def answer(self, encoded: Mapping[str, Tensor], questions: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        """Greedy answers to one question per image, without the end mark.

        Args:
            encoded: what `encode` gave for B images, on any device.
            questions: one for each image.
            max_new_tokens: ids of an answer at most, its end mark included.

        Raises:
            ValueError: naming the question, when it does not fit the model's context or has an unknown word.
            NonFiniteOutputError: naming the rows with logits that are not finite before their answer ended.
        """

    @abstractmethod
    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that RecA trains, by published name; all others are frozen."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        """Read a checkpoint in the published layout, tensor by tensor, straight to a device.

        Args:
            folder: local folder; `reca.models.sources.local_checkpoint` gets one from a URL or a hub id.
            device: where the model is held.
            dtype: type in which its parameters are held. float32 is what training needs. With another one call the
                model under `torch.autocast`: pictures and noise stay float32.

        Raises:
            CheckpointError: naming file and key, on missing, extra or misshaped keys, or values that are not finite, or
                naming the family that the folder belongs to.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write a checkpoint in the published layout (safetensors), frozen parts included. Each tensor has the type it
        was stored in, if that keeps its very value, else the type in which it is held: what was not trained comes out
        bit for bit.

        Args:
            folder: local folder; made where it is missing.
        """


class Editor(ABC):
    """What a family can do besides if it edits pictures: its class is an `Editor` too (`isinstance`, `issubclass`)."""

    @abstractmethod
    def edit(
        self, pixels: Tensor, instructions: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        """Draw pictures changed as told. Each depends on its own source, instruction and seed only.

        Args:
            pixels: uint8 [B, 3, H, W], RGB, of any one size; the family fits them by its own rule.
            instructions: one for each picture.
            seeds: 63 bits, one for each picture.
            sampling: sampler settings.

        Returns:
            uint8 [B, 3, H', W'].

        Raises:
            ValueError: naming the instruction, when it does not fit the model's context.
            NonFiniteOutputError: as in `UnifiedModel.generate`.
        """
