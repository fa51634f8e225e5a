import torch

from reca.models.losses import IGNORED
from reca.models.showo.config import Vocabulary
from reca.models.showo.masking import mask_codes

V = Vocabulary(text_size=100, codes=64, end_of_text=99)


def test_hidden_positions_follow_the_permutation_itself_not_its_inverse() -> None:
    codes = torch.arange(4)[None]
    order = torch.tensor([[0.9, 0.1, 0.5, 0.3]])  # argsort: 1, 3, 2, 0
    masked = mask_codes(codes, torch.tensor([2 / 3]), order, V)  # cos(60 degrees): 2 of 4
    assert masked.ids.tolist() == [[V.mask, 111, 112, V.mask]]
    assert masked.labels.tolist() == [[110, IGNORED, IGNORED, 113]]


def test_count_is_at_least_one_and_rounds_half_to_even() -> None:
    codes = torch.zeros(3, 5, dtype=torch.int32)
    timestep = torch.tensor([0.9999, 0.0, 2 / 3])  # ratios near 0, 1, and 0.5 of 5 = 2.5
    order = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    hidden = (mask_codes(codes, timestep, order, V).ids == V.mask).sum(dim=1)
    assert hidden.tolist() == [1, 5, 2]


def test_least_rate_is_kept() -> None:
    masked = mask_codes(torch.zeros(1, 10, dtype=torch.long), torch.tensor([0.99]), torch.rand(1, 10), V, 0.7)
    assert int((masked.ids == V.mask).sum()) == 7
