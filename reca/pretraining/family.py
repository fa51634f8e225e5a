"""What a model family brings to pre-training: its tiny sizes, its image tokenizer and the parts of its losses.

The loops, the data and the word labels are the same for every family; they call a `TinyFamily` and know none of them.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from reca.models.base import Example, UnifiedModel
from reca.pretraining.config import TokenizerRecipe

TokenizerT = TypeVar("TokenizerT", bound=nn.Module)
ModelT = TypeVar("ModelT", bound=UnifiedModel)

ROOMS = ("showo", "janus")
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
        codes: int64, the codes of the batch, in any shape.
    """

    pictures: Tensor
    penalties: tuple[Tensor, ...]
    codes: Tensor


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
        """Encode, quantise with gradient, decode: pixels float [B, 3, S, S] in [-1, 1], under autocast."""

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
    def codes(self, tokenizer: TokenizerT, pixels: Tensor) -> Tensor:
        """Codes int64 [B, N] of pixels float [B, 3, S, S] in [-1, 1]."""

    @abstractmethod
    def pictures(self, tokenizer: TokenizerT, codes: Tensor) -> Tensor:
        """Pictures float [B, 3, S, S], about [-1, 1], of codes int64 [B, N]."""

    # Base

    @abstractmethod
    def build(self, tokenizer: TokenizerT, seed: int) -> ModelT:
        """An untrained tiny model around a trained image tokenizer: the class of the released sizes."""

    @abstractmethod
    def image_codes(self, model: ModelT, pixels: Tensor) -> Tensor:
        """Codes int64 [B, N] of pixels float [B, 3, S, S] in [-1, 1], by the model's own tokenizer."""

    @abstractmethod
    def tower(self, model: ModelT) -> nn.Module:
        """The vision tower: frozen in RecA, trained here."""

    @abstractmethod
    def feature_shape(self, model: ModelT) -> tuple[int, int]:
        """(C, E): understanding features of a picture and their width."""

    @abstractmethod
    def features(self, model: ModelT, pixels: Tensor) -> Tensor:
        """Understanding features float [B, C, E], with gradient, of pixels float [B, 3, S, S] in [-1, 1]."""

    @abstractmethod
    def projected(self, model: ModelT, features: Tensor) -> Tensor:
        """Features as the language model reads them, float [B, C, D]."""

    @abstractmethod
    def word_embeddings(self, model: ModelT, words: Sequence[str]) -> Tensor:
        """Input embeddings float [number of words, D]."""

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
