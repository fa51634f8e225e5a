"""Order of samples as a function of (seed, epoch, index): no state, O(1) seek, independent of shards and workers.

A keyed permutation of 0..n-1 is a Feistel network over the smallest domain 4^k >= n with cycle walking: an output that
falls outside 0..n-1 is sent through the network again until it falls inside (at most 4 passes in the mean). Black and
Rogaway, "Ciphers with Arbitrary Finite Domains" (CT-RSA 2002), sections 2 and 3.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
"""Feistel rounds. Four suffice in theory for large domains; small ones (n < 100) need more to look uniform."""

_WORD = (1 << 64) - 1
# Finalizer of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, variant
# 13).
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


@dataclass(frozen=True)
class KeyedPermutation:
    """A permutation of 0..n-1, chosen by seed, epoch and stream name.

    Attributes:
        seed: any integer.
        epoch: pass over the data, from 0.
        n: number of samples, at least 1.
        stream: name of the data set, so that two sets of equal size are ordered independently.

    Raises:
        ValueError: when `n` is below 1.
    """

    seed: int
    epoch: int
    n: int
    stream: str = ""
    _bits: int = field(init=False, repr=False, compare=False)
    _keys: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"KeyedPermutation: n is {self.n}; a permutation needs at least one sample")
        object.__setattr__(self, "_bits", max(1, ((self.n - 1).bit_length() + 1) // 2))
        text = f"order {self.seed} {self.epoch} {self.n} {self.stream}".encode()
        digest = blake2b(text, digest_size=8 * ROUNDS).digest()
        keys = tuple(int.from_bytes(digest[8 * r : 8 * r + 8], "little") for r in range(ROUNDS))
        object.__setattr__(self, "_keys", keys)

    def index(self, i: int) -> int:
        """Image of `i`, for 0 <= i < n.

        Raises:
            IndexError: `i` is outside.
        """
        if not 0 <= i < self.n:
            raise IndexError(f"KeyedPermutation: {i} is outside 0..{self.n - 1}")
        i = self._pass(i)
        while i >= self.n:
            i = self._pass(i)
        return i

    def indices(self, i: NDArray[np.int64]) -> NDArray[np.int64]:
        """Images of many `i` at once.

        Args:
            i: int64 of any shape, each 0 <= i < n.

        Returns:
            int64 of the same shape, equal to `index` element by element.

        Raises:
            IndexError: one is outside.
        """
        if i.size and not (int(i.min()) >= 0 and int(i.max()) < self.n):
            raise IndexError(f"KeyedPermutation: {int(i.min())}..{int(i.max())} is not inside 0..{self.n - 1}")
        out = self._pass_many(i.astype(np.uint64))
        while (outside := out >= self.n).any():
            out[outside] = self._pass_many(out[outside])
        return out.astype(np.int64)

    def _pass(self, value: int) -> int:
        mask = (1 << self._bits) - 1
        left, right = value >> self._bits, value & mask
        for key in self._keys:
            mixed = (right + key) & _WORD
            mixed = ((mixed ^ (mixed >> 30)) * _MULTIPLIERS[0]) & _WORD
            mixed = ((mixed ^ (mixed >> 27)) * _MULTIPLIERS[1]) & _WORD
            left, right = right, left ^ ((mixed ^ (mixed >> 31)) & mask)
        return (left << self._bits) | right

    def _pass_many(self, value: NDArray[np.uint64]) -> NDArray[np.uint64]:
        bits, mask = np.uint64(self._bits), np.uint64((1 << self._bits) - 1)
        left, right = value >> bits, value & mask
        for key in self._keys:
            mixed = right + np.uint64(key)  # uint64 arrays wrap modulo 2^64, as the scalar version masks
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_MULTIPLIERS[0])
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_MULTIPLIERS[1])
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(31))) & mask)
        return (left << bits) | right


@dataclass(frozen=True)
class SampleOrder:
    """The endless sequence of samples of one stream: epoch after epoch, each a fresh permutation of all n.

    Attributes:
        n: number of samples in the set.
        seed: seed of the order.
        stream: name of the stream.
    """

    n: int
    seed: int
    stream: str = ""

    def sample_at(self, position: int) -> tuple[int, int]:
        """Epoch and sample index at a global position, both from 0."""
        epoch, i = divmod(position, self.n)
        return epoch, _permutation(self.seed, epoch, self.n, self.stream).index(i)

    def samples(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sample indices at many global positions.

        Args:
            positions: int64 of any shape, from 0.

        Returns:
            int64 of the same shape, 0 <= index < n; each is the second value of `sample_at`.
        """
        epochs, within = np.divmod(positions, self.n)
        out = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            out[here] = _permutation(self.seed, int(epoch), self.n, self.stream).indices(within[here])
        return out


@lru_cache(maxsize=16)
def _permutation(seed: int, epoch: int, n: int, stream: str) -> KeyedPermutation:
    return KeyedPermutation(seed, epoch, n, stream)


def sample_seed(seed: int, update: int, position: int, stream: str) -> int:
    """Seed (0 <= seed < 2^63) of one sample's random draws in one update.

    It depends on the sample's global position and never on the worker that happens to hold it, so 1 and 2 workers draw
    alike.

    Args:
        seed: seed of the run.
        update: optimizer update (or epoch), from 0.
        position: global position of the sample.
        stream: what the draws are for, such as `reconstruction`.
    """
    digest = blake2b(f"draw {seed} {update} {position} {stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
