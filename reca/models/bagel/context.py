"""Interleaved contexts for drawing and answering: splits are appended one by one and kept as keys and values."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reca.models.bagel.attention import attention
from reca.models.bagel.network import Bagel
from reca.models.bagel.packing import Marks, grid_positions
from reca.models.finite import ANSWER, Watch


@dataclass(frozen=True)
class Context:
    """What a batch has read so far. Appending gives a new context; the old one stays as it is.

    Attributes:
        keys: for each layer float [B, L, G, D], after norm and rotation. A picture's two marks come before its tokens.
        values: for each layer float [B, L, G, D].
        valid: bool [B, L]; texts of one batch may differ in length.
        position: int64 [B], next rope position.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    valid: Tensor
    position: Tensor


class Reader:
    """Reads splits into contexts, and asks a network what comes next. Gradients are never kept.

    Args:
        network: the network.
        marks: ids of the special tokens.
    """

    def __init__(self, network: Bagel, marks: Marks) -> None:
        self.network = network
        self.marks = marks

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.llm2vae.weight.device

    def empty(self, batch: int) -> Context:
        """A context that has read nothing."""
        sizes = self.network.config.language
        none = torch.empty(batch, 0, sizes.num_key_value_heads, sizes.head_dim, device=self.device)
        valid = torch.empty(batch, 0, dtype=torch.bool, device=self.device)
        nothing = (none,) * sizes.num_hidden_layers
        return Context(nothing, nothing, valid, torch.zeros(batch, dtype=torch.long, device=self.device))

    @torch.no_grad()
    def text(self, context: Context, rows: Sequence[Sequence[int]]) -> Context:
        """Read one text each, marks added."""
        return self.tokens(context, [[self.marks.begin, *row, self.marks.end] for row in rows])[0]

    @torch.no_grad()
    def tokens(self, context: Context, rows: Sequence[Sequence[int]]) -> tuple[Context, Tensor]:
        """Read ids as they are, one list for each context, at least one id each; also gives logits float [B, V] of what
        follows the last id of each row.
        """
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        longest = int(lengths.max())
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)
        column = torch.arange(longest, device=self.device)
        valid = column < lengths[:, None]
        itself = torch.eye(longest, dtype=torch.bool, device=self.device)
        mask = ((column[:, None] >= column) & valid[:, None]) | itself
        embedded = self.network.embed_text(ids)
        positions = context.position[:, None] + column
        states, _, context = self._read(context, embedded, embedded[:, :0], positions, mask, valid)
        last = states[torch.arange(len(rows), device=self.device), lengths - 1]
        return replace(context, position=context.position + lengths), self.network.language_model.lm_head(last)

    @torch.no_grad()
    def greedy(self, context: Context, count: int, watch: Watch) -> tuple[Tensor, Tensor]:
        """Continue contexts by a text.

        Args:
            context: what was read.
            count: new ids at most, at least 1.
            watch: sees the logits of rows that have not ended.

        Returns:
            int64 [B, n] ids after the opening mark, n <= `count` (shorter once every row has ended), and their logits
            float [B, n, V].
        """
        last = torch.full_like(context.position, self.marks.begin)
        ids, logits, ended = list[Tensor](), list[Tensor](), torch.zeros_like(last, dtype=torch.bool)
        while len(ids) < count and not bool(ended.all()):
            context, following = self.tokens(context, last[:, None].tolist())
            last = watch.see(ANSWER, following, ~ended).argmax(dim=1)
            ended |= last == self.marks.end
            ids.append(last)
            logits.append(following)
        return torch.stack(ids, dim=1), torch.stack(logits, dim=1)

    @torch.no_grad()
    def seen(self, context: Context, features: Tensor) -> Context:
        """Read understanding features float [B, rows, columns, D] of the tower.

        Raises:
            ValueError: the grid does not fit the position table.
        """
        _, rows, columns, _ = features.shape
        positions = grid_positions(rows, columns, self.network.config.seen_side).to(self.device)
        embedded = self.network.embed_seen(features.flatten(1, 2), positions)
        _, _, context = self._picture(context, embedded, embedded[:, :0])
        return replace(context, position=context.position + 1)

    @torch.no_grad()
    def latents(self, context: Context, tokens: Tensor, columns: int) -> Context:
        """Read clean latent tokens (time 0).

        Args:
            context: what was read.
            tokens: float32 [B, rows * columns, C].
            columns: columns of the picture.

        Raises:
            ValueError: the grid does not fit the position table.
        """
        _, _, context = self._latents(context, tokens, tokens.new_zeros(len(tokens)), columns)
        return replace(context, position=context.position + 1)

    @torch.no_grad()
    def velocity(self, context: Context, tokens: Tensor, times: Tensor, columns: int) -> Tensor:
        """Velocities float32 [B, N, C] of noised tokens; the context is left as it is.

        Args:
            context: what was read.
            tokens: float32 [B, N, C], N = rows * columns.
            times: float32 [B] in [0, 1]; 1 is noise.
            columns: columns of the picture.

        Raises:
            ValueError: the grid does not fit the position table.
        """
        _, gen, _ = self._latents(context, tokens, times, columns)
        return self.network.llm2vae(gen).float()

    def _latents(self, context: Context, tokens: Tensor, times: Tensor, columns: int) -> tuple[Tensor, Tensor, Context]:
        rows, side = tokens.shape[1] // columns, self.network.config.max_latent_size
        positions = grid_positions(rows, columns, side).to(self.device)
        embedded = self.network.embed_latents(tokens, self.network.time_embedder(times)[:, None], positions)
        return self._picture(context, embedded[:, :0], embedded)

    def _picture(self, context: Context, und: Tensor, gen: Tensor) -> tuple[Tensor, Tensor, Context]:
        batch, size = len(context.position), und.shape[1] + gen.shape[1] + 2
        marks = torch.tensor([self.marks.image_begin, self.marks.image_end], device=self.device).expand(batch, 2)
        und = torch.cat([self.network.embed_text(marks), und], dim=1)
        full = torch.ones(batch, size, size, dtype=torch.bool, device=self.device)
        return self._read(context, und, gen, context.position[:, None].expand(batch, size), full, full[:, 0])

    def _read(
        self, context: Context, und: Tensor, gen: Tensor, positions: Tensor, mask: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, Context]:
        """Final states [B, U, E] and [B, G, E] of new tokens, and the context with them.

        Args:
            context: what they see besides each other.
            und: [B, U, E] embeddings for the understanding expert.
            gen: [B, G, E] embeddings for the generation expert, placed after `und`.
            positions: int64 [B, U + G].
            mask: bool [B, U + G, U + G], who of the new ones sees whom.
            valid: bool [B, U + G], which of them later tokens may see.
        """
        batch, count = und.shape[:2]
        mask = torch.cat([context.valid[:, None].expand(-1, mask.shape[1], -1), mask], dim=2)[:, None]
        keys, values = list(context.keys), list(context.values)

        def by_sample(packed: Tensor) -> Tensor:
            parts = packed[: batch * count], packed[batch * count :]
            return torch.cat([part.unflatten(0, (batch, -1)) for part in parts], dim=1)

        def by_expert(rows: Tensor) -> Tensor:
            return torch.cat([rows[:, :count].flatten(0, 1), rows[:, count:].flatten(0, 1)])

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys[layer] = torch.cat([keys[layer].to(key.dtype), by_sample(key)], dim=1)
            values[layer] = torch.cat([values[layer].to(value.dtype), by_sample(value)], dim=1)
            query = by_sample(query).transpose(1, 2)
            seen = attention(query, keys[layer].transpose(1, 2), values[layer].transpose(1, 2), mask)
            return by_expert(seen.transpose(1, 2))

        model = self.network.language_model.model
        states = model(und.flatten(0, 1), gen.flatten(0, 1), by_expert(positions), attend)
        und, gen = (part.unflatten(0, (batch, -1)) for part in states)
        read = Context(tuple(keys), tuple(values), torch.cat([context.valid, valid], dim=1), context.position)
        return und, gen, read
