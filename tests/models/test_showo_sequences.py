import pytest
import torch

from reca.models.losses import IGNORED
from reca.models.showo import sequences
from reca.models.showo.config import Vocabulary

V = Vocabulary(text_size=100, codes=8, end_of_text=99)
EOT, PAD = 99, 100
X = IGNORED


def test_vocabulary_layout() -> None:
    assert (V.pad, V.soi, V.eoi, V.t2i, V.mmu, V.image_offset, V.mask, V.size) == (
        100,
        101,
        102,
        105,
        106,
        110,
        118,
        119,
    )


def test_caption_block_pads_left_and_cuts_long_text() -> None:
    block = sequences.caption_block([[1, 2], [1, 2, 3, 4, 5, 6], []], V, max_text=5)
    assert block.tolist() == [
        [PAD, V.t2i, EOT, 1, 2, EOT],
        [V.t2i, EOT, 1, 2, 3, EOT],
        [PAD, PAD, PAD, V.t2i, EOT, EOT],
    ]


def test_start_mark_is_not_doubled() -> None:
    assert sequences.caption_block([[EOT, 1]], V, 3).tolist() == [[V.t2i, EOT, 1, EOT]]


def test_caption_tokens_label_everything_but_pads_and_known_codes() -> None:
    block = sequences.caption_block([[1]], V, 4)
    image = torch.tensor([[V.mask, 112]])
    tokens = sequences.caption_tokens(block, image, torch.tensor([[111, X]]), V)
    assert tokens.ids.tolist() == [[PAD, V.t2i, EOT, 1, EOT, V.soi, V.mask, 112, V.eoi]]
    assert tokens.labels.tolist() == [[X, V.t2i, EOT, 1, EOT, V.soi, 111, X, V.eoi]]


def test_reconstruction_puts_features_after_two_ids_and_pads_right() -> None:
    prefix = sequences.template_prefix([[7]], V, 8)
    image = torch.tensor([[V.mask]])
    tokens = sequences.reconstruction_tokens(prefix, 2, image, torch.tensor([[113]]), V)
    assert tokens.ids.tolist() == [[V.mmu, V.soi, X, X, V.eoi, EOT, 7, EOT, PAD, PAD, V.soi, V.mask, V.eoi]]
    assert tokens.labels.tolist() == [[V.mmu, V.soi, X, X, V.eoi, EOT, 7, EOT, X, X, V.soi, 113, V.eoi]]


def test_code_reconstruction_inserts_the_condition_after_each_rows_own_soi() -> None:
    block = sequences.template_block([[7], [7, 8]], V, 5)
    condition = torch.tensor([[110, 111], [112, 113]])
    image = torch.full((2, 1), V.mask)
    tokens = sequences.code_reconstruction_tokens(block, condition, image, torch.full((2, 1), 115), V)
    assert tokens.ids.tolist() == [
        [PAD, PAD, V.mmu, V.soi, 110, 111, V.eoi, EOT, 7, EOT, V.soi, V.mask, V.eoi],
        [PAD, V.mmu, V.soi, 112, 113, V.eoi, EOT, 7, 8, EOT, V.soi, V.mask, V.eoi],
    ]
    assert tokens.labels.tolist() == [[X] * 11 + [115, X]] * 2


def test_understanding_and_plain_text() -> None:
    text = torch.tensor([[5, 6, PAD]])
    labels = torch.tensor([[X, 6, X]])
    tokens = sequences.understanding_tokens(torch.tensor([[3]]), 2, text, labels, V)
    assert tokens.ids.tolist() == [[V.mmu, 3, V.soi, X, X, V.eoi, 5, 6, PAD]]
    assert tokens.labels.tolist() == [[X] * 7 + [6, X]]
    plain = sequences.text_tokens([[1], [1, 2, 3, 4]], V, 4)
    assert plain.ids.tolist() == [[EOT, 1, EOT, PAD], [EOT, 1, 2, 3]]
    assert plain.labels.tolist() == [[EOT, 1, EOT, X], [EOT, 1, 2, 3]]


@pytest.mark.parametrize("builder", [sequences.template_prefix, sequences.template_block])
def test_template_that_does_not_fit_names_the_sample(builder: object) -> None:
    assert callable(builder)
    with pytest.raises(ValueError, match=r"sample 'b'.*shorten"):
        builder([[1], list(range(20))], V, 8, ["sample 'a'", "sample 'b'"])
