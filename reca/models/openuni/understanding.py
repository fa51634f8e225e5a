"""InternVL3 from transformers' parts: vision tower, projection of merged patches, Qwen2.

Names of parameters are the published ones, except in the vision tower, whose published names `published_state` makes.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    InternVLVisionConfig,
    InternVLVisionModel,
    LogitsProcessorList,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from reca.models.checkpoint import Target
from reca.models.finite import Watch, WatchedLogits
from reca.models.openuni.config import LanguageSizes, OpenUniConfig, VisionSizes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

RENAMED = (
    ("embeddings.cls_token", "embeddings.class_embedding"),
    ("embeddings.position_embeddings", "embeddings.position_embedding"),
    ("embeddings.patch_embeddings.projection.", "embeddings.patch_embedding."),
    ("encoder.layer.", "encoder.layers."),
    ("attention.projection_layer.", "attn.proj."),
    ("layernorm_before.", "norm1."),
    ("layernorm_after.", "norm2."),
    ("lambda_1", "ls1"),
    ("lambda_2", "ls2"),
)
"""Parts of transformers' names in the vision tower, and the published ones."""

QUERY = re.compile(r"attention\.q_proj\.(weight|bias)$")


class InternVL(nn.Module):
    """Vision tower, projection and language model."""

    def __init__(self, config: OpenUniConfig) -> None:
        super().__init__()
        merged, width = config.vision.hidden_size * config.merge**2, config.language.hidden_size
        self.merge = config.merge
        self.image_size = config.seen_size
        self.vision_model = InternVLVisionModel(_vision_config(config.vision))
        self.mlp1 = nn.Sequential(nn.LayerNorm(merged), nn.Linear(merged, width), nn.GELU(), nn.Linear(width, width))
        self.language_model = Qwen2ForCausalLM(_language_config(config.language))

    def features(self, images: Tensor) -> Tensor:
        """Understanding features float [B, T, D] of images float [B, 3, S, S] in [-1, 1].

        As in OpenUni's `internvl3_sana_hf.py`: ImageNet mean and standard deviation first, then bilinear resizing
        without antialiasing; the hidden states after the last block without a final norm and without the class token.
        """
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        side = (self.image_size, self.image_size)
        pixels = functional.interpolate(((images + 1) / 2 - mean) / std, size=side, mode="bilinear")
        return self.mlp1(merge_patches(self.vision_model(pixel_values=pixels).last_hidden_state[:, 1:], self.merge))

    def embed(self, ids: Tensor, features: Tensor | None, image_context_id: int) -> Tensor:
        """Input embeddings float [B, L, D] of ids.

        Args:
            ids: int64 [B, L].
            features: float [B, T, D], which take in order the places of each row's T ids `image_context_id`; or None.
            image_context_id: id of such a place.
        """
        embeddings = self.language_model.model.embed_tokens(ids)
        if features is None:
            return embeddings
        places = (ids == image_context_id)[..., None]
        return embeddings.masked_scatter(places, features.to(embeddings.dtype))

    def states(self, embeddings: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Final hidden states float [B, L, D], after the last norm: causal, with keys hidden where `mask` is False.

        Args:
            embeddings: float [B, L, D].
            mask: bool [B, L].
            positions: int64 [B, L].
        """
        model = self.language_model.model
        return model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state

    def continue_greedily(self, embeddings: Tensor, mask: Tensor, new_tokens: int, stop: int, watch: Watch) -> Tensor:
        """Ids int64 [B, at most new_tokens] that follow left-padded sequences; after `stop` they are all `stop`.

        Args:
            embeddings: float [B, L, D].
            mask: bool [B, L], True on what is no pad.
            new_tokens: number of new ids at most.
            stop: id that ends a sequence.
            watch: sees the logits of sequences that have not ended.
        """
        model: Any = self.language_model
        return model.generate(
            inputs_embeds=embeddings,
            attention_mask=mask.long(),
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=stop,
            logits_processor=LogitsProcessorList([WatchedLogits(watch, stop)]),
        )


def merge_patches(states: Tensor, merge: int) -> Tensor:
    """Join squares of merge x merge patches (InternVL's pixel shuffle, second version).

    Args:
        states: float [B, N, D] of N = n x n patches in rows from the top left.
        merge: side of a square; divides n.

    Returns:
        float [B, N / merge^2, D * merge^2]; patches of a square follow each other row by row.
    """
    batch, count, width = states.shape
    side = round(count**0.5) // merge
    squares = states.view(batch, side, merge, side, merge, width).permute(0, 1, 3, 2, 4, 5)
    return squares.reshape(batch, side * side, merge * merge * width)


def published_state(state: Mapping[str, Tensor]) -> dict[str, Target]:
    """Published names of a state, tensors of any shape and type, of names as they are here. Memory is shared; query,
    key and value of the vision tower are stored joined.
    """
    found: dict[str, Target] = {}
    for name, tensor in state.items():
        if "vision_model." not in name:
            found[name] = tensor
        elif QUERY.search(name):
            found[_joined_name(name)] = tuple(state[part] for part in _parts(name))
        elif "attention.k_proj." not in name and "attention.v_proj." not in name:
            found[_vision_name(name)] = tensor
    return found


def _parts(name: str) -> Iterator[str]:
    return (name.replace(".q_proj.", f".{part}_proj.") for part in "qkv")


def _joined_name(name: str) -> str:
    return QUERY.sub(r"attn.qkv.\1", _vision_name(name))


def _vision_name(name: str) -> str:
    for ours, theirs in RENAMED:
        name = name.replace(ours, theirs)
    return name


def _vision_config(sizes: VisionSizes) -> InternVLVisionConfig:
    values = asdict(sizes)
    return InternVLVisionConfig(attention_bias=values.pop("qkv_bias"), use_mean_pooling=True, **values)


def _language_config(sizes: LanguageSizes) -> Qwen2Config:
    values = asdict(sizes)
    rope = {"rope_type": "default", "rope_theta": values.pop("rope_theta")}
    return Qwen2Config(rope_parameters=rope, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, **values)
