"""Harmon's part of pre-training: a tiny KL autoencoder, a tiny model around it, and the parts of its losses."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from reca.data.scenes import vocabulary
from reca.models.base import Example
from reca.models.harmon import diffusion
from reca.models.harmon.autoencoder import build_autoencoder, encode_pixels, image_moments
from reca.models.harmon.config import HarmonConfig, LlmSizes, MarSizes, VaeSizes
from reca.models.harmon.head import DiffusionHead, ResidualBlock
from reca.models.harmon.masking import share_below
from reca.models.harmon.model import HarmonModel
from reca.models.harmon.network import MaskedPass
from reca.models.harmon.text import build_word_tokenizer
from reca.objectives import templates
from reca.pretraining.config import TokenizerRecipe
from reca.pretraining.family import Redrawn, TinyFamily, Understood
from reca.pretraining.labels import FILLER
from reca.pretraining.tokenizer import training_scenes

SIDE = 64
CHANNELS = 16

TINY_VAE = VaeSizes(ch=32, ch_mult=(1, 1, 1, 2, 2), num_res_blocks=1, resolution=SIDE, attn_resolutions_encoder=(4,))
"""Factor 16 and 16 channels as published: 16 latents a picture. 32 channels are the least that 32 norm groups allow."""

TINY_MAR = MarSizes(
    img_size=SIDE,
    encoder_embed_dim=128,
    encoder_depth=4,
    encoder_num_heads=4,
    decoder_embed_dim=128,
    decoder_depth=3,
    decoder_num_heads=4,
    vae_embed_dim=CHANNELS,
    class_num=1,
    attn_dropout=0.0,
    proj_dropout=0.0,
    buffer_size=4,
    diffloss_d=3,
    diffloss_w=256,
    num_sampling_steps=100,
)
"""Dropout is off: it costs a random generator for every row and place, and a base of minutes does not overfit."""

TINY_LLM = LlmSizes(
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=256,
)
WEIGHT_DEVIATION = 0.16
"""Fresh weights of the language model; the published 0.02 belongs to widths of thousands. At 0.05 a caption says half
as much about the latents after 300 updates."""

WORD_DEVIATION = 0.2
"""Fresh word embeddings: at 0.05 the blocks' outputs bury which word it was."""

TABLE_DEVIATION = 0.5
"""Fresh position tables, mask token and buffers. With the published 0.02, hidden tokens of all places look the same to
the decoder at this width for hundreds of updates."""

HEAVIEST = 1000.0
"""Largest weight of a noise level (see `taught`)."""

HIGHEST_DRAWS = 128
"""Hidden tokens that are shown at the highest noise level too, in every batch."""

CONSTANT = 4.0
"""Deviation of the constant part of a fresh head's residual stream; its norms then hardly change with their input."""

WORDS_WEIGHT = 0.3
"""Of the loss that has conditions tell the prompt's words (see `told`), in nats a prompt."""

TELLER = "teller"
"""Name of the layer that reads words off conditions while the model trains; it is never written."""

BUFFER_WEIGHT = 0.2
"""Of the loss that ties buffer tokens of a whole picture to the filler word: spelled captions put it there."""


