"""Show-o's part of pre-training: a tiny MAGVITv2, a tiny model around it, and the parts of its losses."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reca.data.scenes import vocabulary
from reca.models.base import Example
from reca.models.losses import IGNORED
from reca.models.showo.config import ClipSizes, MagvitConfig, PhiSizes, ShowoConfig
from reca.models.showo.magvit import Magvit
from reca.models.showo.model import ShowoModel
from reca.models.showo.pixels import plain_resize
from reca.models.words import build_word_tokenizer
from reca.objectives import templates
from reca.pretraining.config import TokenizerRecipe
from reca.pretraining.family import Redrawn, TinyFamily

TINY_MAGVIT = MagvitConfig(
    channels=16,
    encoder_multipliers=(1, 1, 2, 4, 8),
    decoder_multipliers=(1, 1, 2, 4, 8),
    encoder_blocks=(0, 1, 1, 1, 1),
    decoder_blocks=(0, 1, 1, 1, 1),
    code_bits=10,
    norm_groups=8,
)
"""Factor 16 as published, 1,024 codes, 2.3 M parameters; no residual block at full resolution halves the step time."""

TINY_PHI = PhiSizes(hidden_size=128, intermediate_size=512, layers=4, heads=4, kv_heads=4, max_positions=256)
TINY_CLIP = ClipSizes(
    hidden_size=96,
    intermediate_size=384,
    num_hidden_layers=4,
    num_attention_heads=4,
    image_size=64,
    patch_size=16,
    projection_dim=64,
)


class TinyShowo(TinyFamily[Magvit, ShowoModel]):
    """Masked prediction of codes: a CLIP tower, a projector and a Phi around a MAGVITv2."""

    about = "The real Show-o architecture (Phi with query/key norm, CLIP vision tower, MAGVITv2) at toy size"

    def new_tokenizer(self) -> Magvit:
        """A Magvit of the sizes of `TINY_MAGVIT`."""
        return Magvit(TINY_MAGVIT)

    def redraw(self, tokenizer: Magvit, pixels: Tensor, update: int, recipe: TokenizerRecipe) -> Redrawn:
        """The published quantiser; penalties: its commitment and entropy losses."""
        output = tokenizer(pixels)
        penalties = (recipe.commit * output.losses.commit, recipe.entropy * output.losses.entropy)
        return Redrawn(output.reconstruction, penalties, output.codes)

    def redrawn(self, tokenizer: Magvit, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Signs of the latents, as bits, are the codes."""
        codes = tokenizer.encode(pixels)
        return tokenizer.decode(codes), codes

    def build(self, tokenizer: Magvit, seed: int) -> ShowoModel:
        """An untrained tiny Show-o."""
        torch.manual_seed(seed)
        words = build_word_tokenizer([*vocabulary(), *" ".join(templates()).split()])
        end_of_text = words.convert_tokens_to_ids("<|endoftext|>")
        assert isinstance(end_of_text, int)
        config = ShowoConfig(
            text_size=len(words),
            end_of_text=end_of_text,
            image_size=64,
            max_text=12,
            prefix_length=26,
            system_prompt="",
            clip_normalize_understanding=False,
            projector_hidden=TINY_PHI.hidden_size,
            phi=TINY_PHI,
            clip=TINY_CLIP,
            magvit=tokenizer.config,
        )
        model = ShowoModel(config, words)
        model.magvit.load_state_dict(tokenizer.state_dict())
        return model

    def targets(self, model: ShowoModel, pixels: Tensor) -> dict[str, Tensor]:
        """Codes of the model's MAGVITv2."""
        return {"codes": model.magvit.encode(pixels)}

    def learns(self, model: ShowoModel) -> Sequence[nn.Module]:
        """CLIP."""
        return (model.clip,)

    def blanks(self, model: ShowoModel) -> Mapping[str, np.ndarray]:
        """CLIP's patches and width."""
        clip = model.config.clip
        patches = (clip.image_size // clip.patch_size) ** 2
        return {"features": np.zeros((patches, clip.hidden_size), dtype=np.float32)}

    def features(self, model: ShowoModel, pixels: Tensor) -> Tensor:
        """CLIP's next-to-last layer, fed as RecA's release feeds it."""
        return model.clip_features(plain_resize(pixels, model.config.clip.image_size))

    def projected(self, model: ShowoModel, features: Tensor) -> Tensor:
        """Through the projector."""
        return model.mm_projector(features)

    def word_embeddings(self, model: ShowoModel, words: Sequence[str]) -> Tensor:
        """Rows of the word embedding."""
        assert model.collator is not None
        ids = torch.tensor(model.collator.tokenizer.convert_tokens_to_ids(list(words)))
        return model.showo.model.embed_tokens(ids)

    def spelled_loss(
        self, model: ShowoModel, examples: Sequence[Example], slots: Sequence[Sequence[str]], seeds: Sequence[int]
    ) -> Tensor:
        """Mean cross entropy over hidden codes, and over them only."""
        batch = model.collate("reconstruction", examples)
        tokens, layout = model.reconstruction(batch, model.draw("reconstruction", batch, seeds))
        words = self.word_embeddings(model, [word for row in slots for word in row]).unflatten(0, (len(slots), -1))
        embeddings = torch.cat([layout.embeddings[:, :2], words, layout.embeddings[:, 2 + words.shape[1] :]], dim=1)
        labels = tokens.labels.clone()
        labels[:, : -1 - batch["codes"].shape[1]] = IGNORED
        labels[:, -1] = IGNORED
        states = model.states(replace(layout, embeddings=embeddings))
        logits = model.showo.lm_head(states[labels != IGNORED]).float()
        return functional.cross_entropy(logits, labels[labels != IGNORED])


FAMILY = TinyShowo()
