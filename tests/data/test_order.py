import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reca.data.order import KeyedPermutation, SampleOrder, sample_seed

FIRST = [6, 9, 3, 7, 8, 5, 0, 2, 1, 4]
SEED = 3193501108928822886


@pytest.mark.parametrize("n", [*range(1, 70), 127, 128, 129, 1023, 1024, 1025, 2000])
def test_every_size_is_a_bijection_and_scalar_equals_vector(n: int) -> None:
    permutation = KeyedPermutation(7, 3, n)
    many = permutation.indices(np.arange(n))
    assert sorted(many.tolist()) == list(range(n))
    assert [permutation.index(i) for i in range(n)] == many.tolist()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(-(2**70), 2**70), epoch=st.integers(0, 10**9), n=st.integers(1, 10**15), at=st.data())
def test_scalar_equals_vector_at_any_size(seed: int, epoch: int, n: int, at: st.DataObject) -> None:
    permutation = KeyedPermutation(seed, epoch, n, "x")
    i = at.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20, unique=True))
    out = permutation.indices(np.array(i))
    assert out.tolist() == [permutation.index(j) for j in i]
    assert len(set(out.tolist())) == len(i)
    assert out.min() >= 0
    assert out.max() < n


def test_seed_epoch_and_stream_change_the_order() -> None:
    base = KeyedPermutation(0, 0, 1000, "a").indices(np.arange(1000))
    for other in (
        KeyedPermutation(1, 0, 1000, "a"),
        KeyedPermutation(0, 1, 1000, "a"),
        KeyedPermutation(0, 0, 1000, "b"),
    ):
        same = (other.indices(np.arange(1000)) == base).sum()
        assert same < 12, "about 1 fixed point is expected by chance"


def test_first_place_is_uniform() -> None:
    """Which of 10 samples comes first, over 5000 epochs: chi-square (9 degrees of freedom) below 33.7 (p = 1e-4)."""
    counts = np.bincount([KeyedPermutation(5, epoch, 10).index(0) for epoch in range(5000)], minlength=10)
    assert ((counts - 500) ** 2 / 500).sum() < 33.7


def test_neighbours_are_torn_apart() -> None:
    order = KeyedPermutation(1, 0, 4096).indices(np.arange(4096))
    correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(correlation) < 0.06


def test_refuses_what_is_outside() -> None:
    with pytest.raises(ValueError, match="n is 0"):
        KeyedPermutation(0, 0, 0)
    with pytest.raises(IndexError, match="10 is outside"):
        KeyedPermutation(0, 0, 10).index(10)
    with pytest.raises(IndexError, match="not inside"):
        KeyedPermutation(0, 0, 10).indices(np.array([3, 10]))


def test_sample_order_visits_everything_once_per_epoch_and_seeks() -> None:
    order = SampleOrder(37, 11, "pictures")
    positions = np.arange(37 * 4)
    samples = order.samples(positions)
    for epoch in range(4):
        assert sorted(samples[37 * epoch : 37 * (epoch + 1)].tolist()) == list(range(37))
    assert [order.sample_at(int(p)) for p in positions] == [
        (p // 37, int(s)) for p, s in zip(positions, samples, strict=True)
    ]
    late = 37 * 10**12 + 5
    assert order.sample_at(late) == (10**12, int(order.samples(np.array([late]))[0]))


def test_the_order_is_frozen() -> None:
    """A changed order would silently break the resume of older runs."""
    assert KeyedPermutation(0, 0, 10).indices(np.arange(10)).tolist() == FIRST
    assert sample_seed(0, 1, 2, "reconstruction") == SEED


def test_draw_seeds_differ_and_fit_63_bits() -> None:
    seeds = {sample_seed(s, u, p, name) for s in (0, 1) for u in range(10) for p in range(50) for name in ("a", "b")}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