class TinyHarmon(TinyFamily[AutoencoderKL, HarmonModel]):
    """Masked autoregression over continuous latents: one encoder reads and draws, around a Qwen2."""

    about = "The real Harmon architecture (Qwen2, masked autoencoder with diffusion head, KL autoencoder) at toy size"

    def new_tokenizer(self) -> AutoencoderKL:
        """diffusers' AutoencoderKL at the sizes of `TINY_VAE`."""
        return build_autoencoder(TINY_VAE, CHANNELS)

    def redraw(self, tokenizer: AutoencoderKL, pixels: Tensor, update: int, recipe: TokenizerRecipe) -> Redrawn:
        """Latents drawn from their normal distributions; penalty: `recipe.kl` times their divergence from (0, 1).

        Mean over numbers of (mean^2 + variance - log variance - 1) / 2 (arXiv 1312.6114, appendix B). The draw is a
        function of (seed, update).
        """
        mean, log_variance = image_moments(tokenizer, pixels).float().chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(recipe.seed * 1_000_003 + update))
        divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).mean()
        latents = mean + noise * torch.exp(0.5 * log_variance)
        return Redrawn(_decoded(tokenizer, latents), (recipe.kl * divergence,), None)

    def redrawn(self, tokenizer: AutoencoderKL, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """From the means of the latents."""
        return _decoded(tokenizer, image_moments(tokenizer, pixels).chunk(2, dim=1)[0]), None

    def build(self, tokenizer: AutoencoderKL, seed: int) -> HarmonModel:
        """An untrained tiny Harmon. The scale of its latents gives those of training scenes deviation 1."""
        torch.manual_seed(seed)
        words = build_word_tokenizer([*vocabulary(), FILLER, *templates()])
        llm = replace(TINY_LLM, vocab_size=len(words))
        config = HarmonConfig(
            image_size=SIDE, max_text=64, vae_scale=_scale(tokenizer), llm=llm, mar=TINY_MAR, vae=TINY_VAE
        )
        model = HarmonModel(config, words)
        for module in model.network.llm.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=WEIGHT_DEVIATION)
        nn.init.normal_(model.network.llm.model.embed_tokens.weight, std=WORD_DEVIATION)
        for table in model.network.mar.parameters(recurse=False):
            nn.init.normal_(table, std=TABLE_DEVIATION)
        start_as_identity(model.network.mar.diffloss.net)
        model.add_module(TELLER, nn.Linear(TINY_MAR.decoder_embed_dim, len(words)))
        model.vae.load_state_dict(tokenizer.state_dict())
        return model

    def targets(self, model: HarmonModel, pixels: Tensor) -> dict[str, Tensor]:
        """Latents."""
        return {"latents": encode_pixels(model.vae, pixels, model.config)}

    def learns(self, model: HarmonModel) -> Sequence[nn.Module]:
        """Nothing that RecA does not train: the encoder that understands is the one that draws."""
        del model
        return ()

    def blanks(self, model: HarmonModel) -> Mapping[str, np.ndarray]:
        """Latents of questions' pictures; `asked` has the encoder's output instead."""
        side = model.config.side
        return {"latents": np.zeros((side, side, CHANNELS), dtype=np.float32)}

    def features(self, model: HarmonModel, pixels: Tensor) -> Tensor:
        """What the masked autoencoder's encoder makes of whole pictures, float [B, buffer + N, De], buffers first."""
        with torch.no_grad():
            latents = encode_pixels(model.vae, pixels, model.config)
        return model.network.mar.encode(latents, None, None)

    def projected(self, model: HarmonModel, features: Tensor) -> Tensor:
        """Embeddings of the latents, without the buffers."""
        return model.network.to_llm(features)[:, : model.config.image_tokens]

    def asked(self, model: HarmonModel, examples: Sequence[Example], features: Tensor) -> Understood:
        """Cross entropy of the answers, with the whole gradient into the encoder, and the tie of the buffers."""
        picture = model.network.to_llm(features)
        batch = model.collate("image_to_text", examples)
        loss = model.next_ids(*model.conversation(batch, picture)).mean
        buffers = picture[:, model.config.image_tokens :].float()
        filler = self.word_embeddings(model, [FILLER]).detach().float()
        tie = functional.mse_loss(buffers, filler.expand_as(buffers)) / filler.square().mean()
        return Understood(loss + BUFFER_WEIGHT * tie, picture[:, : model.config.image_tokens])

    def word_embeddings(self, model: HarmonModel, words: Sequence[str]) -> Tensor:
        """Rows of the word embedding."""
        assert model.collator is not None
        ids = torch.tensor(model.collator.tokenizer.convert_tokens_to_ids(list(words)))
        return model.network.llm.model.embed_tokens(ids)

    def drawing_loss(self, model: HarmonModel, batch: Mapping[str, Tensor], draws: Mapping[str, Tensor]) -> Tensor:
        """See `taught` and `as_met`."""
        draws = as_met(draws, model.config.mar.mask_ratio_min)
        hidden, found = model.drawing("text_to_image", batch, draws)
        loss = taught(model, hidden, found, batch["latents"], draws)
        kept = draws["text_drop"] >= model.config.text_dropout
        if not kept.any():
            return loss
        ids = batch["ids"].where(batch["mask"], batch["ids"][:, :1])
        return loss + WORDS_WEIGHT * told(model, found.conditions[kept], hidden[kept], ids[kept])

    def spelled_loss(
        self, model: HarmonModel, examples: Sequence[Example], slots: Sequence[Sequence[str]], seeds: Sequence[int]
    ) -> Tensor:
        """Words take the places of the picture's latents, fillers of buffers; see `taught` and `as_met`."""
        batch = model.collate("reconstruction", examples)
        draws = {**model.draw("reconstruction", batch, seeds), **model.draw_shared("reconstruction", seeds[0])}
        draws = as_met(draws, model.config.mar.mask_ratio_min)
        blank = [FILLER] * model.config.mar.buffer_size
        words = self.word_embeddings(model, [word for row in slots for word in (*row, *blank)])
        front = model.network.prompt(batch["ids"], batch["mask"], words.unflatten(0, (len(slots), -1)))
        hidden, found = model.drawing_after(front, batch["latents"], draws)
        loss = taught(model, hidden, found, batch["latents"], draws)
        assert model.collator is not None
        ids = torch.tensor([model.collator.tokenizer.convert_tokens_to_ids(list(row)) for row in slots])
        return loss + WORDS_WEIGHT * told(model, found.conditions, hidden, ids)

    def finish(self, model: HarmonModel) -> None:
        """Take away what reads words off conditions."""
        delattr(model, TELLER)


