"""Samples laid end to end in one sequence without padding: indices, positions, labels, and who sees whom.

A sample is a list of splits. Layout and rope positions follow the published `data/dataset_base.py`, the attention rule
its `data/data_utils.py`. Sequence order is the order of the splits. The network works in *expert order* instead: all
text tokens (marks of pictures included), then all understanding tokens, then all latent tokens; the first two belong to
the understanding expert, the last to the generation expert.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Marks:
    """Ids of the special tokens.

    Attributes:
        begin: before every text, `<|im_start|>`.
        end: after every text, `<|im_end|>`.
        image_begin: before every picture, `<|vision_start|>`.
        image_end: after every picture, `<|vision_end|>`.
    """

    begin: int
    end: int
    image_begin: int
    image_end: int


@dataclass(frozen=True)
class Text:
    """A text without its marks, attended causally.

    Attributes:
        ids: token ids.
        scored: whether the loss asks for ids and end mark.
    """

    ids: Sequence[int]
    scored: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture without its marks; its tokens see each other both ways and share one rope position.

    Attributes:
        kind: `seen` (understanding tokens), `clean` (latent tokens as a condition) or `noised` (latent tokens with
            velocity loss, seen by nothing outside, taking no position of its own).
        rows: tokens from top to bottom.
        columns: tokens from left to right.
    """

    kind: Literal["seen", "clean", "noised"]
    rows: int
    columns: int


@dataclass(frozen=True)
class Dropped:
    """A picture that condition dropout removed: no token, but its rope position stays taken."""


Split = Text | Picture | Dropped

MODES = {"causal": 0, "full": 1, "noise": 2}
"""Attention modes of splits, as the published code numbers them."""


