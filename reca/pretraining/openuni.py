"""OpenUni's part of pre-training: a tiny DC-AE, a tiny model around it, and the parts of its losses."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from torch import Tensor, nn
from torch.nn import functional

from reca.data.scenes import vocabulary
from reca.models.base import Example
from reca.models.openuni.config import (
    AutoencoderSizes,
    ConnectorSizes,
    FlowSettings,
    LanguageSizes,
    OpenUniConfig,
    SanaSizes,
    VisionSizes,
)
from reca.models.openuni.model import OpenUniModel
from reca.models.openuni.prompts import TURNS, pad
from reca.models.openuni.tokenizer import IMAGE_CONTEXT, TURN_END, build_chat_tokenizer
from reca.models.words import text_ids
from reca.objectives import templates
from reca.pretraining.config import TokenizerRecipe
from reca.pretraining.family import Redrawn, TinyFamily, Understood
from reca.pretraining.labels import FILLER
from reca.pretraining.tokenizer import training_scenes

SIDE = 64
WIDTH = 128
"""D of the tiny language model, and the width of the tiny Sana."""

CHANNELS = (16, 32, 64, 128, 128)
TINY_AUTOENCODER = AutoencoderSizes(
    latent_channels=16,
    encoder_block_types="ResBlock",
    decoder_block_types="ResBlock",
    encoder_block_out_channels=CHANNELS,
    decoder_block_out_channels=CHANNELS,
    encoder_layers_per_block=(0, 1, 1, 1, 1),
    decoder_layers_per_block=(0, 1, 1, 1, 1),
    encoder_qkv_multiscales=((),) * 5,
    decoder_qkv_multiscales=((),) * 5,
    scaling_factor=1.0,
)
"""Factor 16 (published: 32) and 16 channels: 16 latents a picture. No block at full resolution, as that is the most
costly."""

LATENT_NOISE = 0.1
"""Deviation of the noise on latents while the autoencoder trains: neighbours in latent space then decode alike."""

WEIGHT_DEVIATION = 0.16
"""Fresh weights of the language model. The published 0.02 belongs to widths of thousands; at 0.05 the queries' states
differ by 0.05 of their size from prompt to prompt, and drawing has learnt to ignore them before they say anything: what
the right prompt takes off the velocity's error after 300 updates is 0.001, from 0.13 on it is 0.004 after 200."""


