"""What a model family brings to pre-training: its tiny sizes, its image tokenizer and the parts of its losses.

The loops, the data and the word labels are the same for every family; they call a `TinyFamily` and know none of them.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor, nn

from reca.models.base import Example, UnifiedModel
from reca.pretraining.config import BaseRecipe, TokenizerRecipe

TokenizerT = TypeVar("TokenizerT", bound=nn.Module)
ModelT = TypeVar("ModelT", bound=UnifiedModel)

ROOMS = ("showo", "janus", "harmon", "openuni", "bagel")
"""Families with a tiny base; each is a module of this package with a `FAMILY`."""


def tiny_family(name: str) -> "TinyFamily[Any, Any]":
    """Import what a family brings.

    Raises:
        ValueError: the family has no tiny base.
    """
    if name not in ROOMS:
        raise ValueError(f"family={name!r} has no tiny base; families that have one: {', '.join(ROOMS)}")
    return importlib.import_module(f"reca.pretraining.{name}").FAMILY


@dataclass(frozen=True)
class Redrawn:
    """What one update of the image tokenizer needs.

    Attributes:
        pictures: float [B, 3, S, S], the tokenizer's output for its input.
        penalties: scalars that join the pixel error, already weighted, in this order.
        codes: int64, the codes of the batch, in any shape; None where latents are continuous.
    """

    pictures: Tensor
    penalties: tuple[Tensor, ...]
    codes: Tensor | None


@dataclass(frozen=True)
class Understood:
    """One batch of questions.

    Attributes:
        loss: scalar, mean cross entropy of the answers, and what a family adds about the same pictures.
        projected: float [B, C, D], the pictures' understanding tokens as the language model reads them.
    """

    loss: Tensor
    projected: Tensor


class TinyFamily(ABC, Generic[TokenizerT, ModelT]):
    """One family's part of pre-training. Stateless: the networks are arguments."""

    about: str
    """One sentence for the model card: the architecture at toy size and its parts."""

    # Image tokenizer

    @abstractmethod
    def new_tokenizer(self) -> TokenizerT:
        """An untrained image tokenizer; its weights depend on torch's global seed."""

    @abstractmethod
    def redraw(self, tokenizer: TokenizerT, pixels: Tensor, update: int, recipe: TokenizerRecipe) -> Redrawn:
        """Encode, quantise with gradient, decode; called under autocast.

        Args:
            tokenizer: the tokenizer in training.
            pixels: float [B, 3, S, S] in [-1, 1].
            update: number of updates done.
            recipe: its recipe.
        """

    def before_update(
        self, tokenizer: TokenizerT, update: int, recipe: TokenizerRecipe, pixels: Callable[[int], Tensor]
    ) -> None:
        """Change weights by rule rather than by gradient; most families need nothing of the kind.

        Args:
            tokenizer: the tokenizer in training.
            update: number of updates done.
            recipe: its recipe.
            pixels: gives that many training scenes, float [count, 3, S, S], the same at every call of one update.
        """

    @abstractmethod
    def redrawn(self, tokenizer: TokenizerT, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """What a trained tokenizer makes of pixels float [B, 3, S, S] in [-1, 1].

        Returns:
            Pictures float [B, 3, S, S], about [-1, 1], and their codes int64 [B, N]; None where latents are continuous.
        """

    # Base

    @abstractmethod
    def build(self, tokenizer: TokenizerT, seed: int) -> ModelT:
        """An untrained tiny model around a trained image tokenizer: the class of the released sizes."""

    @abstractmethod
    def targets(self, model: ModelT, pixels: Tensor) -> dict[str, Tensor]:
        """What `collate` needs of pixels float [B, 3, S, S] in [-1, 1] to have them drawn, as `encode` names it."""

    @abstractmethod
    def learns(self, model: ModelT) -> Sequence[nn.Module]:
        """Modules that are frozen in RecA and trained here: the vision tower, the whole understanding side."""

    @abstractmethod
    def blanks(self, model: ModelT) -> Mapping[str, np.ndarray]:
        """Zeros in place of what `encode` gives for understanding, one picture's, float32, by name."""

    @abstractmethod
    def features(self, model: ModelT, pixels: Tensor) -> Tensor:
        """Understanding features, with gradient, of pixels float [B, 3, S, S] in [-1, 1]: float [B, C, E], or in the
        shape that `encode` gives them."""

    @abstractmethod
    def projected(self, model: ModelT, features: Tensor) -> Tensor:
        """What `features` gives, as the language model reads it: float [B, C, D]."""

    def answer_loss(self, model: ModelT, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean cross entropy of a batch of questions that has its features; families that train it in RecA have it."""
        return model.loss("image_to_text", batch, {}).mean

    def asked(self, model: ModelT, examples: Sequence[Example], features: Tensor) -> Understood:
        """Answer one batch of questions.

        Args:
            model: the model in training.
            examples: questions and answers, with `blanks` for their pictures.
            features: of their pictures, float [B, C, E], with gradient.
        """
        batch = {**model.collate("image_to_text", examples), "features": features}
        return Understood(self.answer_loss(model, batch), self.projected(model, features))

    @abstractmethod
    def word_embeddings(self, model: ModelT, words: Sequence[str]) -> Tensor:
        """Input embeddings of words that are one token each, float [number of words, D], with gradient."""

    def drawing_loss(self, model: ModelT, batch: Mapping[str, Tensor], draws: Mapping[str, Tensor]) -> Tensor:
        """Loss of a text-to-image batch and its draws, as `UnifiedModel.loss` takes them: the mean of the model's own,
        a scalar."""
        return model.loss("text_to_image", batch, draws).mean

    @abstractmethod
    def spelled_loss(
        self, model: ModelT, examples: Sequence[Example], slots: Sequence[Sequence[str]], seeds: Sequence[int]
    ) -> Tensor:
        """Text-to-image in the layout of a reconstruction: caption words stand where understanding tokens will stand.

        Teaches drawing to read that place as it reads a caption, and no more than sparse captions tell. Published
        models bring this with them: their understanding tokens have been read next to text for millions of steps.

        Args:
            model: the model in training.
            examples: pictures with a template sentence each.
            slots: C words for each picture.
            seeds: one per example.

        Returns:
            Scalar: mean loss over what the family predicts of the pictures.
        """

    def further(self, model: ModelT, recipe: BaseRecipe, update: int) -> dict[str, Tensor]:
        """More terms of the loss, scalars by name, already weighted.

        Args:
            model: the model in training.
            recipe: its recipe.
            update: number of updates done; with the weights it decides everything.
        """
        del model, recipe, update
        return {}

    def finish(self, model: ModelT) -> None:
        """Take away what only pre-training needs."""
        del model
