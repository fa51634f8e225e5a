"""Running the language model piece by piece, and drawing codes or words with it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, LlamaModel

from reca.models.attention import additive
from reca.models.finite import ANSWER, CODES, Watch


@dataclass(frozen=True)
class Prefix:
    """A batch of left-padded sequences ready for the language model.

    Attributes:
        embeddings: float [B, L, D].
        mask: bool [B, L], False on pads.
    """

    embeddings: Tensor
    mask: Tensor

    def extended(self, embeddings: Tensor) -> "Prefix":
        """The sequences with embeddings float [B, M, D] after them."""
        seen = self.mask.new_ones(embeddings.shape[:2])
        return Prefix(torch.cat([self.embeddings, embeddings], dim=1), torch.cat([self.mask, seen], dim=1))


def stacked(first: Prefix, second: Prefix) -> Prefix:
    """The rows of both, the shorter ones padded on the left with zeros that are not seen."""
    width = max(first.mask.shape[1], second.mask.shape[1])
    gaps = [(prefix, width - prefix.mask.shape[1]) for prefix in (first, second)]
    return Prefix(
        torch.cat([functional.pad(prefix.embeddings, (0, 0, gap, 0)) for prefix, gap in gaps]),
        torch.cat([functional.pad(prefix.mask, (gap, 0)) for prefix, gap in gaps]),
    )


def states(language: LlamaModel, prefix: Prefix) -> Tensor:
    """Final hidden states float [B, L, D] under causal attention that does not see pads."""
    return _run(language, prefix.embeddings, prefix.mask, None)


class Stream:
    """Sequences that grow at their ends; keys and values of what was seen are kept.

    Args:
        language: language model.
        prefix: what the sequences start with.
    """

    def __init__(self, language: LlamaModel, prefix: Prefix) -> None:
        self._language = language
        self._cache = DynamicCache(config=language.config)
        self._mask = prefix.mask
        self.last = _run(language, prefix.embeddings, prefix.mask, self._cache)[:, -1]
        """Final hidden state float [B, D] of each sequence's end."""

    def push(self, embeddings: Tensor) -> None:
        """Lengthen every sequence by one position, float [B, D]."""
        self._mask = functional.pad(self._mask, (0, 1), value=True)
        self.last = _run(self._language, embeddings[:, None], self._mask, self._cache)[:, -1]


def seeded_draws(seeds: Sequence[int], codes: int) -> Iterator[Tensor]:
    """Endless Exp(1) draws float32 [B, codes], one generator per picture, so that none depends on its batch."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    while True:
        yield torch.stack([torch.empty(codes).exponential_(generator=generator) for generator in generators])


def draw_codes(
    stream: Stream,
    head: Callable[[Tensor], Tensor],
    embed: Callable[[Tensor], Tensor],
    draws: Iterable[Tensor],
    positions: int,
    guidance: float,
    temperature: float,
    watch: Watch,
) -> Tensor:
    """Draw the codes of pictures one after another, int64 [B, positions].

    Guided logits are u + (1 + guidance) * (c - u); the published `cfg_weight` is 1 + guidance. The code drawn is the
    argmax of softmax(logits / temperature) / draw, which is how torch.multinomial draws one sample; temperature 0 takes
    the argmax.

    Args:
        stream: sequences that end with begin-of-image: B, or with guidance 2 B, of which the last B are unconditional.
        head: code logits float [*, K] of hidden states float [*, D].
        embed: input embeddings float [*, D] of codes int64 [*].
        draws: float32 [B, K] for every position, Exp(1).
        positions: N.
        guidance: 0 for none.
        temperature: softmax temperature.
        watch: sees the guided logits.
    """
    drawn: list[Tensor] = []
    for number, draw in zip(range(positions), draws, strict=False):
        logits = head(stream.last).float()
        if guidance:
            conditional, unconditional = logits.chunk(2)
            logits = unconditional + (1 + guidance) * (conditional - unconditional)
        watch.see(CODES, logits)
        if temperature > 0:
            logits = (logits / temperature).softmax(dim=-1) / draw.to(logits.device)
        drawn.append(logits.argmax(dim=-1))
        if number < positions - 1:
            stream.push(embed(drawn[-1].repeat(2) if guidance else drawn[-1]))
    return torch.stack(drawn, dim=1)


def greedy(
    stream: Stream,
    head: Callable[[Tensor], Tensor],
    embed: Callable[[Tensor], Tensor],
    new_tokens: int,
    stop: int,
    watch: Watch,
) -> Tensor:
    """Most probable words, int64 [B, at most new_tokens]; what follows a sequence's `stop` is meaningless.

    Args:
        stream: B sequences.
        head: logits float [B, V] of hidden states float [B, D].
        embed: input embeddings float [B, D] of words int64 [B].
        new_tokens: number of new ids at most, at least 1.
        stop: id that ends a sequence.
        watch: sees the logits of sequences that have not ended.
    """
    words: list[Tensor] = []
    finished = torch.zeros(stream.last.shape[0], dtype=torch.bool, device=stream.last.device)
    for number in range(new_tokens):
        words.append(watch.see(ANSWER, head(stream.last), ~finished).argmax(dim=-1))
        finished |= words[-1] == stop
        if number == new_tokens - 1 or bool(finished.all()):
            break
        stream.push(embed(words[-1]))
    return torch.stack(words, dim=1)


def _run(language: LlamaModel, embeddings: Tensor, mask: Tensor, cache: DynamicCache | None) -> Tensor:
    """Hidden states of the last `embeddings.shape[1]` positions of sequences whose whole mask is `mask`."""
    new, length = embeddings.shape[1], mask.shape[1]
    column = torch.arange(length, device=mask.device)
    causal = column <= column[length - new :, None]
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, length - new :]
    return language(
        inputs_embeds=embeddings,
        attention_mask=additive((causal & mask[:, None, :])[:, None]),
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state
