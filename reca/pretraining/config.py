"""Typed recipes of base pre-training. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from reca.config import RANGES, EvaluationConfig, GateConfig
from reca.data.scenes import CaptionRates


@dataclass(frozen=True)
class TokenizerRecipe:
    """How the tokenizer is trained.

    Attributes:
        updates: optimizer updates.
        batch_size: scenes per update.
        learning_rate: peak rate of AdamW; 5 % linear warm-up, then cosine to 0.
        commit: weight on the published commitment loss.
        entropy: weight on the entropy loss of lookup-free quantisation; it spreads use over the codes. A learnt
            codebook has none (0) and revives unused codes instead.
        kl: weight on the Kullback-Leibler divergence of continuous latents from a standard normal, in nats a number.
        seed: seed of weights and scenes.
    """

    updates: int = 3000
    batch_size: int = 32
    learning_rate: float = 2e-3
    commit: float = 0.2
    entropy: float = 1.0
    kl: float = 0.0
    seed: int = 7


@dataclass(frozen=True)
class BaseRecipe:
    """How the base is trained.

    Attributes:
        updates: optimizer updates.
        batch_size: examples per update, of each of the two tasks.
        scenes: pictures of each of the two sets.
        learning_rate: peak rate of AdamW; 5 % linear warm-up, then cosine to 0.
        understand: weight of image-to-text; its loss is a tenth of the others' and learns its short answers last.
        align: weight of the word labels of understanding tokens (see `reca.pretraining.labels`).
        spelled: captions per update that are spelled out where a picture's understanding tokens stand; without them
            that place is not read at all before RecA (class recall of zero-shot reconstruction at chance).
        rates: what sparse captions keep.
        seed: seed of weights, scenes, captions and order.
    """

    updates: int = 4200
    batch_size: int = 48
    scenes: int = 24_000
    learning_rate: float = 1.5e-3
    understand: float = 2.0
    align: float = 1.0
    spelled: int = 32
    rates: CaptionRates = field(default_factory=CaptionRates)
    seed: int = 11


@dataclass(frozen=True)
class PretrainRecipe:
    """Everything behind a shipped base.

    Attributes:
        name: recipe name; also the name of the base.
        family: which family's tiny model is made: a module of `reca.pretraining`.
        tokenizer: image tokenizer.
        base: vision tower, understanding and text-to-image.
        evaluation: scores of the finished base.
        gates: what it must reach.
    """

    name: str
    family: str = "showo"
    tokenizer: TokenizerRecipe = field(default_factory=TokenizerRecipe)
    base: BaseRecipe = field(default_factory=BaseRecipe)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    gates: GateConfig = field(default_factory=GateConfig)


_COUNT, _POSITIVE, _NOT_NEGATIVE = "[1, inf)", "(0, inf)", "[0, inf)"

PRETRAIN_RANGES: Mapping[type, Mapping[str, str]] = {
    **RANGES,
    TokenizerRecipe: {
        "updates": _COUNT,
        "batch_size": _COUNT,
        "learning_rate": _POSITIVE,
        "commit": _NOT_NEGATIVE,
        "entropy": _NOT_NEGATIVE,
        "kl": _NOT_NEGATIVE,
    },
    BaseRecipe: {
        "updates": _COUNT,
        "batch_size": _COUNT,
        "scenes": _COUNT,
        "learning_rate": _POSITIVE,
        "understand": _NOT_NEGATIVE,
        "align": _NOT_NEGATIVE,
        "spelled": _COUNT,
    },
}
"""Interval of each number of a pre-training recipe, as `reca.config.out_of_range` takes them."""
