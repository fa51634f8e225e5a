"""A tiny Janus-Pro for tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import JanusConfig, JanusVisionConfig, JanusVQVAEConfig, LlamaConfig

from reca.models.base import Example
from reca.models.janus.config import Processing
from reca.models.janus.model import JanusProModel
from reca.models.janus.tokenizer import build_word_tokenizer, find_marks

WORDS = ("a red cat and two blue dogs", "what colour is the cat?", "describe the image in detail")


def tiny_model(seed: int = 0, tied: bool = False, words: Sequence[str] = WORDS, **text: Any) -> JanusProModel:
    """Two layers, 16-pixel images, 16 codes in a picture, 16 understanding features, 32 possible codes."""
    tokenizer = build_word_tokenizer(words)
    marks = find_marks(tokenizer, "tiny")
    config = JanusConfig(
        text_config=LlamaConfig(
            **{
                "vocab_size": len(tokenizer) + 2,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 64,
                "bos_token_id": marks.start,
                "eos_token_id": marks.end,
                "pad_token_id": marks.pad,
                **text,
            }
        ),
        vision_config=JanusVisionConfig(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=4,
            projection_dim=32,
            num_image_tokens=16,
        ),
        vq_config=JanusVQVAEConfig(
            embed_dim=4,
            num_embeddings=32,
            latent_channels=8,
            base_channels=32,
            channel_multiplier=[1, 1, 1],
            num_res_blocks=1,
            projection_dim=32,
            image_token_embed_dim=32,
        ),
        image_token_id=marks.image,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(seed)
    model = JanusProModel(config, tokenizer, Processing((0.4, 0.5, 0.6), (0.5, 0.4, 0.3), system_prompt=False)).eval()
    # transformers' start values (std 0.02) make every logit nearly the same: no test would notice a wrong input.
    with torch.no_grad():
        for name, value in model.janus.named_parameters():
            if value.ndim > 1 and "vqmodel" not in name:
                value.mul_(8)
    return model


def examples(model: JanusProModel, texts: Sequence[str], seed: int = 0) -> list[Example]:
    """One example of noise pixels for each text."""
    encoded = model.encode(noise(len(texts), seed))
    return [
        Example(f"key-{row}", text, {name: value[row].numpy() for name, value in encoded.items()})
        for row, text in enumerate(texts)
    ]


def noise(count: int, seed: int = 0) -> torch.Tensor:
    """Pictures uint8 [count, 3, 16, 16]."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, 16, 16), dtype=np.uint8))
