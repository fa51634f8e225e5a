"""Harmon: losses over explicit draws, drawing, answering, and its files.

Batches (`collate`), batch axis first; P, the length of the ids, does not count the picture, which comes after the
first three of them:

- reconstruction and text_to_image: `latents` float32 [B, rows, cols, C]; `ids` int64 and `mask` bool [B, P], the
  prompt padded on the right; `plain_ids` and `plain_mask`, the prompt without text in the same shape.
- image_to_text: `latents`, `ids`, `mask`, and `labels` int64 [B, P].

Draws (`draw`) of the two drawing tasks: `text_drop` float32 [B] in [0, 1); `order` int64 [B, N], a permutation whose
first entries are masked; `timestep` int64 [B, M, N] in 0..999 and `noise` float32 [B, M, N, C], M draws per token. Of
every task: `dropout_seed` int64 [B]. Shared by the whole global batch (`draw_shared`): `mask_rate` float64 [1].
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from reca.config import SamplingConfig
from reca.models.base import Batch, Draws, Example, Geometry, LossTerm, Task, UnifiedModel
from reca.models.checkpoint import built
from reca.models.detection import refuse_other_family
from reca.models.finite import LATENTS, PICTURE, Watch
from reca.models.harmon import diffusion
from reca.models.harmon.autoencoder import build_autoencoder, decode_latents, encode_pixels
from reca.models.harmon.collation import Collator, padded
from reca.models.harmon.config import HarmonConfig, read_config, write_config
from reca.models.harmon.dropout import RowDropout
from reca.models.harmon.files import read_weights, write_weights
from reca.models.harmon.masking import mask_rate, split
from reca.models.harmon.network import HarmonNetwork, MaskedPass, Prompt
from reca.models.harmon.pixels import from_bytes, to_bytes
from reca.models.harmon.sampling import DrawingPlan, draw_image, seeded_noise
from reca.models.harmon.text import HEADER, load_tokenizer
from reca.models.losses import IGNORED, cross_entropy, next_labels
from reca.models.pixels import check_size
from reca.models.words import numbered


class HarmonModel(UnifiedModel):
    """Harmon. Language model, masked autoencoder, head and projections train; the image autoencoder is frozen.

    Args:
        config: sizes and settings.
        tokenizer: needed by everything that takes text; None builds a model that works on batches of ids only.
    """

    family = "harmon"

    def __init__(self, config: HarmonConfig, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
        super().__init__()
        self.config = config
        self.collator = Collator(config, tokenizer) if tokenizer is not None else None
        self.network = HarmonNetwork(config)
        self.vae = build_autoencoder(config.vae, config.mar.vae_embed_dim)
        self.vae.requires_grad_(False)

    @property
    def geometry(self) -> Geometry:
        """Square images, squashed as RecA's Harmon data set does."""
        return Geometry(size=self.config.image_size, fit="squash")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.llm.lm_head.weight.device

    def train(self, mode: bool = True) -> Self:
        """Switch training mode (and with it dropout) of the trained parts; the image autoencoder stays in evaluation
        mode.
        """
        super().train(mode)
        self.vae.eval()
        return self

    def trainable(self) -> dict[str, nn.Parameter]:
        """Everything but the image autoencoder and the class table that nothing reads. The tied output matrix counts
        once, as the input embeddings.
        """
        return {name: value for name, value in self.network.named_parameters() if name != "mar.class_emb.weight"}

    # The frozen encoder

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Run the image autoencoder on uint8 [B, 3, S, S]. The understanding encoder trains, so it is not run here.

        Returns:
            `latents` float32 [B, rows, cols, C]: posterior mean times the configured scale.

        Raises:
            ValueError: images of another size.
            NonFiniteOutputError: naming the rows whose numbers are not finite.
        """
        check_size(pixels, self.config.image_size)
        latents = encode_pixels(self.vae, from_bytes(pixels.to(self.device)), self.config)
        return Watch(self.family).encoded({"latents": latents})

    # Batches and draws

    def collate(self, task: Task, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Make a batch (see the top of the module). A caption that is too long is cut, as published."""
        return self._collator.batch(task, examples)

    def draw(self, task: Task, batch: Batch, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Draws on the CPU (see the top of the module), from one generator per example."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        dropout = [torch.randint(2**62, (), generator=generator) for generator in generators]
        if task == "image_to_text":
            return {"dropout_seed": torch.stack(dropout)}
        rows, cols, channels = batch["latents"].shape[1:]
        count, shape = rows * cols, (self.config.mar.diffusion_batch_mul, rows * cols)
        levels = [torch.randint(diffusion.STEPS, shape, generator=generator) for generator in generators]
        return {
            "dropout_seed": torch.stack(dropout),
            "timestep": torch.stack(levels),
            "text_drop": torch.stack([torch.rand((), generator=generator) for generator in generators]),
            "order": torch.stack([torch.randperm(count, generator=generator) for generator in generators]),
            "noise": torch.stack([torch.randn(*shape, channels, generator=generator) for generator in generators]),
        }

    def draw_shared(self, task: Task, seed: int) -> dict[str, Tensor]:
        """The mask rate of a drawing batch: one for all its images, as published, and so for all workers."""
        if task == "image_to_text":
            return {}
        uniform = torch.rand(1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return {"mask_rate": mask_rate(uniform, self.config.mar.mask_ratio_min)}

    @property
    def _collator(self) -> Collator:
        if self.collator is None:
            raise ValueError("this HarmonModel was built without a tokenizer; pass one, or load it from a checkpoint")
        return self.collator

    def _dropout(self, draws: Draws) -> RowDropout | None:
        mar = self.config.mar
        if not self.training or mar.attn_dropout == mar.proj_dropout == 0:
            return None
        return RowDropout(draws["dropout_seed"].tolist(), mar.attn_dropout, mar.proj_dropout)

    # Losses

    def loss(self, task: Task, batch: Batch, draws: Draws) -> LossTerm:
        """Diffusion loss of the masked tokens (both drawing tasks), or cross entropy of the next answer id."""
        if task == "image_to_text":
            return self._answer_loss(batch, draws)
        return self.drawing_loss(*self.drawing(task, batch, draws), batch["latents"], draws)

    def drawing_loss(self, hidden: Tensor, found: MaskedPass, latents: Tensor, draws: Draws) -> LossTerm:
        """Diffusion loss of what `drawing` found.

        Args:
            hidden: int64 [B, H], raster indices of the hidden tokens.
            found: the masked pass.
            latents: float32 [B, rows, cols, C].
            draws: `timestep` and `noise`.
        """
        terms = self.token_losses(found.conditions, latents, hidden, draws)
        total = terms.error + terms.bound
        return LossTerm(total.sum(), total.new_tensor(float(total.numel())))

    def count(self, task: Task, batch: Batch, draws: Draws) -> Tensor:
        """Draws of noise for the masked tokens, or ids of the answers."""
        if task == "image_to_text":
            return (batch["labels"] != IGNORED).sum().float()
        pictures, repeats = draws["timestep"].shape[:2]
        return draws["noise"].new_tensor(float(pictures * repeats * _masked_tokens(draws)))

    def drawing(self, task: Task, batch: Batch, draws: Draws) -> tuple[Tensor, MaskedPass]:
        """Masked tokens, raster indices int64 [B, H], and the masked pass of a reconstruction or text-to-image batch.

        A reconstruction whose text is dropped keeps its picture, as published.
        """
        latents, dropout = batch["latents"], self._dropout(draws)
        dropped = (draws["text_drop"] < self.config.text_dropout)[:, None]
        ids = torch.where(dropped, batch["plain_ids"], batch["ids"])
        mask = torch.where(dropped, batch["plain_mask"], batch["mask"])
        picture = None
        if task == "reconstruction":
            picture = self.network.understand(latents, dropout and dropout.at("picture")).embeddings
        return self.drawing_after(self.network.prompt(ids, mask, picture), latents, draws)

    def drawing_after(self, front: Prompt, latents: Tensor, draws: Draws) -> tuple[Tensor, MaskedPass]:
        """The same after given prompts.

        Args:
            front: prompts.
            latents: float32 [B, rows, cols, C].
            draws: `order` and `mask_rate`, and `dropout_seed` in training.
        """
        dropout = self._dropout(draws)
        hidden, visible = split(draws["order"], _masked_tokens(draws))
        return hidden, self.network.masked_pass(front, latents, visible, dropout and dropout.at("masked"))

    def token_losses(self, conditions: Tensor, latents: Tensor, chosen: Tensor, draws: Draws) -> diffusion.TokenLoss:
        """Diffusion loss, float32 [B, M, H], of chosen tokens.

        Args:
            conditions: float [B, N, Dd].
            latents: float32 [B, rows, cols, C].
            chosen: int64 [B, H], raster indices.
            draws: `timestep` and `noise`.
        """
        repeats = draws["timestep"].shape[1]
        target, condition = (
            values.gather(1, chosen[..., None].expand(-1, -1, values.shape[-1]))[:, None].expand(-1, repeats, -1, -1)
            for values in (latents.flatten(1, 2), conditions)
        )
        index = chosen[:, None].expand(-1, repeats, -1)
        timestep = draws["timestep"].gather(2, index)
        noise = draws["noise"].gather(2, index[..., None].expand(-1, -1, -1, latents.shape[-1]))
        predicted = self.network.mar.diffloss.net(diffusion.noised(target, noise, timestep), timestep, condition)
        return diffusion.token_loss(predicted, target, noise, timestep)

    def understanding(self, batch: Batch, draws: Draws) -> tuple[Prompt, Tensor]:
        """Conversations about pictures, and the label of each position's next id, int64 [B, L]."""
        dropout = self._dropout(draws)
        return self.conversation(
            batch, self.network.understand(batch["latents"], dropout and dropout.at("picture")).embeddings
        )

    def conversation(self, batch: Batch, picture: Tensor) -> tuple[Prompt, Tensor]:
        """The same with pictures float [B, N + buffer, H] as the language model sees them."""
        labels = batch["labels"]
        unlabelled = labels.new_full(picture.shape[:2], IGNORED)
        labels = torch.cat([labels[:, :HEADER], unlabelled, labels[:, HEADER:]], dim=1)
        sequence = self.network.prompt(batch["ids"], batch["mask"], picture)
        return sequence, next_labels(labels)

    def _answer_loss(self, batch: Batch, draws: Draws) -> LossTerm:
        return self.next_ids(*self.understanding(batch, draws))

    def next_ids(self, sequence: Prompt, labels: Tensor) -> LossTerm:
        """Cross entropy of the labels int64 [B, L] of a sequence's next ids."""
        return cross_entropy(self.network.llm.lm_head, self.network.states(sequence), labels)

    # Drawing and answering

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        """Draw uint8 [B, 3, S, S] from captions; guidance is against "Generate an image."."""
        collator = self._collator
        rows = collator.requests(prompts, numbered("prompt", prompts))
        if sampling.guidance != 0:
            rows += collator.plain() * len(prompts)
        ids, mask = padded(rows, collator.end)
        return self._draw(self.network.prompt(ids.to(self.device), mask.to(self.device)), seeds, sampling)

    @torch.no_grad()
    def reconstruct(
        self, encoded: Mapping[str, Tensor], prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        """Draw uint8 [B, 3, S, S] from what `encode` gave and a template prompt each; guidance is against
        "Generate an image." without a picture.
        """
        rows = self._collator.reconstructions(prompts, numbered("prompt", prompts))
        ids, mask = (values.to(self.device) for values in padded(rows, self._collator.end))
        picture = self.network.understand(encoded["latents"].to(self.device), None).embeddings
        front = self.network.prompt(ids, mask, picture)
        if sampling.guidance != 0:
            plain = torch.tensor(self._collator.plain(), device=self.device).expand(len(rows), -1)
            front = with_unconditional(self.network, front, plain, self._collator.pad)
        return self._draw(front, seeds, sampling)

    @torch.no_grad()
    def answer(self, encoded: Mapping[str, Tensor], questions: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        """Greedy answers, without the end mark."""
        collator, names = self._collator, numbered("question", questions)
        ids, mask = padded(collator.questions(questions, names, max_new_tokens), collator.end)
        picture = self.network.understand(encoded["latents"].to(self.device), None).embeddings
        front = self.network.prompt(ids.to(self.device), mask.to(self.device), picture)
        watch = Watch(self.family)
        found = self.network.greedy(front, max_new_tokens, collator.end, collator.pad, watch)
        return watch.passed([collator.answer(row) for row in found.tolist()])

    def _draw(self, front: Prompt, seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        config, side = self.config, self.config.side
        plan = DrawingPlan(
            grid=(side, side),
            iterations=sampling.steps,
            scale=1 + sampling.guidance,
            schedule=config.guidance_schedule,
            temperature=sampling.temperature,
            levels=config.mar.num_sampling_steps,
        )
        order, noise = seeded_noise(seeds, side * side, config.mar.token_channels, plan.levels, self.device)
        (last,) = deque(draw_image(self.network, front, plan, order, noise), maxlen=1)
        watch = Watch(self.family)
        images = watch.see(PICTURE, decode_latents(self.vae, watch.see(LATENTS, last.latents), config))
        return watch.passed(to_bytes(images))

    # Files

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        """Read a checkpoint: `config.json`, tokenizer and weights in one of the layouts of
        `reca.models.harmon.files`.

        Raises:
            CheckpointError: naming file and key, on missing, extra or misshaped keys, or values that are not finite.
        """
        refuse_other_family(folder, cls.family)
        config = read_config(folder)
        tokenizer = load_tokenizer(folder, config.llm.vocab_size)
        model = built(lambda: cls(config, tokenizer), device, dtype, folder)
        model.stored = read_weights(model.network, model.vae, folder)
        return model.eval()

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write a checkpoint in the published layout; floating-point tensors as `dtype` if one is given."""
        write_config(self.config, folder)
        self._collator.tokenizer.save_pretrained(str(folder))
        write_weights(self.network, self.vae, folder, dtype, self.stored)


def _masked_tokens(draws: Draws) -> int:
    return math.ceil(draws["order"].shape[1] * draws["mask_rate"].item())


def with_unconditional(network: HarmonNetwork, front: Prompt, plain: Tensor, pad: int) -> Prompt:
    """Prompts with as many unconditional ones, ids int64 [B, P'], after them, padded on the right to their length."""
    length = front.mask.shape[1]
    ids = functional.pad(plain, (0, length - plain.shape[1]), value=pad)
    mask = (torch.arange(length, device=ids.device) < plain.shape[1]).expand_as(ids)
    second = network.prompt(ids, mask)
    embeddings = torch.cat([front.embeddings, second.embeddings.to(front.embeddings.dtype)])
    return Prompt(embeddings, torch.cat([front.mask, second.mask]))
