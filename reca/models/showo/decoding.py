"""Running the language model in pieces, with keys and values of the fixed front part computed once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PhiForCausalLM

from reca.models.attention import additive
from reca.models.finite import ANSWER, Watch
from reca.models.showo.config import Vocabulary


@dataclass(frozen=True)
class Layout:
    """A batch of sequences ready for the language model.

    Attributes:
        embeddings: float [B, L, D].
        mask: bool [B, 1, L, L], True where the row may attend to the column.
    """

    embeddings: Tensor
    mask: Tensor


def picture_logits(phi: PhiForCausalLM, layout: Layout, vocabulary: Vocabulary) -> Callable[[Tensor, Tensor], Tensor]:
    """Logits over the image codes of the picture at the end of `layout`, as a function of what is known of it.

    Nothing before the picture ever attends to it, so that part runs once, at the first call.

    Args:
        phi: language model.
        layout: sequences that end with soi, N codes and eoi; what the codes are does not matter.
        vocabulary: layout of the vocabulary.

    Returns:
        Function of codes int64 [B, N] and hidden positions bool [B, N], giving float32 [B, N, K].
    """
    batch, length = layout.embeddings.shape[:2]
    cache = DynamicCache(config=phi.config)
    weight = phi.lm_head.weight[vocabulary.image_offset : vocabulary.mask]
    bias = phi.lm_head.bias[vocabulary.image_offset : vocabulary.mask]

    def logits(codes: Tensor, hidden: Tensor) -> Tensor:
        front = length - codes.shape[1] - 2
        if cache.get_seq_length() == 0:
            _run(phi, layout.embeddings[:, :front], layout.mask[:, :, :front, :front], cache, torch.arange(front))
        picture = (codes + vocabulary.image_offset).masked_fill(hidden, vocabulary.mask)
        edges = picture.new_tensor([vocabulary.soi, vocabulary.eoi]).expand(batch, 2)
        block = phi.model.embed_tokens(torch.cat([edges[:, :1], picture, edges[:, 1:]], dim=1))
        state = _run(phi, block, layout.mask[:, :, front:], cache, torch.arange(front, length))
        cache.crop(-block.shape[1])
        return torch.nn.functional.linear(state[:, 1:-1], weight, bias).float()

    return logits


def greedy(
    phi: PhiForCausalLM, layout: Layout, lengths: Tensor, new_tokens: int, stop: int | None, watch: Watch
) -> Tensor:
    """Continue right-padded sequences greedily. Pads are hidden and new positions count from each sequence's own end.

    Args:
        phi: language model.
        layout: sequences and their mask.
        lengths: int64 [B], valid length of each.
        new_tokens: number of new ids at most.
        stop: id after which a sequence counts as finished; decoding ends when all are. None never ends early.
        watch: sees the logits of sequences that are not finished.

    Returns:
        int64 [B, at most new_tokens]; what follows a sequence's `stop` id is meaningless.
    """
    batch, length = layout.embeddings.shape[:2]
    cache = DynamicCache(config=phi.config)
    columns = torch.arange(length + new_tokens, device=lengths.device)
    visible = (columns < lengths[:, None]) | (columns >= length)
    state = _run(phi, layout.embeddings, layout.mask, cache, torch.arange(length))
    state = state[torch.arange(batch, device=lengths.device), lengths - 1]
    finished = torch.zeros(batch, dtype=torch.bool, device=lengths.device)
    ids: list[Tensor] = []
    for number in range(new_tokens):
        ids.append(watch.see(ANSWER, phi.lm_head(state), ~finished).argmax(dim=-1))
        finished |= ids[-1] == (-1 if stop is None else stop)
        if number == new_tokens - 1 or bool(finished.all()):
            break
        mask = visible[:, None, None, : length + number + 1]
        new = phi.model.embed_tokens(ids[-1])[:, None]
        state = _run(phi, new, mask, cache, (lengths + number)[:, None])[:, 0]
    return torch.stack(ids, dim=1)


def _run(phi: PhiForCausalLM, embeddings: Tensor, mask: Tensor, cache: DynamicCache, positions: Tensor) -> Tensor:
    positions = positions.to(embeddings.device).expand(embeddings.shape[0], -1)
    return phi.model(
        inputs_embeds=embeddings,
        attention_mask=additive(mask),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
