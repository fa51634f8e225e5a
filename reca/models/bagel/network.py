"""The trained network: everything of `ema.safetensors`. The autoencoder is a file and a module of its own."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reca.models.bagel.attention import PackedAttention
from reca.models.bagel.config import BagelConfig
from reca.models.bagel.language import LanguageModel
from reca.models.bagel.packing import Layout
from reca.models.bagel.vision import Connector, VisionTower, sincos_table

TIME_FEATURES = 256
INITIAL_DEVIATION = 0.02
"""Standard deviation of fresh weights, Qwen2's `initializer_range`."""


@dataclass(frozen=True)
class Predictions:
    """What the network says at the places that losses ask about.

    Attributes:
        velocity: float32 [Nm, C], at the latent tokens of noised pictures.
        target: float32 [Nm, C], noise minus latent there: the velocity points from data to noise.
        answers: float32 [Nc, V], logits of the scored text tokens.
    """

    velocity: Tensor
    target: Tensor
    answers: Tensor


class PositionTable(nn.Module):
    """A fixed table of two-dimensional positions."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(sincos_table(side, width), requires_grad=False)

    def forward(self, positions: Tensor) -> Tensor:
        """float [N, E] of positions int64 [N]."""
        return self.pos_embed[positions]


class TimeEmbedder(nn.Module):
    """Two layers over cosines and sines of the time, which is not multiplied by 1000."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_FEATURES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, times: Tensor) -> Tensor:
        """float [N, E] of times float32 [N] in [0, 1]; frequencies are 10000^(-k / 128), cosines come first."""
        half = TIME_FEATURES // 2
        frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float32, device=times.device) / half)
        angles = times[:, None].float() * frequency
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))


class Bagel(nn.Module):
    """Experts, understanding tower and the bridges between them. Weights are fresh until a checkpoint is loaded.

    Args:
        config: sizes and settings.
    """

    def __init__(self, config: BagelConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.language.hidden_size
        self.language_model = LanguageModel(config.language, config.checkpointing)
        self.vit_model = VisionTower(config.vision)
        self.connector = Connector(config.vision.hidden_size, hidden)
        self.vit_pos_embed = PositionTable(config.seen_side, hidden)
        self.latent_pos_embed = PositionTable(config.max_latent_size, hidden)
        self.time_embedder = TimeEmbedder(hidden)
        self.vae2llm = nn.Linear(config.token_values, hidden)
        self.llm2vae = nn.Linear(hidden, config.token_values)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
            if isinstance(module, nn.Linear) and module.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.llm2vae.weight)

    def embed_text(self, ids: Tensor) -> Tensor:
        """float [N, E] of ids int64 [N]."""
        return self.language_model.model.embed_tokens(ids)

    def embed_seen(self, features: Tensor, positions: Tensor) -> Tensor:
        """float [N, E] of understanding features float [N, D] of the tower and positions int64 [N]."""
        return self.connector(features) + self.vit_pos_embed(positions)

    def embed_latents(self, tokens: Tensor, times: Tensor, positions: Tensor) -> Tensor:
        """float [N, E] of noised latent tokens float32 [N, C], embedded times float [N, E] and positions int64 [N]."""
        return self.vae2llm(tokens) + times + self.latent_pos_embed(positions)

    def embed_packed(
        self, layout: Layout, features: Tensor, tokens: Tensor, times: Tensor, connected: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Input embeddings of a packed batch: float [Nt + Nv, E] of understanding tokens, [Nl, E] of latent tokens.

        Args:
            layout: the batch.
            features: float [Nv, D] of the understanding tower.
            tokens: float32 [Nl, C], latent tokens after noising.
            times: float32 [I], time of each picture of latent tokens; 0 for clean ones.
            connected: float [Nv, E] to stand for what the connector makes of `features`.
        """
        connected = self.connector(features) if connected is None else connected
        seen = connected + self.vit_pos_embed(layout.seen_positions)
        by_token = self.time_embedder(times)[layout.latent_picture]
        gen = self.embed_latents(tokens, by_token, layout.latent_positions)
        return torch.cat([self.embed_text(layout.text_ids), seen]), gen

    def packed(self, layout: Layout, embedded: tuple[Tensor, Tensor], frozen: bool = False) -> tuple[Tensor, Tensor]:
        """Final states float [Nt + Nv, E] of understanding tokens and float [Nl, E] of latent tokens of a packed batch.

        Args:
            layout: the batch.
            embedded: of `embed_packed`.
            frozen: no gradient passes through understanding tokens.
        """
        positions = layout.positions[layout.expert_order]
        return self.language_model.model(*embedded, positions, PackedAttention.of(layout), frozen)
