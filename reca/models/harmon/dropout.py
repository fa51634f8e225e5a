"""Dropout as a function of one seed per row, so that a loss is pure and does not depend on how rows are batched."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class RowDropout:
    """Random choices for one place of the network. On an accelerator they differ from those on a CPU.

    Attributes:
        seeds: one seed per row of the batch.
        attention: dropout probability of attention weights.
        projection: dropout probability of projections and MLPs.
        place: name of the place; each place gets its own choices, and the same ones when it is computed again
            (gradient checkpointing).
    """

    seeds: Sequence[int]
    attention: float
    projection: float
    place: str = ""

    def at(self, place: str) -> "RowDropout":
        """The same rows at a place inside this one."""
        return RowDropout(self.seeds, self.attention, self.projection, f"{self.place}/{place}")

    def drop(self, values: Tensor, probability: float) -> Tensor:
        """Zero each value of float [B, ...] with this probability in [0, 1) and divide the rest by 1 - probability."""
        generator = torch.Generator(values.device)
        rows = [
            torch.rand(values.shape[1:], generator=generator.manual_seed(seed), device=values.device)
            for seed in self._seeds_here()
        ]
        keep = torch.stack(rows) >= probability
        return values * (keep / (1 - probability)).to(values.dtype)

    def fused_attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Full attention of query, key and value, float [B, heads, L, D] as is the result, with dropout of its weights.

        Row by row, because the fused kernels, which keep no weights in memory, draw from the process's generator only;
        its state is put back afterwards.
        """
        device = query.device
        on_cpu = device.type == "cpu"
        generator = torch.default_generator if on_cpu else torch.cuda.default_generators[device.index]
        rows: list[Tensor] = []
        with torch.random.fork_rng([] if on_cpu else [device]):
            for number, seed in enumerate(self._seeds_here()):
                generator.manual_seed(seed)
                row = (part[number : number + 1] for part in (query, key, value))
                rows.append(functional.scaled_dot_product_attention(*row, dropout_p=self.attention))
        return torch.cat(rows)

    def _seeds_here(self) -> list[int]:
        digests = [blake2b(f"{seed} {self.place}".encode(), digest_size=8).digest() for seed in self.seeds]
        return [int.from_bytes(digest, "little") >> 1 for digest in digests]
