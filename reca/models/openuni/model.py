"""OpenUni: losses over explicit draws, drawing, answering, and its files.

Batches (`collate`), batch axis first; prompts are padded on the right and the learned queries follow the pads:

- reconstruction: `input_ids` int64 [B, L] with T image ids each, `mask` bool [B, L] (True on valid ids), `features`
  float32 [B, T, D], `latents` float32 [B, C, h, w] as the autoencoder gives them.
- text_to_image: `input_ids`, `mask`, `latents`, and the prompt of a dropped caption, `dropped_ids` int64 [B, L] and
  `dropped_mask` bool [B, L].

Draws (`draw`): `uniform` float32 [B] in [0, 1), which picks the noise level, `noise` float32 [B, C, h, w], standard
normal, and for text_to_image `caption_drop` float32 [B] in [0, 1).

The understanding side is frozen, so there is no image_to_text loss.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from reca.config import SamplingConfig
from reca.models.attention import EAGER_BY_DEVICE
from reca.models.base import Batch, Draws, Example, Geometry, LossTerm, Task, UnifiedModel
from reca.models.checkpoint import built, joined, write_tensors
from reca.models.detection import refuse_other_family
from reca.models.errors import CheckpointError
from reca.models.finite import LATENTS, PICTURE, Watch
from reca.models.openuni.config import OpenUniConfig
from reca.models.openuni.connector import build_connector, build_projector, ends
from reca.models.openuni.files import load_weights, read_config, write_config
from reca.models.openuni.flow import Noised, add_noise, denoise, seeded_noise
from reca.models.openuni.prompts import Prompter, Prompts
from reca.models.openuni.tokenizer import IMAGE_CONTEXT, load_tokenizer
from reca.models.openuni.understanding import InternVL, published_state
from reca.models.pixels import check_size, from_bytes, to_bytes
from reca.models.words import numbered


@dataclass(frozen=True)
class QueryInputs:
    """Input of the language model: prompts, pads, then the learned queries.

    Attributes:
        embeddings: float [B, L + Q, D].
        mask: bool [B, L + Q], True on everything but pads.
        positions: int64 [B, L + Q], counted over valid ids only, 0 before the first.
    """

    embeddings: Tensor
    mask: Tensor
    positions: Tensor


class OpenUniModel(UnifiedModel):
    """OpenUni. Queries, connector, projector and Sana train; InternVL3 and the autoencoder are frozen.

    Args:
        config: sizes and settings.
        tokenizer: needed by everything that takes text; None builds a model that works on batches of ids only.
    """

    family = "openuni"

    def __init__(self, config: OpenUniConfig, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
        super().__init__()
        self.config = config
        self.prompter = Prompter(config, tokenizer) if tokenizer is not None else None
        width = config.language.hidden_size
        self.lmm = InternVL(config)
        self.meta_queries = nn.Parameter(torch.randn(config.queries, width) * width**-0.5)
        self.connector = build_connector(config)
        self.projector = build_projector(config)
        self.transformer = SanaTransformer2DModel(**asdict(config.sana))
        self.vae = AutoencoderDC(in_channels=3, **asdict(config.vae))
        if config.activation_checkpointing:
            self.transformer.enable_gradient_checkpointing()
            self.lmm.language_model.activation_checkpointing_enable()
        for part in (self.lmm.language_model, self.lmm.vision_model):
            part.set_attn_implementation(EAGER_BY_DEVICE)
        self.lmm.requires_grad_(False)
        self.vae.requires_grad_(False)

    @property
    def geometry(self) -> Geometry:
        """Square images, the centre of a picture. (RecA's OpenUni data set cuts at a random place of the long side.)"""
        return Geometry(size=self.config.image_size, fit="crop")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.meta_queries.device

    @property
    def understanding_frozen(self) -> bool:
        """InternVL3 never trains."""
        return True

    def train(self, mode: bool = True) -> Self:
        """Switch training mode of the trained parts; the frozen ones stay in evaluation mode, save the language model
        when its activations are recomputed (transformers does so in training mode only; it has no dropout).
        """
        super().train(mode)
        self.lmm.eval()
        self.vae.eval()
        self.lmm.language_model.train(mode and self.config.activation_checkpointing)
        return self

    def trainable(self) -> dict[str, nn.Parameter]:
        """Queries, connector, projector and the whole diffusion transformer."""
        frozen = ("lmm.", "vae.")
        return {name: value for name, value in self.named_parameters() if not name.startswith(frozen)}

    # Frozen encoders

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Run autoencoder and understanding on uint8 [B, 3, S, S].

        Returns:
            `latents` float32 [B, C, h, w], as the autoencoder gives them (not scaled), and `features` float32
            [B, T, D].

        Raises:
            ValueError: the images have another size.
            NonFiniteOutputError: naming the rows whose numbers are not finite.
        """
        check_size(pixels, self.config.image_size)
        images = from_bytes(pixels.to(self.device))
        latents = self.vae.encode(images, return_dict=False)[0]
        return Watch(self.family).encoded({"latents": latents, "features": self.lmm.features(images)})

    # Batches and draws

    def collate(self, task: Task, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Make a batch (see the top of the module). A caption's prompt is cut after `max_caption` ids, as published.

        Raises:
            ValueError: a reconstruction's prompt does not fit, or the task is image_to_text.
        """
        _refuse_text(task)
        return self._prompter.batch(task, examples)

    def draw(self, task: Task, batch: Batch, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Draws on the CPU (see the top of the module), from one generator per example."""
        _refuse_text(task)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        uniform = torch.stack([torch.rand(2, generator=generator) for generator in generators])
        shape = batch["latents"].shape[1:]
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        draws = {"uniform": uniform[:, 0], "noise": noise}
        return {**draws, "caption_drop": uniform[:, 1]} if task == "text_to_image" else draws

    @property
    def _prompter(self) -> Prompter:
        if self.prompter is None:
            raise ValueError("this OpenUniModel was built without a tokenizer; pass one, or load it from a checkpoint")
        return self.prompter

    # Losses

    def loss(self, task: Task, batch: Batch, draws: Draws) -> LossTerm:
        """Squared error of the velocity, over all channels and places (OpenUni's `diff_loss`, weight 1)."""
        _refuse_text(task)
        ids, mask = batch["input_ids"], batch["mask"]
        if task == "text_to_image":
            dropped = (draws["caption_drop"] < self.config.caption_dropout)[:, None]
            ids = torch.where(dropped, batch["dropped_ids"], ids)
            mask = torch.where(dropped, batch["dropped_mask"], mask)
        context = self.context(self.loss_inputs(ids, mask, batch.get("features")))
        noised = self.noised(batch["latents"], draws)
        error = self.velocity(noised.latents, context, noised.timesteps).float() - noised.velocity
        return LossTerm(error.square().sum(), torch.tensor(float(error.numel()), device=error.device))

    def count(self, task: Task, batch: Batch, draws: Draws) -> Tensor:
        """Scalar float32: values of the latents."""
        del task, draws
        return torch.tensor(float(batch["latents"].numel()), device=batch["latents"].device)

    def loss_inputs(self, ids: Tensor, mask: Tensor, features: Tensor | None) -> QueryInputs:
        """`query_inputs`, with its arguments, in training, where a prompt with an image keeps its newest `max_prompt`
        positions only, as published. (`collate` refuses longer ones.)
        """
        return self.query_inputs(ids, mask, features, None if features is None else self.config.max_prompt)

    def query_inputs(
        self, ids: Tensor, mask: Tensor, features: Tensor | None, newest: int | None = None
    ) -> QueryInputs:
        """Input of the language model.

        Args:
            ids: int64 [B, L].
            mask: bool [B, L], True on valid ids.
            features: float [B, T, D] for prompts with an image, else None.
            newest: keep only so many positions, those next to the queries; None for all.
        """
        embeddings = self.lmm.embed(ids, features, self.config.image_context_id)
        if newest is not None:
            embeddings, mask = embeddings[:, -newest:], mask[:, -newest:]
        queries = self.meta_queries.to(embeddings.dtype).expand(ids.shape[0], -1, -1)
        seen = torch.cat([mask, mask.new_ones(queries.shape[:2])], dim=1)
        positions = (seen.long().cumsum(dim=1) - 1).clamp(min=0)
        return QueryInputs(torch.cat([embeddings, queries], dim=1), seen, positions)

    def query_states(self, inputs: QueryInputs) -> Tensor:
        """What the language model makes of the queries, float [B, Q, D]."""
        states = self.lmm.states(inputs.embeddings, inputs.mask, inputs.positions)
        return states[:, -self.config.queries :]

    def context(self, inputs: QueryInputs) -> Tensor:
        """What Sana's cross-attention reads, float [B, Q, K]."""
        return self.connected(self.query_states(inputs))[1]

    def connected(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """The connector's output, float [B, Q, W], and the context, float [B, Q, K], of the queries' states."""
        before, after = ends(self.projector, self.config.proj_type)
        found = self.connector(inputs_embeds=before(states)).last_hidden_state
        return found, after(found)

    def noised(self, latents: Tensor, draws: Draws) -> Noised:
        """Scaled and noised latents of latents float32 [B, C, h, w] as the autoencoder gives them.

        Args:
            latents: the latents.
            draws: `uniform` and `noise`.
        """
        scaled = latents * self.config.vae.scaling_factor
        return add_noise(scaled, draws["noise"], draws["uniform"], self.config.flow)

    def velocity(self, latents: Tensor, context: Tensor, timesteps: Tensor) -> Tensor:
        """Velocity float [B, C, h, w] of noised latents, as Sana predicts it.

        Args:
            latents: float32 [B, C, h, w], scaled.
            context: float [B, Q, K].
            timesteps: float or int64 [B], times up to the number of training levels (published: 1,000).
        """
        return self.transformer(latents, encoder_hidden_states=context, timestep=timesteps, return_dict=False)[0]

    # Drawing and answering

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        """Draw uint8 [B, 3, S, S] from captions; guidance is against "Generate an image."."""
        found = self._prompter.captions(prompts, numbered("prompt", prompts), sampling.guidance != 0)
        return self._draw(found, None, seeds, sampling)

    @torch.no_grad()
    def reconstruct(
        self, encoded: Mapping[str, Tensor], prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        """Draw uint8 [B, 3, S, S] from what `encode` gave and a template prompt each; guidance, if any, is against the
        same image with "Keep the image as it is." (`image_edit.py` of OpenUni).
        """
        found = self._prompter.templates(prompts, numbered("prompt", prompts), sampling.guidance != 0)
        return self._draw(found, encoded["features"].float(), seeds, sampling)

    @torch.no_grad()
    def answer(self, encoded: Mapping[str, Tensor], questions: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        """Greedy answers of InternVL3, without the end mark."""
        prompter = self._prompter
        prompts = prompter.questions(questions, numbered("question", questions), max_new_tokens)
        ids, features = prompts.ids.to(self.device), encoded["features"].float().to(self.device)
        embeddings = self.lmm.embed(ids, features, self.config.image_context_id)
        mask, watch = prompts.mask.to(self.device), Watch(self.family)
        rows = self.lmm.continue_greedily(embeddings, mask, max_new_tokens, prompter.turn_end, watch)
        return watch.passed([prompter.answer(row) for row in rows.tolist()])

    def guided_velocity(self, context: Tensor, guidance: float) -> Callable[[Tensor, Tensor], Tensor]:
        """Velocity (1 + g) * conditional - g * unconditional.

        Args:
            context: float [2B, Q, K], conditional then unconditional, or [B, Q, K] when `guidance` is 0.
            guidance: g; published guidance scales are 1 + g.

        Returns:
            Function of latents float32 [B, C, h, w] and a time, scalar int64, giving float32 [B, C, h, w].
        """

        def velocity(latents: Tensor, timestep: Tensor) -> Tensor:
            repeated = latents.repeat(len(context) // len(latents), 1, 1, 1)
            found = self.velocity(repeated, context, timestep.expand(len(context))).float()
            if guidance == 0:
                return found
            conditional, unconditional = found.chunk(2)
            return unconditional + (1 + guidance) * (conditional - unconditional)

        return velocity

    def _draw(
        self, prompts: Prompts, features: Tensor | None, seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        if features is not None:
            features = features.to(self.device).repeat(len(prompts.ids) // len(seeds), 1, 1)
        ids, mask = prompts.ids.to(self.device), prompts.mask.to(self.device)
        context = self.context(self.query_inputs(ids, mask, features))
        side = self.config.latent_size
        noise = seeded_noise(seeds, (self.config.sana.in_channels, side, side)).to(self.device)
        steps = denoise(self.guided_velocity(context, sampling.guidance), noise, sampling.steps, self.config.flow)
        (last,) = deque(steps, maxlen=1)
        watch = Watch(self.family)
        latents = watch.see(LATENTS, last.after) / self.config.vae.scaling_factor
        (images,) = self.vae.decode(latents, return_dict=False)
        return watch.passed(to_bytes(watch.see(PICTURE, images)))

    # Files

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        """Read a checkpoint (its layout: `reca.models.openuni.files`), straight to the device.

        Raises:
            CheckpointError: naming file and key, on missing, extra or misshaped keys, or values that are not finite.
        """
        refuse_other_family(folder, cls.family)
        config, tokenizer = read_config(folder), load_tokenizer(folder / "lmm")
        found = tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)
        if found != config.image_context_id or len(tokenizer) > config.language.vocab_size:
            raise CheckpointError(
                f"{folder / 'lmm'}: the tokenizer has {len(tokenizer)} ids and {IMAGE_CONTEXT} is {found}; the "
                f"configuration says {config.language.vocab_size} and image_context_id={config.image_context_id}"
            )
        model = built(lambda: cls(config, tokenizer), device, dtype, folder)
        model.stored = load_weights(published_state(model.state_dict()), folder)
        return model.eval()

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write a whole checkpoint under published keys; floating-point tensors as `dtype` if one is given."""
        write_config(self.config, folder)
        self._prompter.tokenizer.save_pretrained(str(folder / "lmm"))
        tensors = {name: joined(value) for name, value in published_state(self.state_dict()).items()}
        write_tensors(tensors, folder / "model.safetensors", dtype, self.stored)


def _refuse_text(task: Task) -> None:
    if task == "image_to_text":
        raise ValueError(
            "OpenUni has no image_to_text loss: its understanding side is frozen; set training.lambda_i2t to 0"
        )
