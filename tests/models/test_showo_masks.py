"""Masks against the rules of the reference README, spelled out position by position."""

import torch
from torch import Tensor

from reca.models.showo import masks, sequences
from reca.models.showo.config import Vocabulary

V = Vocabulary(text_size=100, codes=8, end_of_text=99)


def picture(batch: int, count: int) -> Tensor:
    return torch.full((batch, count), V.mask)


def test_caption_mask() -> None:
    block = sequences.caption_block([[1, 2], [1], []], V, 6)
    ids = sequences.caption_tokens(block, picture(3, 4), picture(3, 4), V).ids
    visible = masks.caption_mask(ids, V.pad, 4)
    first = ids.shape[1] - 6
    for sample, row, column in torch.cartesian_prod(*map(torch.arange, (3, ids.shape[1], ids.shape[1]))).tolist():
        pads = ids[sample] == V.pad
        expected = bool(pads[row] == pads[column]) if pads[row] else not pads[column]
        expected = expected and (column <= row or row >= first)
        assert bool(visible[sample, 0, row, column]) == expected, (sample, row, column)


def test_understanding_mask_shows_features_to_earlier_rows() -> None:
    text = torch.tensor([[5, 6, V.pad]])
    ids = sequences.understanding_tokens(torch.tensor([[3]]), 2, text, text, V).ids
    visible = masks.understanding_mask(ids, 3, 2)[0, 0]
    for row, column in torch.cartesian_prod(*map(torch.arange, ids.shape[1:] * 2)).tolist():
        assert bool(visible[row, column]) == (column <= row or column in (3, 4))


def test_reconstruction_mask() -> None:
    prefix = sequences.template_prefix([[1], [1, 2, 3]], V, 9)
    ids = sequences.reconstruction_tokens(prefix, 2, picture(2, 4), picture(2, 4), V).ids
    visible = masks.reconstruction_mask(ids, V.pad, 2, 4)
    length = ids.shape[1]
    image = range(length - 5, length - 1)
    for sample, row, column in torch.cartesian_prod(*map(torch.arange, (2, length, length))).tolist():
        seen = column <= row or column in (2, 3) or (row in image and column in image)
        expected = seen and int(ids[sample, column]) != V.pad
        assert bool(visible[sample, 0, row, column]) == expected, (sample, row, column)


def test_code_reconstruction_mask() -> None:
    block = sequences.template_block([[1], [1, 2, 3]], V, 7)
    condition = picture(2, 2)
    ids = sequences.code_reconstruction_tokens(block, condition, picture(2, 4), picture(2, 4), V).ids
    visible = masks.code_reconstruction_mask(ids, V.pad, 2, 4)
    length = ids.shape[1]
    for sample, row, column in torch.cartesian_prod(*map(torch.arange, (2, length, length))).tolist():
        pads = ids[sample] == V.pad
        soi = int(pads.sum()) + 1
        condition_block = range(soi, soi + 4)
        if pads[row]:
            expected = bool(pads[column]) and column <= row
        else:
            both_ways = row in condition_block and column in condition_block
            expected = not pads[column] and (column <= row or both_ways or row >= length - 6)
        assert bool(visible[sample, 0, row, column]) == expected, (sample, row, column)


def test_no_row_is_empty() -> None:
    texts = [[1], [1, 2, 3]]
    image = picture(2, 4)
    caption = sequences.caption_tokens(sequences.caption_block(texts, V, 7), image, image, V).ids
    template = sequences.reconstruction_tokens(sequences.template_prefix(texts, V, 9), 2, image, image, V).ids
    assert masks.caption_mask(caption, V.pad, 4).any(dim=-1).all()
    assert masks.reconstruction_mask(template, V.pad, 2, 4).any(dim=-1).all()
