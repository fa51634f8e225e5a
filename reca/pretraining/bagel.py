"""BAGEL's part of pre-training: a tiny autoencoder, a tiny model around it, and the parts of its losses."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress

import numpy as np
import torch
from torch import Tensor, nn

from reca.data.edits import WORDS, Edit, edit_at
from reca.data.scenes import Scene, vocabulary
from reca.data.sets import generator
from reca.models.bagel.config import BagelConfig, Guidance, ImageRule, LanguageSizes, VaeSizes, VisionSizes
from reca.models.bagel.images import normalised
from reca.models.bagel.model import BagelModel
from reca.models.bagel.network import INITIAL_DEVIATION
from reca.models.bagel.packing import Picture, Split, Text, grid_positions, pack
from reca.models.bagel.tokenizer import build_word_tokenizer
from reca.models.bagel.vae import Vae
from reca.models.bagel.vision import to_patches
from reca.models.base import Example
from reca.objectives import templates
from reca.pretraining.config import BaseRecipe, TokenizerRecipe
from reca.pretraining.family import Redrawn, TinyFamily
from reca.pretraining.labels import FILLER
from reca.pretraining.tokenizer import scene_pixels, training_scenes

SIDE, PATCH = 64, 16

TINY_VAE = VaeSizes(
    channels=32, multipliers=(1, 1, 1, 1), blocks=0, latent_channels=4, norm_groups=8, scale=1.0, shift=0.0
)
"""Factor 8 and latent tokens of 2 x 2 as published, 16 values each. No residual block beside the downsampling and one
beside each upsampling, all of one width: after 150 updates an L1 error of .161, against .183 of widths 8, 16, 32, 64
with a block more at a higher cost, and .19 and more of factor 16."""

TINY_QWEN = LanguageSizes(
    vocab_size=0,
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=160,
)
"""Both experts; `vocab_size` is filled in."""

TINY_SIGLIP = VisionSizes(
    hidden_size=96,
    intermediate_size=384,
    num_hidden_layers=4,
    num_attention_heads=4,
    image_size=SIDE,
    patch_size=PATCH,
)

EDITS = 10
"""Edits of one update."""

LEFT_OUT = 0.1
"""Share of edits without their instruction, and share without their picture, for guidance against either."""

MEASURED_SCENES = 256
WIDER = 2.5
"""Fresh weights are scaled from Qwen2's deviation of .02 to the .05 that suits a width of 128."""

WORD_DEVIATION = 0.5
"""Of fresh word embeddings. The fixed position added to an understanding token has a deviation of .7 per value; words
much smaller than that are lost under it."""


