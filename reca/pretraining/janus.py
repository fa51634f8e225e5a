"""Janus-Pro's part of pre-training: a tiny VQ tokenizer, a tiny model around it, and the parts of its losses."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import JanusConfig, JanusVisionConfig, JanusVQVAEConfig, LlamaConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from reca.data.scenes import vocabulary
from reca.data.sets import generator
from reca.models.base import Example
from reca.models.janus.config import Processing
from reca.models.janus.decoding import Prefix
from reca.models.janus.model import JanusProModel
from reca.models.janus.tokenizer import Marks, build_word_tokenizer, find_marks
from reca.models.janus.vq import decoded, image_codes
from reca.objectives import templates
from reca.pretraining.config import TokenizerRecipe
from reca.pretraining.family import Redrawn, TinyFamily
from reca.pretraining.labels import FILLER

WIDTH = 128
"""D of the tiny language model."""

SIDE, PATCH = 64, 16

TINY_VQ = JanusVQVAEConfig(
    embed_dim=8,
    num_embeddings=512,
    latent_channels=64,
    base_channels=32,
    channel_multiplier=[1, 1, 1, 1, 4],
    num_res_blocks=0,
    num_patches=SIDE // PATCH,
    projection_dim=WIDTH,
    image_token_embed_dim=WIDTH,
    initializer_range=0.05,
)
"""Factor 16 and code width 8 as published, 512 codes, 1.5 M parameters. No residual block beside the downsampling and
one beside each upsampling: 0.11 s of a core for an update of 16, where channels 1, 1, 2, 4, 4 with one and two blocks
take 0.31 s."""

REVIVE_EVERY = 100
REVIVE_SCENES = 256


class TinyJanus(TinyFamily[JanusVQVAE, JanusProModel]):
    """Next-token codes: a SigLIP tower, an aligner and a Llama around a VQ tokenizer."""

    about = "The real Janus-Pro architecture (Llama, SigLIP tower with its aligner, VQ image tokenizer) at toy size"

    def new_tokenizer(self) -> JanusVQVAE:
        """transformers' VQ-VAE at the sizes of `TINY_VQ`."""
        return JanusVQVAE(TINY_VQ)

    def redraw(self, tokenizer: JanusVQVAE, pixels: Tensor, update: int, recipe: TokenizerRecipe) -> Redrawn:
        """VQ-VAE (arXiv 1711.00937, equation 3) on unit vectors, as Janus compares latents and codes by direction.

        Penalties: squared distance of codes to their latents, and `recipe.commit` of latents to their codes, summed
        over the 8 channels. Before `quantised_from` the latents pass as they are.

        Raises:
            ValueError: the recipe asks for an entropy loss, which belongs to another quantiser.
        """
        if recipe.entropy:
            raise ValueError(
                f"tokenizer.entropy={recipe.entropy:g}: a learnt codebook has no entropy loss; set it to 0"
            )
        latents = unit_latents(tokenizer, pixels)
        flat = latents.movedim(1, -1)
        book = functional.normalize(tokenizer.quantize.embedding.weight, dim=-1)
        codes = (flat.detach() @ book.detach().T).argmax(dim=-1)
        if update < quantised_from(recipe):
            return Redrawn(_drawn(tokenizer, latents), (), codes)
        entries = book[codes]
        learn = (entries - flat.detach()).pow(2).sum(dim=-1).mean()
        commit = recipe.commit * (flat - entries.detach()).pow(2).sum(dim=-1).mean()
        passed = latents + (entries.movedim(-1, 1) - latents).detach()
        return Redrawn(_drawn(tokenizer, passed), (learn, commit), codes)

    @torch.no_grad()
    def before_update(
        self, tokenizer: JanusVQVAE, update: int, recipe: TokenizerRecipe, pixels: Callable[[int], Tensor]
    ) -> None:
        """Fill the codebook from latents when quantisation starts; give unused codes a latent every 100 updates after.

        The last 40 % of the updates change no code so.
        """
        start = quantised_from(recipe)
        if update < start or (update - start) % REVIVE_EVERY or update > 0.6 * recipe.updates:
            return
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latents = torch.cat([unit_latents(tokenizer, part) for part in pixels(REVIVE_SCENES).split(64)])
        rng = generator("tokenizer/revive", recipe.seed, update)
        revive(tokenizer.quantize.embedding.weight, latents.movedim(1, -1).flatten(0, 2), rng, fresh=update == start)

    def redrawn(self, tokenizer: JanusVQVAE, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Codes by the authors' rule, see `image_codes`; pictures by transformers' decoding."""
        codes = image_codes(tokenizer, pixels)
        return decoded(tokenizer, codes), codes

    def build(self, tokenizer: JanusVQVAE, seed: int) -> JanusProModel:
        """An untrained tiny Janus-Pro."""
        torch.manual_seed(seed)
        words = build_word_tokenizer([*vocabulary(), FILLER, *templates()])
        marks = find_marks(words, "tiny Janus")
        model = JanusProModel(_tiny_config(len(words), marks), words, Processing(system_prompt=False))
        model.janus.model.vqmodel.load_state_dict(tokenizer.state_dict())
        return model

    def targets(self, model: JanusProModel, pixels: Tensor) -> dict[str, Tensor]:
        """Codes of the model's VQ."""
        return {"codes": image_codes(model.janus.model.vqmodel, pixels)}

    def learns(self, model: JanusProModel) -> Sequence[nn.Module]:
        """SigLIP."""
        return (model.janus.model.vision_model,)

    def blanks(self, model: JanusProModel) -> Mapping[str, np.ndarray]:
        """SigLIP's patches and width."""
        width = model.janus.model.vision_model.config.hidden_size
        return {"features": np.zeros((model.sizes.features, width), dtype=np.float32)}

    def features(self, model: JanusProModel, pixels: Tensor) -> Tensor:
        """SigLIP's output, as `JanusProModel.encode` gives it; mean and deviation of 0.5 are pixels in [-1, 1]."""
        return model.janus.model.vision_model(pixel_values=pixels).last_hidden_state

    def projected(self, model: JanusProModel, features: Tensor) -> Tensor:
        """Through the aligner."""
        return model.janus.model.aligner(features)

    def word_embeddings(self, model: JanusProModel, words: Sequence[str]) -> Tensor:
        """Rows of the word embedding."""
        assert model.collator is not None
        ids = torch.tensor(model.collator.tokenizer.convert_tokens_to_ids(list(words)))
        return model.language.embed_tokens(ids)

    def spelled_loss(
        self, model: JanusProModel, examples: Sequence[Example], slots: Sequence[Sequence[str]], seeds: Sequence[int]
    ) -> Tensor:
        """Mean cross entropy over all codes; next-code prediction draws nothing, so `seeds` are not used."""
        batch = model.collate("reconstruction", examples)
        words = self.word_embeddings(model, [word for row in slots for word in row]).unflatten(0, (len(slots), -1))
        places = (batch["ids"] == model.sizes.image_token)[..., None]
        embeddings = model.language.embed_tokens(batch["ids"])
        prefix = Prefix(embeddings.masked_scatter(places, words.to(embeddings.dtype)), batch["mask"])
        logits = model.code_logits(prefix, batch["codes"]).float()
        return functional.cross_entropy(logits.flatten(0, 1), batch["codes"].flatten())


def _tiny_config(vocabulary_size: int, marks: Marks) -> JanusConfig:
    return JanusConfig(
        text_config=LlamaConfig(
            vocab_size=vocabulary_size,
            hidden_size=WIDTH,
            intermediate_size=344,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=160,
            initializer_range=0.05,
            bos_token_id=marks.start,
            eos_token_id=marks.end,
            pad_token_id=marks.pad,
        ),
        vision_config=JanusVisionConfig(
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=PATCH,
            num_image_tokens=(SIDE // PATCH) ** 2,
            projection_dim=WIDTH,
            initializer_range=0.05,
        ),
        vq_config=TINY_VQ,
        image_token_id=marks.image,
        tie_word_embeddings=False,
    )


def quantised_from(recipe: TokenizerRecipe) -> int:
    """Updates before the latents are quantised: a codebook filled from a random encoder's latents collapses."""
    return recipe.updates // 8


def unit_latents(tokenizer: JanusVQVAE, pixels: Tensor) -> Tensor:
    """Latents float32 [B, 8, H, W] of length 1 of pixels float [B, 3, S, S] in [-1, 1]."""
    return functional.normalize(tokenizer.quant_conv(tokenizer.encoder(pixels)).float(), dim=1)


def revive(book: Tensor, latents: Tensor, rng: np.random.Generator, *, fresh: bool) -> None:
    """Give codes that no latent uses a latent of their own, drawn far from all codes in use (k-means++ seeding).

    Args:
        book: codes float [K, E], changed in place.
        latents: float [M, E] of length 1.
        rng: source of randomness.
        fresh: count no code as used.
    """
    units = functional.normalize(book, dim=-1)
    nearest, codes = (latents @ units.T).max(dim=1)
    used = torch.zeros(len(book), dtype=torch.bool)
    if not fresh:
        used[codes] = True
    distance = (2 - 2 * nearest).clamp(min=0) if used.any() else torch.ones(len(latents))
    for code in (~used).nonzero().flatten().tolist():
        weight = distance.double().numpy() + 1e-12
        chosen = latents[rng.choice(len(latents), p=weight / weight.sum())]
        book[code] = chosen
        distance = torch.minimum(distance, (2 - 2 * latents @ chosen).clamp(min=0))


def _drawn(tokenizer: JanusVQVAE, latents: Tensor) -> Tensor:
    return tokenizer.decoder(tokenizer.post_quant_conv(latents))


FAMILY = TinyJanus()
