"""Our deformable attention against the library's: same weights, same inputs, same output."""

import pytest
import torch

from reca.evaluation.deformable import GatheringAttention, LibraryAttention

SIZES = [(3, 5), (6, 10), (1, 1)]
LENGTH = sum(height * width for height, width in SIZES)


@pytest.mark.parametrize("spread", [0.1, 3.0, 50.0])
@pytest.mark.parametrize("masked", [False, True])
def test_the_output_is_the_librarys(spread: float, masked: bool) -> None:
    torch.manual_seed(0)
    library = LibraryAttention(16, 4, len(SIZES), 2).eval()
    # Offsets of many pixels: most places then lie outside, where values count as zero.
    torch.nn.init.normal_(library.sampling_offsets.weight, std=spread)
    ours = GatheringAttention(16, 4, len(SIZES), 2).eval()
    ours.load_state_dict(library.state_dict())
    queries, values, positions = (torch.randn(2, LENGTH, 16) for _ in range(3))
    mask = torch.rand(2, LENGTH) < 0.3 if masked else None
    references = torch.rand(2, LENGTH, len(SIZES), 2)
    inputs = (queries, mask, values, None, positions, references, SIZES)
    with torch.inference_mode():
        expected, weights = library(*inputs)
        given, our_weights = ours(*inputs)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(our_weights, weights)


def test_a_nan_stays_one() -> None:
    torch.manual_seed(0)
    ours = GatheringAttention(16, 4, len(SIZES), 2).eval()
    queries, values = torch.randn(1, LENGTH, 16), torch.randn(1, LENGTH, 16)
    queries[0, 4] = float("nan")
    with torch.inference_mode():
        given, _ = ours(queries, None, values, None, None, torch.rand(1, LENGTH, len(SIZES), 2), SIZES)
    assert given[0, 4].isnan().all()
    assert given[0, 5].isfinite().all()
