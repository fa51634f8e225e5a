"""Token sequences of Show-o's tasks: pure functions from token ids to ids and labels.

Layouts follow the published `training/prompting_utils.py` of Show-o and of RecA's Show-o. Notation: M largest text,
N image codes, P prefix of a reconstruction, C understanding features, S system prompt, L whole sequence. Position
ids are simply 0..L-1 everywhere, pads included. A label is the id expected at its own position. `IGNORED` is a label
that no loss counts, and as an id a position that holds an understanding feature instead of an embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reca.models.losses import IGNORED
from reca.models.showo.config import Vocabulary


@dataclass(frozen=True)
class Tokens:
    """One batch of sequences.

    Attributes:
        ids: int64 [B, L]; `IGNORED` where an understanding feature goes.
        labels: int64 [B, L].
    """

    ids: Tensor
    labels: Tensor


def with_start(text: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """Text ids that begin with the start mark; it is added only where it is not there yet."""
    start = [] if text and text[0] == vocabulary.end_of_text else [vocabulary.end_of_text]
    return [*start, *text]


def caption_block(texts: Sequence[Sequence[int]], vocabulary: Vocabulary, max_text: int) -> Tensor:
    """Block before a text-to-image picture: left pads, `<|t2i|>`, start, text, end. An empty text drops the caption.

    A text that is too long is cut and closed with an end mark, as published.

    Args:
        texts: ids of each text, with or without the start mark.
        vocabulary: layout of the vocabulary.
        max_text: M.

    Returns:
        int64 [B, M + 1].
    """
    size = max_text + 1
    rows: list[list[int]] = []
    for text in texts:
        row = [vocabulary.t2i, *with_start(text, vocabulary), vocabulary.end_of_text]
        if len(row) > size:
            row = [*row[: size - 1], vocabulary.end_of_text]
        rows.append([vocabulary.pad] * (size - len(row)) + row)
    return torch.tensor(rows, dtype=torch.long)


def template_prefix(
    texts: Sequence[Sequence[int]], vocabulary: Vocabulary, prefix_length: int, names: Sequence[str] = ()
) -> Tensor:
    """Prefix of a reconstruction from CLIP features: `<|mmu|>`, soi, eoi, start, text, end, right pads.

    The features are inserted after the first two ids by `reconstruction_tokens`.

    Args:
        texts: ids of each template prompt, with or without the start mark.
        vocabulary: layout of the vocabulary.
        prefix_length: P.
        names: what to call each text in an error message.

    Returns:
        int64 [B, P].

    Raises:
        ValueError: a text does not fit; the message gives its name, or its row where `names` is empty.
    """
    rows = _template_rows(texts, vocabulary, prefix_length, "prefix_length", names)
    return torch.tensor([row + [vocabulary.pad] * (prefix_length - len(row)) for row in rows], dtype=torch.long)


def template_block(
    texts: Sequence[Sequence[int]], vocabulary: Vocabulary, max_text: int, names: Sequence[str] = ()
) -> Tensor:
    """Prefix of a reconstruction from the codes of a smaller image: the same ids with left pads, at least one.

    soi and eoi do not count towards the M + 1 ids of a text block here.

    Args:
        texts: ids of each template prompt, with or without the start mark.
        vocabulary: layout of the vocabulary.
        max_text: M.
        names: what to call each text in an error message.

    Returns:
        int64 [B, M + 3].

    Raises:
        ValueError: a text does not fit; the message gives its name, or its row where `names` is empty.
    """
    rows = _template_rows(texts, vocabulary, max_text + 2, "max_text + 2", names)
    return torch.tensor([[vocabulary.pad] * (max_text + 3 - len(row)) + row for row in rows], dtype=torch.long)


def caption_tokens(block: Tensor, image: Tensor, image_labels: Tensor, vocabulary: Vocabulary) -> Tokens:
    """Text-to-image sequence: caption block, soi, image, eoi. Everything but pads and known codes is labelled.

    Args:
        block: int64 [B, M + 1] of `caption_block`.
        image: int64 [B, N], vocabulary ids, some of them the mask id.
        image_labels: int64 [B, N], `IGNORED` at known codes.
        vocabulary: layout of the vocabulary.
    """
    return _with_picture(Tokens(block, _no_pads(block, vocabulary)), image, image_labels, vocabulary, labelled=True)


def reconstruction_tokens(
    prefix: Tensor, features: int, image: Tensor, image_labels: Tensor, vocabulary: Vocabulary
) -> Tokens:
    """Reconstruction from CLIP: two ids of the prefix, C feature places, rest of the prefix, soi, image, eoi.

    Args:
        prefix: int64 [B, P] of `template_prefix`.
        features: C.
        image: int64 [B, N], vocabulary ids, some of them the mask id.
        image_labels: int64 [B, N], `IGNORED` at known codes.
        vocabulary: layout of the vocabulary.
    """
    places = prefix.new_full((prefix.shape[0], features), IGNORED)
    ids = torch.cat([prefix[:, :2], places, prefix[:, 2:]], dim=1)
    return _with_picture(Tokens(ids, _no_pads(ids, vocabulary)), image, image_labels, vocabulary, labelled=True)


def code_reconstruction_tokens(
    block: Tensor, condition: Tensor, image: Tensor, image_labels: Tensor, vocabulary: Vocabulary
) -> Tokens:
    """Reconstruction from codes: left pads, `<|mmu|>`, soi, condition codes, eoi, text, soi, image, eoi.

    Args:
        block: int64 [B, M + 3] of `template_block`.
        condition: int64 [B, Nc], vocabulary ids of the smaller image.
        image: int64 [B, N], vocabulary ids, some of them the mask id.
        image_labels: int64 [B, N], `IGNORED` at known codes.
        vocabulary: layout of the vocabulary.
    """
    count = condition.shape[1]
    column = torch.arange(block.shape[1] + count, device=block.device)[None]
    start = (block == vocabulary.pad).sum(dim=1, keepdim=True) + 2
    inside = (column >= start) & (column < start + count)
    from_block = torch.where(column < start, column, column - count).clamp(0, block.shape[1] - 1)
    from_condition = (column - start).clamp(0, count - 1)
    ids = torch.where(inside, condition.gather(1, from_condition), block.gather(1, from_block))
    unlabelled = torch.full_like(ids, IGNORED)
    return _with_picture(Tokens(ids, unlabelled), image, image_labels, vocabulary, labelled=False)


def understanding_tokens(
    system: Tensor, features: int, text: Tensor, text_labels: Tensor, vocabulary: Vocabulary
) -> Tokens:
    """Understanding: `<|mmu|>`, S system ids, soi, C feature places, eoi, conversation, right pads.

    Args:
        system: int64 [B, S].
        features: C.
        text: int64 [B, T], right-padded.
        text_labels: int64 [B, T], `IGNORED` on the question and on pads.
        vocabulary: layout of the vocabulary.
    """
    task, soi, eoi = (
        text.new_full((text.shape[0], 1), mark) for mark in (vocabulary.mmu, vocabulary.soi, vocabulary.eoi)
    )
    places = text.new_full((text.shape[0], features), IGNORED)
    before = torch.cat([task, system, soi, places, eoi], dim=1)
    labels = torch.cat([torch.full_like(before, IGNORED), text_labels], dim=1)
    return Tokens(torch.cat([before, text], dim=1), labels)


def text_tokens(texts: Sequence[Sequence[int]], vocabulary: Vocabulary, size: int) -> Tokens:
    """Plain text: start, text, end, right pads; a longer text is cut and not closed, as published.

    Args:
        texts: ids of each text, with or without the start mark.
        vocabulary: layout of the vocabulary.
        size: L, ids of every row.
    """
    rows = [[*with_start(text, vocabulary), vocabulary.end_of_text][:size] for text in texts]
    ids = torch.tensor([row + [vocabulary.pad] * (size - len(row)) for row in rows], dtype=torch.long)
    return Tokens(ids, _no_pads(ids, vocabulary))


def _template_rows(
    texts: Sequence[Sequence[int]], vocabulary: Vocabulary, size: int, setting: str, names: Sequence[str]
) -> list[list[int]]:
    opening = [vocabulary.mmu, vocabulary.soi, vocabulary.eoi]
    rows = [[*opening, *with_start(text, vocabulary), vocabulary.end_of_text] for text in texts]
    for number, row in enumerate(rows):
        if len(row) > size:
            raise ValueError(
                f"{names[number] if names else f'row {number}'}: the template prompt fills {len(row)} ids with its "
                f"marks, but {setting} is {size}; shorten the prompt or raise {setting}"
            )
    return rows


def _no_pads(ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    return ids.masked_fill(ids == vocabulary.pad, IGNORED)


def _with_picture(
    before: Tokens, image: Tensor, image_labels: Tensor, vocabulary: Vocabulary, *, labelled: bool
) -> Tokens:
    soi = image.new_full((image.shape[0], 1), vocabulary.soi)
    eoi = image.new_full((image.shape[0], 1), vocabulary.eoi)
    edges = (soi, eoi) if labelled else (torch.full_like(soi, IGNORED), torch.full_like(eoi, IGNORED))
    return Tokens(
        torch.cat([before.ids, soi, image, eoi], dim=1),
        torch.cat([before.labels, edges[0], image_labels, edges[1]], dim=1),
    )
