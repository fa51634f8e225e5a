"""Show-o with CLIP understanding features: losses over explicit draws, drawing, answering, and its files.

Batches (`collate`), batch axis first:

- reconstruction: `prefix` int64 [B, P] (or [B, M + 3] for the VQ condition), `codes` int64 [B, N], and `features`
  float32 [B, C, D] or `condition_codes` int64 [B, Nc].
- text_to_image: `prefix` int64 [B, M + 1], `codes` int64 [B, N].
- image_to_text: `features` float32 [B, C, D], `system` int64 [B, S], `text` and `labels` int64 [B, T].

Draws (`draw`), uniform in [0, 1): `mask_timestep` float32 [B] and `mask_order` float32 [B, N] for both drawing tasks,
`caption_drop` float32 [B] for text_to_image; none for image_to_text.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from reca.config import SamplingConfig
from reca.models.attention import BY_DEVICE, additive
from reca.models.base import Batch, Draws, Example, Geometry, LossTerm, Task, UnifiedModel
from reca.models.checkpoint import built
from reca.models.detection import refuse_other_family
from reca.models.errors import CheckpointError
from reca.models.finite import CODES, PICTURE, Watch
from reca.models.losses import IGNORED, cross_entropy, next_labels
from reca.models.pixels import check_size, from_bytes, to_bytes
from reca.models.showo import files, masks, sequences
from reca.models.showo.collation import Collator
from reca.models.showo.config import ShowoConfig, read_config, write_config
from reca.models.showo.decoding import Layout, greedy, picture_logits
from reca.models.showo.magvit import Magvit
from reca.models.showo.masking import MaskedCodes, mask_codes
from reca.models.showo.pixels import clip_resize, plain_resize
from reca.models.showo.sampling import seeded_draws, unmask
from reca.models.showo.sequences import Tokens
from reca.models.words import load_tokenizer, numbered


class ShowoModel(UnifiedModel):
    """Show-o. Language model and projector train; CLIP and the image tokenizer are frozen.

    Args:
        config: sizes and settings.
        tokenizer: needed by everything that takes text; None builds a model that works on batches of ids only.
    """

    family = "showo"

    def __init__(self, config: ShowoConfig, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = config.vocabulary
        self.collator = Collator(config, tokenizer) if tokenizer is not None else None
        self.showo = PhiForCausalLM(_phi_config(config))
        self.mm_projector = nn.Sequential(
            nn.Linear(config.clip.hidden_size, config.projector_hidden),
            nn.GELU(),
            nn.Linear(config.projector_hidden, config.phi.hidden_size),
        )
        self.clip = CLIPVisionModel(CLIPVisionConfig(**asdict(config.clip)))
        self.magvit = Magvit(config.magvit)
        self.showo.set_attn_implementation(BY_DEVICE)
        self.clip.set_attn_implementation(BY_DEVICE)
        self.clip.requires_grad_(False)
        self.magvit.requires_grad_(False)

    @property
    def geometry(self) -> Geometry:
        """Square images, squashed as RecA's Show-o data set does."""
        return Geometry(size=self.config.image_size, fit="squash")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.showo.lm_head.weight.device

    def train(self, mode: bool = True) -> Self:
        """Switch training mode of the trained parts; the frozen ones stay in evaluation mode."""
        super().train(mode)
        self.clip.eval()
        self.magvit.eval()
        return self

    def trainable(self) -> dict[str, nn.Parameter]:
        """Language model and projector. Reconstruction alone gives no gradient to projector and input embeddings
        (unless `condition_gradient` is set); image-to-text trains them.
        """
        parts = {"showo": self.showo, "mm_projector": self.mm_projector}
        return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.named_parameters()}

    # Frozen encoders

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Run tokenizer and vision tower on uint8 [B, 3, S, S].

        Returns:
            `codes` int32 [B, N]; `features` float32 [B, C, D] of the reconstruction branch, or `condition_codes` int32
            [B, Nc] when the configuration selects that condition; `understanding_features` float32 [B, C, D] where the
            understanding branch needs its own.

        Raises:
            ValueError: pictures of another size than `geometry` says. NonFiniteOutputError: see `UnifiedModel.encode`.
        """
        check_size(pixels, self.config.image_size)
        images = from_bytes(pixels.to(self.device))
        side, watch = self.config.clip.image_size, Watch(self.family)
        encoded = {"codes": self.magvit.encode(images, watch).int()}
        if self.config.condition == "vq":
            encoded["condition_codes"] = self.magvit.encode(plain_resize(images, images.shape[-1] // 2), watch).int()
        else:
            encoded["features"] = self.clip_features(plain_resize(images, side))
        if self.config.clip_normalize_understanding:
            encoded["understanding_features"] = self.clip_features(clip_resize(images, side))
        elif self.config.condition == "vq":
            encoded["understanding_features"] = self.clip_features(plain_resize(images, side))
        return watch.encoded(encoded)

    def clip_features(self, pixels: Tensor) -> Tensor:
        """Understanding features float32 [B, C, D] of CLIP's input, float32 [B, 3, s, s]: hidden states of the
        configured layer, without the class token.
        """
        return self.clip(pixel_values=pixels, output_hidden_states=True).hidden_states[self.config.clip_layer][:, 1:]

    # Batches and draws

    def collate(self, task: Task, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Make a batch (see the top of the module). A caption that is too long is cut, as published."""
        return self._collator.batch(task, examples)

    def draw(self, task: Task, batch: Batch, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Draws on the CPU (see the top of the module), from one generator per example."""
        if task == "image_to_text":
            return {}
        positions = batch["codes"].shape[1]
        rows = torch.stack([torch.rand(positions + 2, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        draws = {"mask_timestep": rows[:, 0], "mask_order": rows[:, 2:]}
        return {**draws, "caption_drop": rows[:, 1]} if task == "text_to_image" else draws

    @property
    def _collator(self) -> Collator:
        if self.collator is None:
            raise ValueError("this ShowoModel was built without a tokenizer; pass one, or load it from a checkpoint")
        return self.collator

    # Losses

    def loss(self, task: Task, batch: Batch, draws: Draws) -> LossTerm:
        """Cross entropy over the whole vocabulary: of hidden codes (reconstruction); of hidden codes and, as published,
        the picture's two marks (text-to-image); of the next answer id (image-to-text).
        """
        if task == "image_to_text":
            tokens, layout = self.understanding(batch)
            return self._cross_entropy(layout, next_labels(tokens.labels))
        marks = 1 if task == "text_to_image" else 0
        tokens, layout = (self.drawing if task == "text_to_image" else self.reconstruction)(batch, draws)
        length, positions = tokens.ids.shape[1], batch["codes"].shape[1]
        column = torch.arange(length, device=tokens.ids.device)
        picture = (column >= length - 1 - positions - marks) & (column < length - 1 + marks)
        return self._cross_entropy(layout, tokens.labels.masked_fill(~picture, IGNORED))

    def drawing(self, batch: Batch, draws: Draws) -> tuple[Tokens, Layout]:
        """Text-to-image sequences of a batch; captions whose `caption_drop` is below the configured rate go."""
        prefix = batch["prefix"]
        empty = sequences.caption_block([[]], self.vocabulary, prefix.shape[1] - 1).to(prefix.device)
        dropped = draws["caption_drop"] < self.config.caption_dropout
        picture = self._mask(batch, draws)
        return self._caption_layout(torch.where(dropped[:, None], empty, prefix), picture.ids, picture.labels)

    def reconstruction(self, batch: Batch, draws: Draws) -> tuple[Tokens, Layout]:
        """Reconstruction sequences of a batch, from whichever condition it has."""
        picture = self._mask(batch, draws)
        return self._reconstruction_layout(batch, picture.ids, picture.labels)

    def understanding(self, batch: Batch) -> tuple[Tokens, Layout]:
        """Understanding sequences of a batch."""
        features, system = batch["features"], batch["system"]
        count, first = features.shape[1], system.shape[1] + 2
        tokens = sequences.understanding_tokens(system, count, batch["text"], batch["labels"], self.vocabulary)
        mask = masks.understanding_mask(tokens.ids, first, count)
        return tokens, Layout(self.embed(tokens.ids, features, first), mask)

    def embed(self, ids: Tensor, features: Tensor | None = None, first: int = 0) -> Tensor:
        """Input embeddings float [B, L, D] of ids int64 [B, L], with projected features float [B, C, F] from column
        `first` on.
        """
        embeddings = self.showo.model.embed_tokens(ids.clamp(min=0))
        if features is None:
            return embeddings
        last = first + features.shape[1]
        return torch.cat([embeddings[:, :first], self.mm_projector(features), embeddings[:, last:]], dim=1)

    def states(self, layout: Layout) -> Tensor:
        """Final hidden states float [B, L, D]; `showo.lm_head` turns them into logits."""
        mask = additive(layout.mask)
        return self.showo.model(inputs_embeds=layout.embeddings, attention_mask=mask, use_cache=False).last_hidden_state

    def _mask(self, batch: Batch, draws: Draws) -> MaskedCodes:
        rate = self.config.min_masking_rate
        return mask_codes(batch["codes"], draws["mask_timestep"], draws["mask_order"], self.vocabulary, rate)

    def _caption_layout(self, prefix: Tensor, image: Tensor, labels: Tensor) -> tuple[Tokens, Layout]:
        tokens = sequences.caption_tokens(prefix, image, labels, self.vocabulary)
        mask = masks.caption_mask(tokens.ids, self.vocabulary.pad, image.shape[1])
        return tokens, Layout(self.embed(tokens.ids), mask)

    def _reconstruction_layout(self, batch: Batch, image: Tensor, labels: Tensor) -> tuple[Tokens, Layout]:
        prefix, pad, count = batch["prefix"], self.vocabulary.pad, image.shape[1]
        if "condition_codes" in batch:
            condition = batch["condition_codes"] + self.vocabulary.image_offset
            tokens = sequences.code_reconstruction_tokens(prefix, condition, image, labels, self.vocabulary)
            mask = masks.code_reconstruction_mask(tokens.ids, pad, condition.shape[1], count)
            return tokens, Layout(self.embed(tokens.ids), mask)
        features = batch["features"]
        tokens = sequences.reconstruction_tokens(prefix, features.shape[1], image, labels, self.vocabulary)
        mask = masks.reconstruction_mask(tokens.ids, pad, features.shape[1], count)
        with torch.set_grad_enabled(self.config.condition_gradient and torch.is_grad_enabled()):
            embeddings = self.embed(tokens.ids, features, 2)
        return tokens, Layout(embeddings, mask)

    def _cross_entropy(self, layout: Layout, labels: Tensor) -> LossTerm:
        return cross_entropy(self.showo.lm_head, self.states(layout), labels)

    # Drawing and answering

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        """Draw uint8 [B, 3, S, S] from captions; guidance is against an empty caption. A caption that is too long is
        cut, as published, with a warning.
        """
        prefix = self._collator.requests(prompts, numbered("prompt", prompts))
        image = self._hidden_picture(len(prompts))
        _, layout = self._caption_layout(prefix.to(self.device), image, image)
        return self._draw(layout, seeds, sampling)

    @torch.no_grad()
    def reconstruct(
        self, encoded: Mapping[str, Tensor], prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        """Draw uint8 [B, 3, S, S] from what `encode` gave and a template prompt each.

        Guidance, if any, is against text-to-image with an empty caption, the unconditional form that pre-training
        teaches.
        """
        prefix = self._collator.templates(prompts, numbered("prompt", prompts))
        batch = {**self._collator.condition(encoded), "prefix": prefix}
        image = self._hidden_picture(len(prompts))
        on_device = {name: value.to(self.device) for name, value in batch.items()}
        _, layout = self._reconstruction_layout(on_device, image, image)
        return self._draw(layout, seeds, sampling)

    @torch.no_grad()
    def answer(self, encoded: Mapping[str, Tensor], questions: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        """Greedy answers, without the end mark."""
        batch, lengths = self._collator.questions(encoded, questions, max_new_tokens)
        _, layout = self.understanding({name: value.to(self.device) for name, value in batch.items()})
        watch, stop = Watch(self.family), self.vocabulary.end_of_text
        rows = greedy(self.showo, layout, lengths.to(self.device), max_new_tokens, stop, watch)
        return watch.passed([self._collator.answer(row) for row in rows.tolist()])

    def guided_logits(self, layout: Layout, guidance: float) -> Callable[[Tensor, Tensor], Tensor]:
        """Logits (1 + g) * conditional - g * unconditional of the picture at the end of `layout`, over the image codes.

        Returns:
            Function of codes int64 [B, N] and hidden positions bool [B, N], giving float32 [B, N, K].
        """
        conditional = picture_logits(self.showo, layout, self.vocabulary)
        if guidance == 0:
            return conditional
        batch = layout.embeddings.shape[0]
        empty = sequences.caption_block([[]] * batch, self.vocabulary, self.config.max_text).to(self.device)
        image = self._hidden_picture(batch)
        _, bare = self._caption_layout(empty, image, image)
        unconditional = picture_logits(self.showo, bare, self.vocabulary)
        return lambda codes, hidden: (
            (1 + guidance) * conditional(codes, hidden) - guidance * unconditional(codes, hidden)
        )

    def _hidden_picture(self, batch: int) -> Tensor:
        return torch.full((batch, self.config.image_tokens), self.vocabulary.mask, device=self.device)

    def _draw(self, layout: Layout, seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        shape = (len(seeds), self.config.image_tokens)
        draws = seeded_draws(seeds, sampling.steps, shape[1], self.vocabulary.codes)
        watch, logits = Watch(self.family), self.guided_logits(layout, sampling.guidance)

        def seen(codes: Tensor, hidden: Tensor) -> Tensor:
            return watch.see(CODES, logits(codes, hidden))

        (last,) = deque(unmask(seen, draws, shape, sampling.steps, sampling.temperature, self.device), maxlen=1)
        return watch.passed(to_bytes(watch.see(PICTURE, self.magvit.decode(last.codes))))

    # Files

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        """Read a checkpoint: `config.json`, language model and projector, `clip/`, `magvitv2/`, tokenizer.

        Raises:
            CheckpointError: naming file and key, on missing, extra or misshaped keys, or values that are not finite.
        """
        refuse_other_family(folder, cls.family)
        config, tokenizer = read_config(folder), load_tokenizer(folder)
        found = (len(tokenizer), tokenizer.eos_token_id)
        if found != (config.text_size, config.end_of_text):
            raise CheckpointError(
                f"{folder / 'tokenizer.json'}: size and end-of-text id are {found}, "
                f"config.json says {(config.text_size, config.end_of_text)}; use this checkpoint's own tokenizer"
            )
        model = built(lambda: cls(config, tokenizer), device, dtype, folder)
        model.stored = files.read_weights(model, folder)
        return model.eval()

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write a checkpoint in the published layout; floating-point tensors as `dtype` if one is given."""
        write_config(self.config, folder)
        self._collator.tokenizer.save_pretrained(str(folder))
        files.write_weights(self, folder, dtype, self.stored)


def _phi_config(config: ShowoConfig) -> PhiConfig:
    phi = config.phi
    return PhiConfig(
        vocab_size=config.vocabulary.size,
        hidden_size=phi.hidden_size,
        intermediate_size=phi.intermediate_size,
        num_hidden_layers=phi.layers,
        num_attention_heads=phi.heads,
        num_key_value_heads=phi.kv_heads,
        max_position_embeddings=phi.max_positions,
        # The same function as gelu_new in one fused kernel: 10 % of a training step less on a CPU.
        hidden_act="gelu_pytorch_tanh" if phi.activation == "gelu_new" else phi.activation,
        layer_norm_eps=phi.norm_eps,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": phi.rope_theta,
            "partial_rotary_factor": phi.rotary_share,
        },
        qk_layernorm=True,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