@torch.no_grad()
def start_as_identity(head: DiffusionHead) -> None:
    """Make a fresh head answer with its input, which is right where all is noise; as published it answers 0.

    The residual stream is P x + b: P has orthonormal columns, b is `CONSTANT` strong and orthogonal to them, so the
    last norm divides by about `CONSTANT` whatever x is. The blocks' norms take b away again and bring P x to deviation
    1. After 400 updates of the head alone the error is 7 to 14 % smaller at timesteps 50 to 900 than from the usual
    start, and larger above 950.
    """
    width, channels = head.input_proj.weight.shape
    basis = torch.linalg.qr(torch.cat([torch.ones(width, 1), torch.randn(width, channels + 1)], dim=1)).Q
    constant, frame = CONSTANT * math.sqrt(width) * basis[:, 1], basis[:, 2:]
    head.input_proj.weight.copy_(frame)
    head.input_proj.bias.copy_(constant)
    head.final_layer.linear.weight[:channels] = CONSTANT * frame.T
    gain = math.sqrt(width / channels)
    for block in head.res_blocks:
        assert isinstance(block, ResidualBlock)
        block.in_ln.weight.fill_(gain * CONSTANT)
        block.in_ln.bias.copy_(-gain * constant)


def as_met(draws: Mapping[str, Tensor], lowest: float) -> dict[str, Tensor]:
    """The draws with another mask rate: the share of hidden tokens is that of a random iteration of the sampler, the
    cosine of an even angle (MaskGIT, arXiv 2202.04200, section 3.2), instead of the published one, which is never
    below `lowest`.

    At the published rates at most 5 of a tiny picture's 16 tokens are ever known in training, and the sampler draws
    half of them when more are: with 14 known the head named the right patch less often (.57) than with 4 known (.65).

    Args:
        draws: of a batch; `mask_rate` float64 [1] is the one that changes.
        lowest: the model's least published rate.
    """
    rate = torch.sin(0.5 * math.pi * share_below(draws["mask_rate"], lowest))
    return {**draws, "mask_rate": rate.clamp(min=torch.finfo(torch.float64).tiny)}