class TinyBagel(TinyFamily[Vae, BagelModel]):
    """Flow matching: two Qwen2 experts and a SigLIP tower around an autoencoder."""

    about = "The real BAGEL architecture (two Qwen2 experts, SigLIP tower and connector, FLUX autoencoder) at toy size"

    def new_tokenizer(self) -> Vae:
        """An autoencoder of the sizes of `TINY_VAE`."""
        vae = Vae(TINY_VAE)
        vae.requires_grad_(True)
        return vae

    def redraw(self, tokenizer: Vae, pixels: Tensor, update: int, recipe: TokenizerRecipe) -> Redrawn:
        """Decode a draw from the posterior; penalty: `recipe.kl` times its divergence from a standard normal.

        Formula: arXiv 1312.6114, appendix B. The draw is a function of (seed, update).
        """
        mean, deviation = tokenizer.moments(pixels)
        mean, deviation = mean.float(), deviation.float()
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + update)
        latents = mean + deviation * torch.randn(mean.shape, generator=generator)
        divergence = (mean.square() + deviation.square() - 1).mean() / 2 - deviation.log().mean()
        return Redrawn(tokenizer.decode(latents), (recipe.kl * divergence,), None)

    @torch.no_grad()
    def redrawn(self, tokenizer: Vae, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Decode the posterior's mean."""
        return tokenizer.decode(tokenizer.moments(pixels)[0]), None

    def build(self, tokenizer: Vae, seed: int) -> BagelModel:
        """An untrained tiny BAGEL. Scale and shift give latents of the training scenes mean 0 and variance 1."""
        torch.manual_seed(seed)
        words = build_word_tokenizer([*vocabulary(), FILLER, *WORDS, *templates()])
        model = BagelModel(_tiny_config(len(words), _scaled(tokenizer)), words)
        with torch.no_grad():
            for module in model.network.modules():
                if isinstance(module, nn.Linear):
                    module.weight.mul_(WIDER)
            nn.init.normal_(model.network.language_model.model.embed_tokens.weight, std=WORD_DEVIATION)
            # Published at 0, for a language model that is there already; here everything learns from the first update.
            nn.init.normal_(model.network.llm2vae.weight, std=INITIAL_DEVIATION)
        model.vae.load_state_dict(tokenizer.state_dict())
        return model

    def targets(self, model: BagelModel, pixels: Tensor) -> dict[str, Tensor]:
        """Mean and deviation of latents, to the bit as `BagelModel.encode` gives them."""
        mean, deviation = model.vae.moments(normalised(((pixels + 1) * 127.5).round()))
        return {"latent_mean": mean, "latent_std": deviation}

    def learns(self, model: BagelModel) -> Sequence[nn.Module]:
        """Tower, connector, word embedding, understanding expert and output projection."""
        language = model.network.language_model
        experts = [layer.und for layer in language.model.layers]
        return (
            model.network.vit_model,
            model.network.connector,
            language.model.embed_tokens,
            *experts,  # pyright: ignore[reportReturnType]
            language.model.norm,
            language.lm_head,
        )

    def blanks(self, model: BagelModel) -> Mapping[str, np.ndarray]:
        """The tower's grid and width."""
        vision = model.config.vision
        return {"features": np.zeros((vision.side, vision.side, vision.hidden_size), dtype=np.float32)}

    def features(self, model: BagelModel, pixels: Tensor) -> Tensor:
        """The tower's output float [B, rows, columns, E], as `BagelModel.encode` gives it."""
        side = model.config.vision.side
        patches = to_patches(pixels, model.config.vision.patch_size)
        return model.network.vit_model(patches, grid_positions(side, side, model.config.seen_side)).unflatten(
            1, (side, side)
        )

    def projected(self, model: BagelModel, features: Tensor) -> Tensor:
        """Through the connector, before the position is added."""
        return model.network.connector(features.flatten(1, 2))

    def word_embeddings(self, model: BagelModel, words: Sequence[str]) -> Tensor:
        """Rows of the word embedding."""
        assert model.collator is not None
        return model.network.embed_text(torch.tensor(model.collator.tokenizer.convert_tokens_to_ids(list(words))))

    def spelled_loss(
        self, model: BagelModel, examples: Sequence[Example], slots: Sequence[Sequence[str]], seeds: Sequence[int]
    ) -> Tensor:
        """Mean square error of the velocity."""
        batch = model.collate("reconstruction", examples)
        layout, inputs = model.packed_inputs("reconstruction", batch, model.draw("reconstruction", batch, seeds))
        words = self.word_embeddings(model, [word for row in slots for word in row])
        found = model.predict(layout, *inputs, connected=words)
        return (found.velocity - found.target).square().mean()

    def further(self, model: BagelModel, recipe: BaseRecipe, update: int) -> dict[str, Tensor]:
        """`edit`: mean square error of the velocity of edited pictures."""
        edits = [edit_at("edits", recipe.seed, update * EDITS + number) for number in range(EDITS)]
        return {"edit": edit_loss(model, edits, generator("base/edits", recipe.seed, update))}


def edit_loss(model: BagelModel, edits: Sequence[Edit], rng: np.random.Generator) -> Tensor:
    """Mean square error of the velocity, in the layout that `BagelModel.edit` reads: clean latents, features, text.

    Args:
        model: the model in training; features get no gradient here.
        edits: pictures before and after, and instructions.
        rng: source of what is left out, times, noise and draws of latents.

    Returns:
        Scalar, mean over all values of all edited pictures.
    """
    assert model.collator is not None
    grid = model.config.max_latent_size
    shown, told = rng.random((2, len(edits))) >= LEFT_OUT
    texts = model.collator.prompts([edit.instruction for edit in edits], 3 * (grid * grid + 2), "instruction")
    samples = list[list[Split]]()
    for text, with_picture, with_text in zip(texts, shown, told, strict=True):
        picture: list[Split] = [Picture("clean", grid, grid), Picture("seen", grid, grid)] if with_picture else []
        samples.append([*picture, *([Text(text)] if with_text else []), Picture("noised", grid, grid)])
    layout = pack(samples, model.collator.marks, model.config.seen_side, grid)
    draws = torch.Generator().manual_seed(int(rng.integers(2**62)))
    kept = torch.from_numpy(shown)
    with torch.no_grad():
        before, features = _condition(model, [edit.source for edit in compress(edits, shown)], draws)
        after = _latent_tokens(model, scene_pixels(edit.target for edit in edits), draws)
    # Latent pictures come sample by sample: the clean one, where there is one, before the noised one.
    order = torch.cat([kept.cumsum(0)[:, None] - 1, len(before) + torch.arange(len(edits))[:, None]], dim=1)
    chosen = order[torch.stack([kept, torch.ones_like(kept)], dim=1)]
    clean = torch.cat([before, after])[chosen].flatten(0, 1)
    logits = torch.where(chosen < len(before), -torch.inf, torch.randn(len(chosen), generator=draws))
    noise = torch.randn(clean.shape, generator=draws)
    found = model.predict(layout, features, clean, noise, logits)
    return (found.velocity - found.target).square().mean()


def _condition(model: BagelModel, scenes: Sequence[Scene], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latent tokens [B, N, C] and understanding features [B * N, D] of scenes, of which there may be none."""
    if not scenes:
        tokens = torch.empty(0, model.config.max_latent_size**2, model.config.token_values)
        return tokens, torch.empty(0, model.config.vision.hidden_size)
    pixels = scene_pixels(scenes)
    return _latent_tokens(model, pixels, generator), FAMILY.features(model, pixels).flatten(0, 2)


def _latent_tokens(model: BagelModel, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Latent tokens float32 [B, N, C], drawn from their distribution, of pixels float [B, 3, S, S] in [-1, 1]."""
    mean, deviation = model.vae.moments(pixels)
    drawn = mean + deviation * torch.randn(mean.shape, generator=generator)
    return to_patches(drawn.float(), model.config.latent_patch_size)


def _tiny_config(vocabulary_size: int, vae: VaeSizes) -> BagelConfig:
    square = ImageRule(SIDE, SIDE, PATCH)
    return BagelConfig(
        image_size=SIDE,
        max_latent_size=SIDE // PATCH,
        timestep_shift=2.0,
        sampling_shift=2.0,
        condition=square,
        seen=square,
        drawn=square,
        editing=Guidance(image=1.5, renorm="text_channel"),
        language=replace(TINY_QWEN, vocab_size=vocabulary_size),
        vision=TINY_SIGLIP,
        vae=vae,
    )


@torch.no_grad()
def _scaled(vae: Vae) -> VaeSizes:
    """The autoencoder's sizes with the scale and shift that bring its draws to mean 0 and variance 1."""
    moments = [vae.moments(part) for part in training_scenes(TokenizerRecipe().seed, 0, MEASURED_SCENES).split(64)]
    mean, deviation = (torch.cat(part) for part in zip(*moments, strict=True))
    variance = mean.var() + deviation.square().mean()
    return replace(vae.sizes, scale=float(variance.rsqrt()), shift=float(mean.mean()))


FAMILY = TinyBagel()
