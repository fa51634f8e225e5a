"""The language model: two experts in every layer, joined by attention (mixture of transformers).

Norms, MLP and rotary embedding are transformers' Qwen2 parts; attention has per-head norms on queries and keys, which
Qwen2 lacks. Formulas follow the published `modeling/bagel/qwen2_navit.py`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2MLP,
    Qwen2RMSNorm,
    Qwen2RotaryEmbedding,
    apply_rotary_pos_emb,
)

from reca.models.bagel.config import LanguageSizes

Rope = tuple[Tensor, Tensor]
"""Cosines and sines, float32 [N, D]."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, query [S, H, D], key [S, G, D], value [S, G, D]) to [S, H, D], float, tokens in expert order."""


class Heads(nn.Module):
    """Projections of one expert's attention."""

    def __init__(self, sizes: LanguageSizes) -> None:
        super().__init__()
        self.head_dim = sizes.head_dim
        shared = sizes.num_key_value_heads * sizes.head_dim
        self.q_proj = nn.Linear(sizes.hidden_size, sizes.hidden_size)
        self.k_proj = nn.Linear(sizes.hidden_size, shared)
        self.v_proj = nn.Linear(sizes.hidden_size, shared)
        self.o_proj = nn.Linear(sizes.hidden_size, sizes.hidden_size, bias=False)
        self.q_norm = Qwen2RMSNorm(sizes.head_dim, sizes.rms_norm_eps)
        self.k_norm = Qwen2RMSNorm(sizes.head_dim, sizes.rms_norm_eps)

    def forward(self, hidden: Tensor, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
        """Query float [N, H, D], key and value float [N, G, D] of normed states float [N, E]; the heads' norm comes
        before rotation, both in float32.
        """
        value = self.v_proj(hidden).unflatten(-1, (-1, self.head_dim))
        query = self.q_norm(self.q_proj(hidden).unflatten(-1, (-1, self.head_dim)).float())
        key = self.k_norm(self.k_proj(hidden).unflatten(-1, (-1, self.head_dim)).float())
        query, key = apply_rotary_pos_emb(query, key, *rope)
        return query.to(value.dtype), key.to(value.dtype), value


class Expert(nn.Module):
    """One expert's part of one layer."""

    def __init__(self, sizes: LanguageSizes, config: Qwen2Config) -> None:
        super().__init__()
        self.input_layernorm = Qwen2RMSNorm(sizes.hidden_size, sizes.rms_norm_eps)
        self.self_attn = Heads(sizes)
        self.post_attention_layernorm = Qwen2RMSNorm(sizes.hidden_size, sizes.rms_norm_eps)
        self.mlp = Qwen2MLP(config)

    def heads(self, hidden: Tensor, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
        """Query float [N, H, D], key and value float [N, G, D] of states float [N, E]."""
        return self.self_attn(self.input_layernorm(hidden), rope)

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """States float [N, E] after the layer, of those before it (`hidden`, float [N, E]) and of what its heads
        gathered (`attended`, float [N, H, D]).
        """
        hidden = hidden + self.self_attn.o_proj(attended.flatten(1))
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Layer(nn.Module):
    """Both experts and the attention between them."""

    def __init__(self, sizes: LanguageSizes, config: Qwen2Config, number: int) -> None:
        super().__init__()
        self.number = number
        self.und = Expert(sizes, config)
        self.gen = Expert(sizes, config)

    def forward(
        self, und: Tensor, gen: Tensor, und_rope: Rope, gen_rope: Rope, attend: Attend, frozen: bool
    ) -> tuple[Tensor, Tensor]:
        """States float [Nu, E] of understanding tokens and float [Ng, E] of latent tokens after the layer.

        Args:
            und: float [Nu, E], states of understanding tokens.
            gen: float [Ng, E], states of latent tokens.
            und_rope: their rotations.
            gen_rope: their rotations.
            attend: attention over all of them.
            frozen: no gradient passes through understanding tokens; latent tokens still read their keys and values.
        """
        gradient = torch.is_grad_enabled() and not frozen
        with torch.set_grad_enabled(gradient):
            und_heads = self.und.heads(und, und_rope)
        both = zip(und_heads, self.gen.heads(gen, gen_rope), strict=True)
        attended = attend(self.number, *(torch.cat(pair) for pair in both))
        with torch.set_grad_enabled(gradient):
            und = self.und.finish(und, attended[: len(und)])
        return und, self.gen.finish(gen, attended[len(und) :])


class Decoder(nn.Module):
    """Embedding, layers and both final norms."""

    def __init__(self, sizes: LanguageSizes, checkpointing: bool) -> None:
        super().__init__()
        config = Qwen2Config(
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            num_attention_heads=sizes.num_attention_heads,
            hidden_act="silu",
            max_position_embeddings=sizes.max_position_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
        )
        self.checkpointing = checkpointing
        self.embed_tokens = nn.Embedding(sizes.vocab_size, sizes.hidden_size)
        self.layers = nn.ModuleList(Layer(sizes, config, number) for number in range(sizes.num_hidden_layers))
        self.norm = Qwen2RMSNorm(sizes.hidden_size, sizes.rms_norm_eps)
        self.norm_moe_gen = Qwen2RMSNorm(sizes.hidden_size, sizes.rms_norm_eps)
        self.rotary = Qwen2RotaryEmbedding(config)

    def forward(
        self, und: Tensor, gen: Tensor, positions: Tensor, attend: Attend, frozen: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Final states float [Nu, E] of understanding tokens and float [Ng, E] of latent tokens.

        Args:
            und: float [Nu, E], input embeddings of understanding tokens.
            gen: float [Ng, E], input embeddings of latent tokens.
            positions: int64 [Nu + Ng], rope positions in expert order.
            attend: attention over all of them.
            frozen: no gradient passes through understanding tokens.
        """
        cosine, sine = self.rotary(positions.new_zeros(1, dtype=torch.float32), positions)
        count = len(und)
        ropes = (cosine[:count], sine[:count]), (cosine[count:], sine[count:])
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        for layer in self.layers:
            if again:
                und, gen = checkpoint(layer, und, gen, *ropes, attend, frozen, use_reentrant=False)
            else:
                und, gen = layer(und, gen, *ropes, attend, frozen)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            und = self.norm(und)
        return und, self.norm_moe_gen(gen)


class LanguageModel(nn.Module):
    """Decoder and output projection, named as published."""

    def __init__(self, sizes: LanguageSizes, checkpointing: bool) -> None:
        super().__init__()
        self.model = Decoder(sizes, checkpointing)
        self.lm_head = nn.Linear(sizes.hidden_size, sizes.vocab_size, bias=False)
