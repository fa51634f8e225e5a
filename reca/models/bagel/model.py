"""BAGEL: losses over explicit draws on packed batches, drawing, editing, answering, and its files.

Batches are described in `reca.models.bagel.collation`. Draws (`draw`), batch axis first, for both drawing tasks:
`text_drop` float32 [B], uniform in [0, 1); `timestep` float32 [B], standard normal, the logit of the time; `noise`
float32 [B, N, C] in token layout and `posterior` float32 [B, Z, H, W], standard normal, zero in the filling. None for
image_to_text.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from reca.config import SamplingConfig
from reca.models.autoencoder import published_state
from reca.models.bagel import files, flow
from reca.models.bagel.collation import Collator, random_draws
from reca.models.bagel.config import BagelConfig, Guidance, read_config, write_config
from reca.models.bagel.context import Context, Reader
from reca.models.bagel.images import normalised, resized, to_bytes
from reca.models.bagel.network import Bagel, Predictions
from reca.models.bagel.packing import Layout, grid_positions
from reca.models.bagel.tokenizer import marks_of
from reca.models.bagel.vae import Vae
from reca.models.bagel.vision import from_patches, to_patches
from reca.models.base import Batch, Draws, Editor, Example, Geometry, LossTerm, Task, UnifiedModel
from reca.models.checkpoint import built, load_strict, write_tensors
from reca.models.detection import refuse_other_family
from reca.models.finite import LATENTS, PICTURE, Watch
from reca.models.pixels import check_size
from reca.models.words import load_tokenizer


class BagelModel(UnifiedModel, Editor):
    """BAGEL. The generation side trains; understanding expert, tower, connector and autoencoder are frozen.

    Args:
        config: sizes and settings.
        tokenizer: needed by everything that takes text; None builds a model of shapes only.
        source: where the tokenizer was found, for error messages.

    Raises:
        CheckpointError: the tokenizer lacks a mark or has more ids than the embedding has rows.
    """

    family = "bagel"

    def __init__(
        self, config: BagelConfig, tokenizer: PreTrainedTokenizerFast | None = None, source: Path | str = "tokenizer"
    ) -> None:
        super().__init__()
        self.config = config
        self.collator: Collator | None = None
        if tokenizer is not None:
            marks = marks_of(tokenizer, config.language.vocab_size, source)
            self.collator = Collator(config, tokenizer, marks)
        self.network = Bagel(config)
        self.vae = Vae(config.vae)
        wanted = {id(parameter) for parameter in self.trainable().values()}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in wanted)

    @property
    def geometry(self) -> Geometry:
        """Square pictures, cut from the centre. The release keeps the aspect ratio, and RecA's pictures are square."""
        return Geometry(size=self.config.image_size, fit="crop")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.llm2vae.weight.device

    def trainable(self) -> dict[str, nn.Parameter]:
        """Generation expert, its bridges and the time embedding: 6,539,861,056 numbers of the 7B model.

        With `freeze_understanding` off also the understanding expert, embeddings, output projection and connector.
        """
        everything = {files.network_name(name): value for name, value in self.network.named_parameters()}
        if self.config.freeze_understanding:
            return {name: everything[name] for name in files.generation_side(everything)}
        fixed = ("vit_model.", "vit_pos_embed.", "latent_pos_embed.")
        return {name: value for name, value in everything.items() if not name.startswith(fixed)}

    @property
    def understanding_frozen(self) -> bool:
        """Whether gradients stop at understanding tokens: `freeze_understanding`, unless the connector was set to learn
        none the less, as pre-training does.
        """
        return self.config.freeze_understanding and not self.network.connector.fc1.weight.requires_grad

    # Frozen encoders

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Run autoencoder and understanding tower on uint8 [B, 3, S, S].

        Returns:
            `latent_mean`, `latent_std` float32 [B, Z, S / f, S / f], from which training draws latents as the release
            does, and `features` float32 [B, rows, columns, D] of the picture at the size of `condition`.

        Raises:
            ValueError: pictures of another size than `geometry` says. NonFiniteOutputError: see `UnifiedModel.encode`.
        """
        check_size(pixels, self.config.image_size)
        mean, deviation = (moment.float() for moment in self.vae.moments(normalised(pixels.to(self.device))))
        features = self.features(resized(pixels, self.config.condition)).float()
        return Watch(self.family).encoded({"latent_mean": mean, "latent_std": deviation, "features": features})

    def features(self, pixels: Tensor) -> Tensor:
        """Understanding features float32 [B, rows, columns, D] of uint8 [B, 3, H, W], already resized."""
        side = self.config.vision.patch_size
        rows, columns = (length // side for length in pixels.shape[-2:])
        patches = to_patches(normalised(pixels.to(self.device)), side)
        positions = grid_positions(rows, columns, self.config.seen_side).to(self.device)
        return self.network.vit_model(patches, positions).unflatten(1, (rows, columns))

    # Batches and draws

    def collate(self, task: Task, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Make a batch (see `reca.models.bagel.collation`). Pictures may differ in size."""
        return self._collator.batch(task, examples)

    def draw(self, task: Task, batch: Batch, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Draws on the CPU (see the top of the module), from one generator per example."""
        return {} if task == "image_to_text" else random_draws(batch, seeds, self.config)

    @property
    def _collator(self) -> Collator:
        if self.collator is None:
            raise ValueError("this BagelModel was built without a tokenizer; pass one, or load it from a checkpoint")
        return self.collator

    # Losses

    def loss(self, task: Task, batch: Batch, draws: Draws) -> LossTerm:
        """Velocity error per latent token (drawing tasks), or cross entropy per answer id and end mark.

        Raises:
            ValueError: image-to-text while understanding is frozen and gradients are wanted: nothing would train.
        """
        if task == "image_to_text":
            if self.understanding_frozen and torch.is_grad_enabled():
                raise ValueError(
                    "BAGEL's understanding side is frozen, so image_to_text trains nothing; set training.lambda_i2t=0"
                )
            return self._answer_loss(batch)
        layout, inputs = self.packed_inputs(task, batch, draws)
        found = self.predict(layout, *inputs)
        error = (found.velocity - found.target).square().mean(dim=1)
        return LossTerm(error.sum(), error.new_tensor(float(len(error))))

    def count(self, task: Task, batch: Batch, draws: Draws) -> Tensor:
        """Latent tokens, or ids of the answers with their end marks."""
        del draws
        answers = task == "image_to_text"
        return ((batch["answer_length"] + 1) if answers else batch["latent_grid"].prod(dim=1)).sum().float()

    def packed_inputs(
        self, task: Task, batch: Batch, draws: Draws
    ) -> tuple[Layout, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Layout of a drawing task's batch, and the other arguments of `predict`: features, clean tokens, noise, time
        logits.
        """
        dropped = (draws["text_drop"] < self.config.text_dropout).tolist()
        layout = self._collator.layout(task, batch, dropped).to(self.device)
        latents = batch["latent_mean"] + batch["latent_std"] * draws["posterior"]
        patch, clean, noise = self.config.latent_patch_size, list[Tensor](), list[Tensor]()
        for row, (rows, columns) in enumerate(layout.latent_grids):
            clean.append(to_patches(latents[row : row + 1, :, : rows * patch, : columns * patch], patch)[0])
            noise.append(draws["noise"][row, : rows * columns])
        return layout, (self._features(batch), torch.cat(clean), torch.cat(noise), draws["timestep"])

    def _answer_loss(self, batch: Batch) -> LossTerm:
        layout = self._collator.layout("image_to_text", batch, [False] * len(batch["text"])).to(self.device)
        nothing = torch.zeros(0, self.config.token_values, device=self.device)
        found = self.predict(layout, self._features(batch), nothing, nothing, nothing[:, 0])
        total = functional.cross_entropy(found.answers, layout.labels, reduction="sum")
        return LossTerm(total, total.new_tensor(float(len(layout.labels))))

    def predict(
        self,
        layout: Layout,
        features: Tensor,
        clean: Tensor,
        noise: Tensor,
        logits: Tensor,
        connected: Tensor | None = None,
    ) -> Predictions:
        """Everything that losses of a packed batch ask for, in one pass.

        Args:
            layout: packed batch.
            features: float32 [Nv, D] understanding features.
            clean: float32 [Nl, C] latent tokens.
            noise: float32 [Nl, C].
            logits: float32 [I], logit of the time before the shift, of each picture of latent tokens; -inf for clean
                ones.
            connected: float [Nv, E] to stand for what the connector makes of `features`.
        """
        times = flow.shifted(logits.float().sigmoid(), self.config.timestep_shift)
        mixed = flow.noised(clean, noise, times[layout.latent_picture, None])
        embedded = self.network.embed_packed(layout, features, mixed, times, connected)
        und, gen = self.network.packed(layout, embedded, self.understanding_frozen)
        return Predictions(
            velocity=self.network.llm2vae(gen[layout.scored]).float(),
            target=(noise - clean)[layout.scored],
            answers=self.network.language_model.lm_head(und[layout.label_rows]).float(),
        )

    def _features(self, batch: Batch) -> Tensor:
        """Understanding features float32 [Nv, D] of a batch, without its filling."""
        if "features" not in batch:
            return torch.zeros(0, self.config.vision.hidden_size, device=self.device)
        grids = batch["feature_grid"].tolist()
        return torch.cat(
            [batch["features"][i, :rows, :columns].flatten(0, 1) for i, (rows, columns) in enumerate(grids)]
        )

    # Drawing, editing and answering

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        """Draw uint8 [B, 3, S, S] from captions; guidance is against an empty context.

        The text scale of the published sampler is 1 + `sampling.guidance`, its `num_timesteps` is `sampling.steps` + 1.
        """
        side = self.config.image_size // self.config.token_pixels
        ids = self._collator.prompts(prompts, side * side + 2)
        empty = self.reader.empty(len(prompts))
        text = self.reader.text(empty, ids)
        return self._draw((text, empty, text), _generators(seeds), sampling, self.config.drawing, (side, side))

    @torch.no_grad()
    def reconstruct(
        self, encoded: Mapping[str, Tensor], prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        """Draw uint8 [B, 3, S, S] from the features that `encode` gave and a template prompt each.

        Guidance, if any, is against the picture without its prompt, the form that RecA trains by text dropout.
        """
        side = self.config.image_size // self.config.token_pixels
        features = encoded["features"].to(self.device).float()
        ids = self._collator.prompts(prompts, side * side + features.shape[1] * features.shape[2] + 4)
        empty = self.reader.empty(len(prompts))
        seen = self.reader.seen(empty, features)
        contexts = (self.reader.text(seen, ids), seen, self.reader.text(empty, ids))
        return self._draw(contexts, _generators(seeds), sampling, self.config.drawing, (side, side))

    @torch.no_grad()
    def edit(
        self, pixels: Tensor, instructions: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        """Draw pictures changed as told, from clean latents, understanding features and text.

        Args:
            pixels: uint8 [B, 3, H, W] of any one size.
            instructions: one for each picture.
            seeds: one for each picture.
            sampling: steps and text guidance; the rest is `BagelConfig.editing`.

        Returns:
            uint8 [B, 3, H', W'], at the size of `BagelConfig.drawn`.
        """
        fitted = resized(pixels, self.config.drawn)
        mean, deviation = self.vae.moments(normalised(fitted.to(self.device)))
        generators = _generators(seeds)
        posterior = torch.stack([torch.randn(mean.shape[1:], generator=generator) for generator in generators])
        clean = to_patches(mean + deviation * posterior.to(self.device), self.config.latent_patch_size)
        features = self.features(resized(fitted, self.config.seen))
        rows, columns = (length // self.config.token_pixels for length in fitted.shape[-2:])
        pictures = 2 * (rows * columns + 2) + features.shape[1] * features.shape[2] + 2
        ids = self._collator.prompts(instructions, pictures, "instruction")
        empty = self.reader.empty(len(instructions))
        both = self.reader.seen(self.reader.latents(empty, clean, columns), features)
        contexts = (self.reader.text(both, ids), both, self.reader.text(empty, ids))
        return self._draw(contexts, generators, sampling, self.config.editing, (rows, columns))

    @torch.no_grad()
    def answer(self, encoded: Mapping[str, Tensor], questions: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        """Greedy answers, without the end mark, from the same features that RecA reconstructs from."""
        features = encoded["features"].to(self.device).float()
        pictures = features.shape[1] * features.shape[2] + 2 + max_new_tokens
        ids = self._collator.prompts(questions, pictures, "question")
        context = self.reader.text(self.reader.seen(self.reader.empty(len(questions)), features), ids)
        watch = Watch(self.family)
        rows, _ = self.reader.greedy(context, max_new_tokens, watch)
        return watch.passed([self._collator.answer(row) for row in rows.tolist()])

    @property
    def reader(self) -> Reader:
        """Reads splits into contexts."""
        return Reader(self.network, self._collator.marks)

    def _draw(
        self,
        contexts: tuple[Context, Context, Context],
        generators: Sequence[torch.Generator],
        sampling: SamplingConfig,
        guidance: Guidance,
        grid: tuple[int, int],
    ) -> Tensor:
        """Pictures of `grid` latent tokens from contexts with everything, without text, and without pictures."""
        shape = (grid[0] * grid[1], self.config.token_values)
        noise = [torch.randn(shape, generator=generator) for generator in generators]
        velocities = [partial(self.reader.velocity, context, columns=grid[1]) for context in contexts]
        times = flow.time_grid(sampling.steps, self.config.sampling_shift)
        scaled = replace(guidance, text=1 + sampling.guidance)
        steps = flow.sample(velocities, torch.stack(noise).to(self.device), times, scaled)
        watch = Watch(self.family)
        tokens = watch.see(LATENTS, cast(Tensor, deque(steps, maxlen=1)[0]))
        images = self.vae.decode(from_patches(tokens, grid[0], grid[1], self.config.latent_patch_size))
        return watch.passed(to_bytes(watch.see(PICTURE, images)))

    # Files

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        """Read a checkpoint: configurations, `ema.safetensors`, `ae.safetensors`, tokenizer.

        Raises:
            CheckpointError: naming file and key, on missing, extra or misshaped keys, or values that are not finite.
        """
        refuse_other_family(folder, cls.family)
        config, tokenizer = read_config(folder), load_tokenizer(folder)
        model = built(lambda: cls(config, tokenizer, folder / "tokenizer.json"), device, dtype, folder)
        model.stored = {
            **load_strict(files.network_tensors(model.network), files.find_network(folder)),
            **load_strict(published_state(model.vae.autoencoder), folder / files.AUTOENCODER),
        }
        return model.eval()

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write a checkpoint in the published layout; the network as `dtype` if one is given (released: bfloat16)."""
        write_config(self.config, folder)
        self._collator.tokenizer.save_pretrained(str(folder))
        write_tensors(files.network_tensors(self.network), folder / files.NETWORK, dtype, self.stored)
        write_tensors(published_state(self.vae.autoencoder), folder / files.AUTOENCODER, stored=self.stored)


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One for each picture, so that a picture does not depend on the rest of its batch."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]