class TinyOpenUni(TinyFamily[AutoencoderDC, OpenUniModel]):
    """Flow matching in Sana, asked by learned queries that read an InternVL."""

    about = "The real OpenUni architecture (InternViT, Qwen2, queries, connector, Sana, DC-AE) at toy size"

    def new_tokenizer(self) -> AutoencoderDC:
        """diffusers' AutoencoderDC at the sizes of `TINY_AUTOENCODER`."""
        return AutoencoderDC(in_channels=3, **asdict(TINY_AUTOENCODER))

    def redraw(self, tokenizer: AutoencoderDC, pixels: Tensor, update: int, recipe: TokenizerRecipe) -> Redrawn:
        """From latents with a little noise; penalty: `recipe.kl` times half their mean square.

        That is a KL autoencoder (arXiv 1312.6114, appendix B) of fixed variance. The draw is a function of
        (seed, update).
        """
        latents = tokenizer.encode(pixels, return_dict=False)[0]
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + update)
        noised = latents + LATENT_NOISE * torch.randn(latents.shape, generator=generator)
        penalty = 0.5 * recipe.kl * latents.float().square().mean()
        return Redrawn(tokenizer.decode(noised, return_dict=False)[0], (penalty,), None)

    def redrawn(self, tokenizer: AutoencoderDC, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """From the latents as they are."""
        return tokenizer.decode(tokenizer.encode(pixels, return_dict=False)[0], return_dict=False)[0], None

    def build(self, tokenizer: AutoencoderDC, seed: int) -> OpenUniModel:
        """An untrained tiny OpenUni. The scaling factor gives latents of training scenes a mean square of 1."""
        torch.manual_seed(seed)
        words = build_chat_tokenizer([*vocabulary(), FILLER, *templates()])
        context = words.convert_tokens_to_ids(IMAGE_CONTEXT)
        assert isinstance(context, int)
        model = OpenUniModel(_tiny_config(len(words), context, _scale(tokenizer)), words)
        for module in model.lmm.language_model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=WEIGHT_DEVIATION)
        for name, parameter in model.lmm.vision_model.named_parameters():
            if name.rsplit(".", 1)[-1] in ("lambda_1", "lambda_2"):
                nn.init.ones_(parameter)
        model.vae.load_state_dict(tokenizer.state_dict())
        return model

    def targets(self, model: OpenUniModel, pixels: Tensor) -> dict[str, Tensor]:
        """Latents, not scaled."""
        return {"latents": model.vae.encode(pixels, return_dict=False)[0]}

    def learns(self, model: OpenUniModel) -> Sequence[nn.Module]:
        """InternVL: all that understands."""
        return (model.lmm,)

    def blanks(self, model: OpenUniModel) -> Mapping[str, np.ndarray]:
        """Features of the width of the language model."""
        return {"features": np.zeros((model.config.image_tokens, WIDTH), dtype=np.float32)}

    def features(self, model: OpenUniModel, pixels: Tensor) -> Tensor:
        """The tower's merged patches, projected."""
        return model.lmm.features(pixels)

    def projected(self, model: OpenUniModel, features: Tensor) -> Tensor:
        """As they are: the projection is part of the features."""
        del model
        return features

    def asked(self, model: OpenUniModel, examples: Sequence[Example], features: Tensor) -> Understood:
        """Cross entropy of the ids of answers and their ends, in the form that `OpenUniModel.answer` continues."""
        assert model.prompter is not None
        names = [f"sample {example.key!r}" for example in examples]
        pairs = [example.text.split("\n", 1) for example in examples]
        questions = [TURNS.format(model.prompter.image + question) for question, _ in pairs]
        answers = [f"{answer}{TURN_END}" for _, answer in pairs]
        asked, told = (text_ids(model.prompter.tokenizer, texts, names) for texts in (questions, answers))
        prompts = pad([[*question, *answer] for question, answer in zip(asked, told, strict=True)])
        scored = torch.zeros_like(prompts.mask)
        for row, (question, answer) in enumerate(zip(asked, told, strict=True)):
            scored[row, len(question) - 1 : len(question) + len(answer) - 1] = True
        positions = torch.arange(prompts.ids.shape[1]).expand_as(prompts.ids)
        embeddings = model.lmm.embed(prompts.ids, features, model.config.image_context_id)
        states = model.lmm.states(embeddings, prompts.mask, positions)
        logits = model.lmm.language_model.lm_head(states[scored]).float()
        return Understood(functional.cross_entropy(logits, prompts.ids.roll(-1, dims=1)[scored]), features)

    def word_embeddings(self, model: OpenUniModel, words: Sequence[str]) -> Tensor:
        """Rows of the word embedding."""
        assert model.prompter is not None
        ids = torch.tensor(model.prompter.tokenizer.convert_tokens_to_ids(list(words)))
        return model.lmm.language_model.model.embed_tokens(ids)

    def spelled_loss(
        self, model: OpenUniModel, examples: Sequence[Example], slots: Sequence[Sequence[str]], seeds: Sequence[int]
    ) -> Tensor:
        """Mean squared error of the velocity; words take the place of the features."""
        batch = model.collate("reconstruction", examples)
        words = self.word_embeddings(model, [word for row in slots for word in row]).unflatten(0, (len(slots), -1))
        context = model.context(model.query_inputs(batch["input_ids"], batch["mask"], words))
        noised = model.noised(batch["latents"], model.draw("reconstruction", batch, seeds))
        return (model.velocity(noised.latents, context, noised.timesteps).float() - noised.velocity).square().mean()


def _tiny_config(vocabulary_size: int, image_context_id: int, scale: float) -> OpenUniConfig:
    return OpenUniConfig(
        queries=16,
        image_size=SIDE,
        image_context_id=image_context_id,
        max_prompt=128,
        activation_checkpointing=False,
        language=LanguageSizes(
            vocab_size=vocabulary_size,
            hidden_size=WIDTH,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=192,
        ),
        vision=VisionSizes(
            hidden_size=96,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=8,
        ),
        connector=ConnectorSizes(intermediate_size=384, num_hidden_layers=2, num_attention_heads=4),
        sana=SanaSizes(
            in_channels=16,
            out_channels=16,
            num_attention_heads=4,
            attention_head_dim=32,
            num_layers=4,
            num_cross_attention_heads=4,
            cross_attention_head_dim=32,
            cross_attention_dim=WIDTH,
            caption_channels=WIDTH,
            mlp_ratio=2.0,
            sample_size=4,
        ),
        vae=replace(TINY_AUTOENCODER, scaling_factor=scale),
        flow=FlowSettings(flow_shift=1.0),
    )


@torch.no_grad()
def _scale(tokenizer: AutoencoderDC) -> float:
    """Factor, rounded to four places, that gives the latents of 256 training scenes a mean square of 1."""
    scenes = training_scenes(0, 0, 256)
    latents = torch.cat([tokenizer.encode(part, return_dict=False)[0] for part in scenes.split(64)])
    return round(float(latents.square().mean().rsqrt()), 4)


FAMILY = TinyOpenUni()
