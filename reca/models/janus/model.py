"""Janus-Pro over transformers' modules: losses over explicit draws, drawing, answering, and its files.

Batches (`collate`), batch axis first; every sequence is padded on the left:

- all: `ids` int64 [B, T], `mask` bool [B, T], False on pads.
- reconstruction: `features` float32 [B, C, E] and `codes` int64 [B, N]; `ids` has C places for the features and ends
  with begin-of-image.
- text_to_image: `codes` int64 [B, N]; `ids` ends with begin-of-image.
- image_to_text: `features` float32 [B, C, E], `labels` int64 [B, T].

Draws (`draw`): `caption_drop` float32 [B], uniform in [0, 1), for text_to_image; next-code prediction itself has no
random choice, so the other tasks draw nothing.

RecA has no published Janus code. What follows from the paper: features of the frozen understanding encoder and a
template prompt in, cross entropy on the picture's own codes out, image-to-text at weight 1 because the transformer is
shared. Ours are: the order of the parts (image, then text, as in the four families the authors released, in Janus'
own chat form), that neither image nor template is ever dropped in reconstruction (as in their Show-o and OpenUni), and
that its gradient reaches the aligner at full scale.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    GenerationConfig,
    JanusConfig,
    JanusForConditionalGeneration,
    LlamaModel,
    PreTrainedTokenizerFast,
)

from reca.config import SamplingConfig
from reca.models.attention import BY_DEVICE
from reca.models.base import Batch, Draws, Example, Geometry, LossTerm, Task, UnifiedModel
from reca.models.checkpoint import built, find_weights, load_strict
from reca.models.detection import refuse_other_family
from reca.models.errors import CheckpointError
from reca.models.finite import PICTURE, Watch
from reca.models.janus.collation import Collator
from reca.models.janus.config import Processing, sizes_of
from reca.models.janus.decoding import Prefix, Stream, draw_codes, greedy, seeded_draws, stacked, states
from reca.models.janus.files import Parts, published, read_parts, write_parts
from reca.models.janus.original import Original
from reca.models.janus.tokenizer import Marks, generation_config, matching_marks
from reca.models.janus.vq import decoded, image_codes
from reca.models.losses import IGNORED, cross_entropy, next_labels
from reca.models.pixels import check_size, from_bytes, to_bytes
from reca.models.words import numbered

FROZEN = ("model.vision_model.", "model.vqmodel.")
"""Understanding encoder and image tokenizer."""

CAPTION_DROPOUT = 0.1
"""Share of captions replaced by pads in text-to-image training (Janus, arXiv 2410.13848, footnote 2)."""


class JanusProModel(UnifiedModel):
    """Janus-Pro. Language model, both aligners, code embeddings and both heads train; SigLIP and VQ are frozen.

    Args:
        config: sizes.
        tokenizer: needed by everything that takes text and by caption dropout; None builds a model that knows only
            ids.
        processing: pixel statistics and system prompt.

    Raises:
        CheckpointError: the sizes do not fit together, or the tokenizer lacks a mark.
    """

    family = "janus"

    def __init__(
        self,
        config: JanusConfig,
        tokenizer: PreTrainedTokenizerFast | None = None,
        processing: Processing = Processing(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.config = config
        self.sizes = sizes_of(config, "JanusConfig")
        self.processing = processing
        self.original: Original | None = None
        self.janus = JanusForConditionalGeneration(config)
        self.janus.tie_weights()  # skipped by transformers when its initialization is off
        self.collator = None if tokenizer is None else self._collator_of(tokenizer)
        if self.collator is not None:
            self.janus.generation_config = generation_config(self.collator.marks)
        self.language.set_attn_implementation(BY_DEVICE)
        self.janus.model.vision_model.set_attn_implementation(BY_DEVICE)
        for name, parameter in self.janus.named_parameters():
            parameter.requires_grad_(not name.startswith(FROZEN))

    @property
    def geometry(self) -> Geometry:
        """Square images, cropped as Janus-Pro crops what it learns to draw (arXiv 2501.17811, section 3.1).

        Understanding sees the same pixels, so that a reconstruction is asked for what was seen.
        """
        return Geometry(size=self.sizes.image, fit="crop")

    @property
    def language(self) -> LlamaModel:
        """The shared transformer, without a head."""
        return self.janus.model.language_model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.janus.lm_head.weight.device

    def train(self, mode: bool = True) -> Self:
        """Switch training mode of the trained parts; the frozen ones stay in evaluation mode."""
        super().train(mode)
        self.janus.model.vision_model.eval()
        self.janus.model.vqmodel.eval()
        return self

    def trainable(self) -> dict[str, nn.Parameter]:
        """Everything but SigLIP and VQ. A tied language head counts once, as the input embedding."""
        return {name: value for name, value in self.janus.named_parameters() if not name.startswith(FROZEN)}

    # Frozen encoders

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Run tokenizer and vision tower on uint8 [B, 3, S, S].

        Returns:
            `codes` int32 [B, N] and `features` float32 [B, C, E], the encoder's output before the aligner.

        Raises:
            ValueError: the images have another size than `geometry`.
            NonFiniteOutputError: naming the rows whose numbers are not finite.
        """
        check_size(pixels, self.sizes.image)
        pixels = pixels.to(self.device)
        mean, std = (
            torch.tensor(values, device=self.device).view(3, 1, 1)
            for values in (self.processing.image_mean, self.processing.image_std)
        )
        seen = self.janus.model.vision_model(pixel_values=(pixels.float() / 255 - mean) / std)
        watch = Watch(self.family)
        codes = image_codes(self.janus.model.vqmodel, from_bytes(pixels), watch).int()
        return watch.encoded({"codes": codes, "features": seen.last_hidden_state.float()})

    # Batches and draws

    def collate(self, task: Task, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Make a batch (see the top of the module)."""
        return self._collator.batch(task, examples)

    def draw(self, task: Task, batch: Batch, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Draws on the CPU (see the top of the module), from one generator per example."""
        if task != "text_to_image":
            return {}
        rows = [torch.rand(1, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return {"caption_drop": torch.cat(rows)}

    # Losses

    def loss(self, task: Task, batch: Batch, draws: Draws) -> LossTerm:
        """Cross entropy of every code of the picture (both drawing tasks), or of the answer and its end mark."""
        if task == "image_to_text":
            hidden = states(self.language, self.prefix(batch))
            return cross_entropy(self.janus.lm_head, hidden, next_labels(batch["labels"]))
        if task == "text_to_image":
            dropped = draws["caption_drop"] < CAPTION_DROPOUT
            batch = {**batch, "ids": torch.where(dropped[:, None], self.without_text(batch), batch["ids"])}
        logits = self.code_logits(self.prefix(batch), batch["codes"]).flatten(0, 1).float()
        total = functional.cross_entropy(logits, batch["codes"].flatten(), reduction="sum")
        return LossTerm(total, total.new_tensor(float(len(logits))))

    def count(self, task: Task, batch: Batch, draws: Draws) -> Tensor:
        """Scalar float32: codes of the pictures, or ids of the answers."""
        del draws
        if task == "image_to_text":
            return (batch["labels"][:, 1:] != IGNORED).sum().float()
        return torch.tensor(float(batch["codes"].numel()), device=batch["codes"].device)

    def prefix(self, batch: Batch) -> Prefix:
        """Input embeddings of a batch's `ids` int64 [B, T], with its `features` float [B, C, E], if any, aligned in
        their places.
        """
        embeddings = self.language.embed_tokens(batch["ids"])
        if "features" in batch:
            places = (batch["ids"] == self.sizes.image_token)[..., None]
            aligned = self.janus.model.aligner(batch["features"])
            embeddings = embeddings.masked_scatter(places, aligned.to(embeddings.dtype))
        return Prefix(embeddings, batch["mask"])

    def code_logits(self, prefix: Prefix, codes: Tensor) -> Tensor:
        """Teacher-forced logits float [B, N, K] of a picture's codes int64 [B, N] after `prefix`."""
        known = self.janus.prepare_embeddings_for_image_generation(codes[:, :-1])
        hidden = states(self.language, prefix.extended(known.to(prefix.embeddings.dtype)))
        return self.janus.model.generation_head(hidden[:, -codes.shape[1] :])

    def without_text(self, batch: Batch) -> Tensor:
        """`ids` int64 [B, T] with pads for all but start and begin-of-image: the published unconditional form.

        These pads are seen, unlike those on the left.
        """
        inside = batch["mask"] & (batch["mask"].cumsum(dim=1) > 1)
        inside[:, -1] = False
        return batch["ids"].masked_fill(inside, self._marks.pad)

    # Drawing and answering

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        """Draw uint8 [B, 3, S, S] from captions, code by code (`sampling.steps` has no meaning here).

        Guidance is against the caption replaced by pads. The published `cfg_weight` 5 is `guidance` 4; `temperature` is
        that of the softmax, and 0 takes the most probable code.
        """
        batch = self._on_device(self._collator.captions(prompts, numbered("prompt", prompts)))
        return self._draw(self.prefix(batch), batch, seeds, sampling)

    @torch.no_grad()
    def reconstruct(
        self, encoded: Mapping[str, Tensor], prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        """Draw uint8 [B, 3, S, S] from what `encode` gave and a template prompt each.

        Guidance, if any, is against the same template as a caption, replaced by pads: the unconditional form that
        pre-training teaches.
        """
        templates = self._collator.templates(prompts, numbered("prompt", prompts))
        batch = self._on_device({**templates, "features": encoded["features"].float()})
        captions = self._on_device(self._collator.captions(prompts, numbered("prompt", prompts)))
        return self._draw(self.prefix(batch), captions, seeds, sampling)

    @torch.no_grad()
    def answer(self, encoded: Mapping[str, Tensor], questions: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        """Greedy answers, without the end mark."""
        asked = self._collator.questions(questions, max_new_tokens)
        batch = self._on_device({**asked, "features": encoded["features"].float()})
        stream, watch = Stream(self.language, self.prefix(batch)), Watch(self.family)
        head, embed = self.janus.lm_head, self.language.embed_tokens
        words = greedy(stream, head, embed, max_new_tokens, self._marks.end, watch)
        return watch.passed([self._collator.answer(row) for row in words.tolist()])

    def drawn_codes(
        self,
        prefix: Prefix,
        captions: Batch,
        draws: Iterable[Tensor],
        guidance: float,
        temperature: float,
        watch: Watch,
    ) -> Tensor:
        """Codes int64 [B, N] of pictures that follow `prefix`; see `draw_codes`.

        Args:
            prefix: what the pictures follow.
            captions: `ids` and `mask` of the captions whose dropped form guidance is against.
            draws: float32 [B, K] for every position, Exp(1).
            guidance: 0 for none.
            temperature: softmax temperature.
            watch: sees the guided logits.
        """
        if guidance:
            bare = self.prefix({"ids": self.without_text(captions), "mask": captions["mask"]})
            prefix = stacked(prefix, bare)
        embed = self.janus.prepare_embeddings_for_image_generation
        head = self.janus.model.generation_head
        stream = Stream(self.language, prefix)
        return draw_codes(stream, head, embed, draws, self.sizes.codes, guidance, temperature, watch)

    def _draw(self, prefix: Prefix, captions: Batch, seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        draws, watch = seeded_draws(seeds, self.sizes.codebook), Watch(self.family)
        codes = self.drawn_codes(prefix, captions, draws, sampling.guidance, sampling.temperature, watch)
        return watch.passed(to_bytes(watch.see(PICTURE, decoded(self.janus.model.vqmodel, codes))))

    # Files

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        """Read a checkpoint in transformers' layout or DeepSeek's own, tensor by tensor, straight to the device.

        Raises:
            CheckpointError: naming file and key, on missing, extra or misshaped keys, values that are not finite,
                another model's configuration, a broken `generation_config.json`, or a tokenizer that lacks a mark.
        """
        refuse_other_family(folder, cls.family)
        parts = read_parts(folder)
        model = built(lambda: cls(parts.config, parts.tokenizer, parts.processing), device, dtype, folder)
        model.original = parts.original
        model.stored = load_strict(published(model.janus, parts.original), find_weights(folder))
        settings = folder / "generation_config.json"
        if settings.is_file():
            try:
                model.janus.generation_config = GenerationConfig.from_pretrained(str(folder))
            except Exception as error:  # transformers does not expect fields of a wrong type
                raise CheckpointError(f"{settings}: {error}; copy it again, or remove it: it is optional") from error
        return model.eval()

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write a checkpoint in the layout it came in, else in transformers'; floating-point tensors as `dtype` if one
        is given.
        """
        parts = Parts(self.config, self._collator.tokenizer, self.processing, self.original)
        write_parts(self.janus, parts, folder, dtype, self.stored)

    # Text

    def _collator_of(self, tokenizer: PreTrainedTokenizerFast) -> Collator:
        marks = matching_marks(tokenizer, self.sizes, "tokenizer")
        return Collator(tokenizer, marks, self.sizes, system_prompt=self.processing.system_prompt)

    @property
    def _collator(self) -> Collator:
        if self.collator is None:
            raise ValueError("this JanusProModel was built without a tokenizer; pass one, or load it from a checkpoint")
        return self.collator

    @property
    def _marks(self) -> Marks:
        return self._collator.marks

    def _on_device(self, batch: Batch) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in batch.items()}