@dataclass(frozen=True)
class Layout:
    """A packed batch. Index tensors are int64 and count tokens in sequence order unless said otherwise.

    Attributes:
        lengths: tokens of each sample.
        split_lengths: tokens of each split, sample after sample.
        split_modes: mode of each split (`MODES`).
        splits_per_sample: splits of each sample.
        positions: [S] rope position of every token.
        block: [S] number of the token's picture in the batch, -1 for text.
        noised: bool [S], whether the token is in a noised split.
        text_ids: [Nt] ids of texts and marks.
        text_index: [Nt] their places.
        seen_index: [Nv] places of understanding tokens.
        seen_positions: [Nv] row * side + column, in both position tables of understanding tokens.
        seen_lengths: tokens of each seen picture.
        latent_index: [Nl] places of latent tokens.
        latent_positions: [Nl] row * side + column in the position table of latent tokens.
        latent_grids: rows and columns of each picture of latent tokens.
        latent_picture: [Nl] number of the token's picture among those of latent tokens.
        scored: bool [Nl], latent tokens with velocity loss.
        label_rows: [Nc] rows of `text_index` whose logits are scored.
        labels: [Nc] the ids wanted there.
        label_weights: float32 [Nc], 1 / sqrt(scored tokens of the same text), for reweighted cross entropy.
    """

    lengths: list[int]
    split_lengths: list[int]
    split_modes: list[int]
    splits_per_sample: list[int]
    positions: Tensor
    block: Tensor
    noised: Tensor
    text_ids: Tensor
    text_index: Tensor
    seen_index: Tensor
    seen_positions: Tensor
    seen_lengths: list[int]
    latent_index: Tensor
    latent_positions: Tensor
    latent_grids: list[tuple[int, int]]
    latent_picture: Tensor
    scored: Tensor
    label_rows: Tensor
    labels: Tensor
    label_weights: Tensor

    @property
    def expert_order(self) -> Tensor:
        """int64 [S]: place in the sequence of each token in expert order."""
        return torch.cat([self.text_index, self.seen_index, self.latent_index])

    def to(self, device: torch.device | str) -> Self:
        """The same layout with its tensors on `device`."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)})


class _Packer:
    def __init__(self, marks: Marks, seen_side: int, latent_side: int) -> None:
        self.marks = marks
        self.sides = {"seen": seen_side, "clean": latent_side, "noised": latent_side}
        self.length = self.position = 0
        self.lengths: list[int] = []
        self.split_lengths: list[int] = []
        self.split_modes: list[int] = []
        self.splits_per_sample: list[int] = []
        self.positions: list[Tensor] = []
        self.text_ids: list[int] = []
        self.text_index: list[int] = []
        self.label_rows: list[int] = []
        self.labels: list[int] = []
        self.label_weights: list[float] = []
        self.pictures: list[tuple[Picture, int]] = []

    def sample(self, splits: Sequence[Split]) -> None:
        start, known, self.position = self.length, len(self.split_lengths), 0
        for split in splits:
            if isinstance(split, Text):
                self.text(split)
            elif isinstance(split, Picture):
                self.picture(split)
            else:
                self.position += 1
        self.lengths.append(self.length - start)
        self.splits_per_sample.append(len(self.split_lengths) - known)

    def text(self, text: Text) -> None:
        size, row = len(text.ids) + 2, len(self.text_ids)
        if text.scored:
            self.label_rows += range(row, row + size - 1)
            self.labels += [*text.ids, self.marks.end]
            self.label_weights += [(size - 1) ** -0.5] * (size - 1)
        self.text_ids += [self.marks.begin, *text.ids, self.marks.end]
        self.text_index += range(self.length, self.length + size)
        self.positions.append(torch.arange(self.position, self.position + size))
        self.position += size
        self.split(size, "causal")

    def picture(self, picture: Picture) -> None:
        size = picture.rows * picture.columns + 2
        self.pictures.append((picture, self.length))
        self.text_ids += [self.marks.image_begin, self.marks.image_end]
        self.text_index += [self.length, self.length + size - 1]
        self.positions.append(torch.full((size,), self.position))
        self.position += picture.kind != "noised"
        self.split(size, "noise" if picture.kind == "noised" else "full")

    def split(self, size: int, mode: str) -> None:
        self.length += size
        self.split_lengths.append(size)
        self.split_modes.append(MODES[mode])

    def places(self, kinds: Sequence[str]) -> tuple[list[Picture], Tensor, Tensor]:
        """Pictures of these kinds, places of their tokens, and their row * side + column."""
        chosen = [(picture, start) for picture, start in self.pictures if picture.kind in kinds]
        empty = torch.empty(0, dtype=torch.long)
        index = [torch.arange(start + 1, start + 1 + each.rows * each.columns) for each, start in chosen]
        spots = [grid_positions(each.rows, each.columns, self.sides[each.kind]) for each, _ in chosen]
        return [picture for picture, _ in chosen], torch.cat([empty, *index]), torch.cat([empty, *spots])

    def layout(self) -> Layout:
        block, noised = torch.full((self.length,), -1), torch.zeros(self.length, dtype=torch.bool)
        for number, (picture, start) in enumerate(self.pictures):
            tokens = slice(start, start + picture.rows * picture.columns + 2)
            block[tokens], noised[tokens] = number, picture.kind == "noised"
        seen, seen_index, seen_positions = self.places(["seen"])
        latents, latent_index, latent_positions = self.places(["clean", "noised"])
        sizes = torch.tensor([each.rows * each.columns for each in latents], dtype=torch.long)
        return Layout(
            lengths=self.lengths,
            split_lengths=self.split_lengths,
            split_modes=self.split_modes,
            splits_per_sample=self.splits_per_sample,
            positions=torch.cat(self.positions),
            block=block,
            noised=noised,
            text_ids=torch.tensor(self.text_ids, dtype=torch.long),
            text_index=torch.tensor(self.text_index, dtype=torch.long),
            seen_index=seen_index,
            seen_positions=seen_positions,
            seen_lengths=[each.rows * each.columns for each in seen],
            latent_index=latent_index,
            latent_positions=latent_positions,
            latent_grids=[(each.rows, each.columns) for each in latents],
            latent_picture=torch.repeat_interleave(torch.arange(len(latents)), sizes),
            scored=noised[latent_index],
            label_rows=torch.tensor(self.label_rows, dtype=torch.long),
            labels=torch.tensor(self.labels, dtype=torch.long),
            label_weights=torch.tensor(self.label_weights, dtype=torch.float32),
        )


def pack(samples: Sequence[Sequence[Split]], marks: Marks, seen_side: int, latent_side: int) -> Layout:
    """Lay samples end to end.

    Args:
        samples: splits of each sample; each sample has at least one token.
        marks: ids of the special tokens.
        seen_side: side of the position tables of understanding tokens.
        latent_side: side of the position table of latent tokens.

    Raises:
        ValueError: a picture is empty or does not fit its position table.
    """
    packer = _Packer(marks, seen_side, latent_side)
    for sample in samples:
        packer.sample(sample)
    return packer.layout()


def grid_positions(rows: int, columns: int, side: int) -> Tensor:
    """int64 [rows * columns], row-major: row * side + column.

    Args:
        rows: rows of the picture, in tokens.
        columns: its columns.
        side: side of the position table.

    Raises:
        ValueError: the grid is empty or larger than the table of side * side positions.
    """
    if not (0 < rows <= side and 0 < columns <= side):
        raise ValueError(
            f"a picture of {rows} x {columns} tokens does not fit the position table of {side} x {side}; resize it"
        )
    return (torch.arange(rows)[:, None] * side + torch.arange(columns)).flatten()


def visible(block: Tensor, noised: Tensor) -> Tensor:
    """Attention rule inside one sample: earlier tokens and the own picture, but of noised pictures only the own one.

    Args:
        block: int64 [..., L], the sample's part of `Layout.block` in sequence order.
        noised: bool [..., L], the same of `Layout.noised`.

    Returns:
        bool [..., L, L], rows are queries.
    """
    place = torch.arange(block.shape[-1], device=block.device)
    together = (block[..., :, None] == block[..., None, :]) & (block[..., None, :] >= 0)
    return ((place[:, None] >= place) | together) & (together | ~noised[..., None, :])
