"""The network of Harmon: how the masked autoencoder and the language model pass tokens to each other.

Sequence of a masked pass: prompt (with the picture after its header when there is one), visible image tokens, buffers.
The language model is an ordinary causal one, for image tokens too. Formulas: Harmon, arXiv 2503.21979, section 3, and
the published `harmon.py` and `harmon_dev.py`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, Qwen2Config, Qwen2ForCausalLM

from reca.models.attention import EAGER_BY_DEVICE
from reca.models.finite import Watch, WatchedLogits
from reca.models.harmon.config import HarmonConfig, LlmSizes
from reca.models.harmon.dropout import RowDropout
from reca.models.harmon.mar import Mar
from reca.models.harmon.text import HEADER


@dataclass(frozen=True)
class Prompt:
    """The front of sequences for the language model.

    Attributes:
        embeddings: float [B, P, H].
        mask: bool [B, P], where it is real.
    """

    embeddings: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Picture:
    """An unmasked image as the language model sees it.

    Attributes:
        encoded: float [B, buffer + N, De], buffers first.
        embeddings: float [B, N + buffer, H], buffers last.
    """

    encoded: Tensor
    embeddings: Tensor


@dataclass(frozen=True)
class MaskedPass:
    """What a pass over a partly masked image computes, in order. K tokens are visible.

    Attributes:
        encoded: float [B, buffer + K, De], buffers first.
        embeddings: float [B, K + buffer, H], their embeddings, buffers last.
        sequence: the whole sequence of the language model.
        states: float [B, P + K + buffer, H], its final hidden states.
        fused: float [B, buffer + K, De], `encoded` plus what comes back from the language model.
        conditions: float [B, N, Dd], conditions of the diffusion head.
    """

    encoded: Tensor
    embeddings: Tensor
    sequence: Prompt
    states: Tensor
    fused: Tensor
    conditions: Tensor


class HarmonNetwork(nn.Module):
    """Language model, masked autoencoder and the projections between them, under their published names."""

    def __init__(self, config: HarmonConfig) -> None:
        super().__init__()
        self.config = config
        self.llm = Qwen2ForCausalLM(qwen2_config(config.llm))
        # transformers ties in its weight initialization, which loading a checkpoint leaves out.
        self.llm.tie_weights()
        self.llm.set_attn_implementation(EAGER_BY_DEVICE)
        self.mar = Mar(config.mar)
        narrow, wide = config.mar.encoder_embed_dim, config.llm.hidden_size
        self.proj_in = nn.Sequential(nn.Linear(narrow, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.proj_out = nn.Sequential(nn.Linear(wide, wide), nn.SiLU(), nn.Linear(wide, narrow))
        if config.mar.grad_checkpointing:
            self.llm.gradient_checkpointing_enable({"use_reentrant": False})

    def understand(self, latents: Tensor, dropout: RowDropout | None) -> Picture:
        """Understanding embeddings of an image, float [B, rows, cols, C]; their gradient is scaled by `grad_scale`."""
        encoded = self.mar.encode(latents, None, dropout)
        embeddings = self.to_llm(encoded)
        if embeddings.requires_grad:
            embeddings.register_hook(lambda gradient: gradient * self.config.grad_scale)
        return Picture(encoded, embeddings)

    def prompt(self, ids: Tensor, mask: Tensor, picture: Tensor | None = None) -> Prompt:
        """Embeddings of a prompt.

        Args:
            ids: int64 [B, P], the picture left out.
            mask: bool [B, P].
            picture: float [B, N + buffer, H], put after the header.
        """
        embeddings = self.llm.model.embed_tokens(ids)
        if picture is None:
            return Prompt(embeddings, mask)
        parts = [embeddings[:, :HEADER], picture.to(embeddings.dtype), embeddings[:, HEADER:]]
        shown = mask.new_ones(picture.shape[:2])
        return Prompt(torch.cat(parts, dim=1), torch.cat([mask[:, :HEADER], shown, mask[:, HEADER:]], dim=1))

    def states(self, sequence: Prompt) -> Tensor:
        """Final hidden states float [B, L, H] of the language model."""
        found = self.llm.model(
            inputs_embeds=sequence.embeddings,
            attention_mask=sequence.mask.long(),
            position_ids=positions(sequence.mask),
            use_cache=False,
        )
        return found.last_hidden_state

    def masked_pass(self, prompt: Prompt, latents: Tensor, visible: Tensor, dropout: RowDropout | None) -> MaskedPass:
        """From visible latents to the conditions of all tokens.

        Args:
            prompt: what comes before.
            latents: float [B, rows, cols, C].
            visible: int64 [B, K], raster indices, ascending.
            dropout: random choices in training, else None.
        """
        encoded = self.mar.encode(latents, visible, dropout)
        embeddings = self.to_llm(encoded)
        sequence = appended(prompt, embeddings)
        states = self.states(sequence)
        fused = self.fuse(encoded, states[:, -embeddings.shape[1] :])
        conditions = self.mar.decode(fused, visible, (latents.shape[1], latents.shape[2]), dropout)
        return MaskedPass(encoded, embeddings, sequence, states, fused, conditions)

    def to_llm(self, encoded: Tensor) -> Tensor:
        """Embeddings float [B, K + buffer, H] of encoded tokens float [B, buffer + K, De]; buffers move to the end."""
        return self.proj_in(encoded).roll(-self.config.mar.buffer_size, dims=1)

    def fuse(self, encoded: Tensor, states: Tensor) -> Tensor:
        """Encoded tokens float [B, buffer + K, De] plus what the language model's states float [B, K + buffer, H] say
        of them: float [B, buffer + K, De].
        """
        return encoded + self.proj_out(states.roll(self.config.mar.buffer_size, dims=1))

    @torch.no_grad()
    def greedy(self, prompt: Prompt, new_tokens: int, stop: int | None, pad: int, watch: Watch) -> Tensor:
        """Continue prompts greedily.

        Args:
            prompt: padded on the right.
            new_tokens: number of new ids at most.
            stop: id after which a row is finished; None never ends early.
            pad: id that fills finished rows.
            watch: sees the logits of rows that are not finished.

        Returns:
            int64 [B, at most new_tokens].
        """
        # A stable sort moves the padding to the left, where `generate` wants it.
        order = prompt.mask.long().argsort(dim=1, stable=True)
        embeddings = prompt.embeddings.gather(1, order[..., None].expand_as(prompt.embeddings))
        settings = GenerationConfig(
            do_sample=False, max_new_tokens=new_tokens, eos_token_id=stop, pad_token_id=pad, use_cache=True
        )
        mask = prompt.mask.gather(1, order).long()
        # transformers types `generate` against a protocol that its own models do not meet.
        generate = self.llm.generate  # pyright: ignore[reportAttributeAccessIssue]
        seeing = LogitsProcessorList([WatchedLogits(watch, stop)])
        return generate(
            inputs_embeds=embeddings, attention_mask=mask, generation_config=settings, logits_processor=seeing
        )


def positions(mask: Tensor) -> Tensor:
    """Positions int64 [B, L] of real ids, counted from 0; padding takes none. `mask` bool [B, L]: which are real."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def appended(prompt: Prompt, embeddings: Tensor) -> Prompt:
    """The prompt followed by embeddings float [B, K, H], all of them real."""
    shown = prompt.mask.new_ones(embeddings.shape[:2])
    joined = torch.cat([prompt.embeddings, embeddings.to(prompt.embeddings.dtype)], dim=1)
    return Prompt(joined, torch.cat([prompt.mask, shown], dim=1))


def qwen2_config(sizes: LlmSizes) -> Qwen2Config:
    """transformers' configuration of the language model."""
    return Qwen2Config(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_hidden_layers,
        num_attention_heads=sizes.num_attention_heads,
        num_key_value_heads=sizes.num_key_value_heads,
        max_position_embeddings=sizes.max_position_embeddings,
        rms_norm_eps=sizes.rms_norm_eps,
        hidden_act=sizes.hidden_act,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
        tie_word_embeddings=sizes.tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
