import random

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reca.models.bagel.attention import PackedAttention, explicit, fused
from reca.models.bagel.packing import Dropped, Layout, Marks, Picture, Split, Text, pack, visible

MARKS = Marks(90, 91, 92, 93)


def layout_of(*samples: list[Split]) -> Layout:
    return pack(samples, MARKS, seen_side=5, latent_side=4)


def random_samples(seed: int) -> list[list[Split]]:
    rng = random.Random(seed)
    pictures = [Picture("seen", 1, 2), Picture("clean", 2, 1), Picture("noised", 2, 2), Picture("noised", 1, 1)]
    texts = [Text([1, 2, 3]), Text([4]), Text([5, 6], scored=True)]
    return [rng.choices([*pictures, *texts], k=rng.randint(1, 5)) for _ in range(4)]


def test_a_reconstruction_sample_is_picture_text_picture() -> None:
    layout = layout_of([Picture("seen", 1, 2), Text([7, 8]), Picture("noised", 2, 1)])
    assert layout.lengths == [12]
    assert layout.split_lengths == [4, 4, 4]
    assert layout.split_modes == [1, 0, 2]
    assert layout.text_ids.tolist() == [92, 93, 90, 7, 8, 91, 92, 93]
    assert layout.text_index.tolist() == [0, 3, 4, 5, 6, 7, 8, 11]
    assert layout.seen_index.tolist() == [1, 2]
    assert layout.latent_index.tolist() == [9, 10]
    assert layout.positions.tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 5, 5, 5]
    assert layout.seen_positions.tolist() == [0, 1]
    assert layout.latent_positions.tolist() == [0, 4]
    assert layout.scored.tolist() == [True, True]


def test_dropped_text_leaves_no_position_and_a_dropped_picture_leaves_one() -> None:
    without_text = layout_of([Picture("seen", 1, 1), Picture("noised", 1, 1)])
    without_picture = layout_of([Dropped(), Picture("noised", 1, 1)])
    nothing = layout_of([Picture("noised", 1, 1)])
    assert without_text.positions.tolist() == [0, 0, 0, 1, 1, 1]
    assert without_picture.positions.tolist() == [1, 1, 1]
    assert nothing.positions.tolist() == [0, 0, 0]


def test_scored_texts_ask_for_ids_and_end_mark() -> None:
    layout = layout_of([Text([1, 2]), Text([3, 4, 5], scored=True)], [Text([6], scored=True)])
    assert layout.text_index[layout.label_rows].tolist() == [4, 5, 6, 7, 9, 10]
    assert layout.labels.tolist() == [3, 4, 5, 91, 6, 91]
    torch.testing.assert_close(layout.label_weights, torch.tensor([0.5] * 4 + [2**-0.5] * 2))


@pytest.mark.parametrize("seed", range(5))
def test_who_sees_whom_follows_the_rule_token_by_token(seed: int) -> None:
    samples = random_samples(seed)
    layout = layout_of(*samples)
    start = 0
    for sample, length in zip(samples, layout.lengths, strict=True):
        kinds: list[tuple[int, str]] = []
        for number, split in enumerate(sample):
            size = len(split.ids) + 2 if isinstance(split, Text) else split.rows * split.columns + 2  # pyright: ignore[reportAttributeAccessIssue]
            kinds += [(number, "text" if isinstance(split, Text) else split.kind)] * size  # pyright: ignore[reportAttributeAccessIssue]
        found = visible(layout.block[start : start + length], layout.noised[start : start + length])
        for q, (query, _) in enumerate(kinds):
            for k, (key, kind) in enumerate(kinds):
                same_picture = query == key and kind != "text"
                expected = (k <= q or same_picture) and (kind != "noised" or query == key)
                assert bool(found[q, k]) == expected
        start += length
    assert start == len(layout.positions)


@pytest.mark.parametrize("seed", range(3))
def test_grouped_attention_equals_one_dense_block_mask(seed: int) -> None:
    layout = layout_of(*random_samples(seed), *random_samples(seed))
    size, order = len(layout.positions), layout.expert_order
    assert sorted(order.tolist()) == list(range(size))
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(size, heads, 8, generator=generator) for heads in (4, 2, 2))
    sample = torch.repeat_interleave(torch.arange(len(layout.lengths)), torch.tensor(layout.lengths))
    mask = torch.zeros(size, size, dtype=torch.bool)
    for number in range(len(layout.lengths)):
        own = sample == number
        mask[own[:, None] & own] = visible(layout.block[own], layout.noised[own]).flatten()
    mask = mask[order][:, order]
    dense = functional.scaled_dot_product_attention(
        *(each.repeat_interleave(4 // each.shape[1], 1).transpose(0, 1)[None] for each in (query, key, value)), mask
    )
    found = PackedAttention.of(layout)(0, query, key, value)
    torch.testing.assert_close(found, dense[0].transpose(0, 1), atol=1e-6, rtol=1e-5)


def test_both_attention_kernels_agree_and_so_do_their_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(3, 1, 5, 7, generator=generator) < 0.5
    mask[..., 0] = True
    found: list[list[Tensor]] = []
    tensors = [torch.randn(3, heads, size, 8, generator=generator) for heads, size in ((6, 5), (2, 7), (2, 7))]
    for kernel in (explicit, fused):
        inputs = [each.clone().requires_grad_() for each in tensors]
        result = kernel(*inputs, mask)  # pyright: ignore[reportCallIssue]
        result.square().sum().backward()
        found.append([result, *(each.grad for each in inputs if each.grad is not None)])
    assert len(found[0]) == 4
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_pictures_beyond_their_position_table_are_refused() -> None:
    with pytest.raises(ValueError, match="picture of 5 x 1 tokens does not fit the position table of 4 x 4"):
        layout_of([Picture("noised", 5, 1)])
    assert layout_of([Picture("seen", 5, 1)]).seen_positions.tolist() == [0, 5, 10, 15, 20]
    with pytest.raises(ValueError, match="picture of 0 x 3"):
        layout_of([Picture("seen", 0, 3)])