def taught(
    model: HarmonModel, hidden: Tensor, found: MaskedPass, latents: Tensor, draws: Mapping[str, Tensor]
) -> Tensor:
    """Loss of hidden tokens in pre-training: the published one with other weights, and a regression.

    The error of the noise is weighed by 1 / (the signal's share of the variance), at most `HEAVIEST`, which makes it
    the error of the velocity (arXiv 2202.00512, section 4). Equal weights leave the head 2 % wrong at the highest
    level, where the sampler's first step makes a deviation of 6 of it, and give little say to the levels that a prompt
    decides.

    `HIGHEST_DRAWS` hidden tokens are shown at the highest level besides, as exact as float32 is.

    The first channels of each hidden token's condition are pulled to its clean latents by their mean square error.
    Through the head alone, conditions lose what tells pictures apart within 50 updates and stay so for hundreds.

    Args:
        model: the model in training.
        hidden: int64 [B, H], raster indices.
        found: the masked pass.
        latents: float32 [B, rows, cols, C].
        draws: `timestep` and `noise`.

    Returns:
        Scalar.
    """
    terms = model.token_losses(found.conditions, latents, hidden, draws)
    levels = draws["timestep"].gather(2, hidden[:, None].expand(-1, draws["timestep"].shape[1], -1))
    share = diffusion.schedule().at("alphas_cumprod", levels)[..., 0]
    conditions = _picked(found.conditions, hidden).float()
    regression = functional.mse_loss(conditions[..., :CHANNELS], _picked(latents.flatten(1, 2), hidden))
    noise = _picked(draws["noise"][:, 0], hidden).flatten(0, 1)[:HIGHEST_DRAWS]
    highest = levels.new_full((len(noise),), diffusion.STEPS - 1)
    with torch.autocast("cpu", enabled=False):
        answer = model.network.mar.diffloss.net(noise, highest, conditions.detach().flatten(0, 1)[: len(noise)])
    error = HEAVIEST * functional.mse_loss(answer[:, :CHANNELS], noise)
    return (terms.error / share.clamp(min=1 / HEAVIEST) + terms.bound).mean() + regression + error


def told(model: HarmonModel, conditions: Tensor, hidden: Tensor, ids: Tensor) -> Tensor:
    """How well the conditions of the hidden tokens tell which words the prompt has.

    A linear layer that is thrown away after pre-training reads their mean. Where all tokens are hidden a prompt takes
    .1 at most off a squared error of 1.1, too little for buffers, decoder and head to find it soon: after 2,400 updates
    without this loss .0003, with it .02 after 700. It tells nothing of pictures that the prompt does not.

    Args:
        model: the model in training.
        conditions: float [B, N, Dd].
        hidden: int64 [B, H], raster indices.
        ids: int64 [B, L], the prompt's ids, in any order, each as often as wanted.

    Returns:
        Scalar: binary cross entropy in nats, summed over the vocabulary.
    """
    teller = model.get_submodule(TELLER)
    with torch.autocast("cpu", enabled=False):
        logits = teller(_picked(conditions, hidden).float().mean(dim=1))
    there = torch.zeros_like(logits).scatter_(1, ids, 1.0)
    return functional.binary_cross_entropy_with_logits(logits, there, reduction="none").sum(dim=1).mean()


def _picked(values: Tensor, chosen: Tensor) -> Tensor:
    """Rows [B, H, X] of values [B, N, X] at chosen places int64 [B, H]."""
    return values.gather(1, chosen[..., None].expand(-1, -1, values.shape[-1]))


def _decoded(tokenizer: AutoencoderKL, latents: Tensor) -> Tensor:
    assert tokenizer.post_quant_conv is not None
    return tokenizer.decoder(tokenizer.post_quant_conv(latents))


@torch.no_grad()
def _scale(tokenizer: AutoencoderKL) -> float:
    """Factor, rounded to four places, that gives the latents of 256 training scenes deviation 1."""
    scenes = training_scenes(0, 0, 256)
    latents = torch.cat([image_moments(tokenizer, part).chunk(2, dim=1)[0] for part in scenes.split(64)])
    return round(1 / float(latents.std()), 4)


FAMILY = TinyHarmon()
