"""Judges of the real classes at the smallest size, randomly initialised and saved to folders."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Mask2FormerConfig,
    PreTrainedTokenizerFast,
    SwinConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from reca.evaluation.detector import DetectorNetwork


def save_detector(folder: Path, classes: int, queries: int = 6, seed: int = 0) -> Path:
    """Mask2Former over Swin."""
    backbone = SwinConfig(
        image_size=32,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=queries,
        num_labels=classes,
    )
    torch.manual_seed(seed)
    DetectorNetwork(config).save_pretrained(folder)
    return folder


def save_clip(folder: Path, seed: int = 0) -> Path:
    """CLIP with a tokenizer of single letters."""
    letters = [*"abcdefghijklmnopqrstuvwxyz-"]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1, "pad_token_id": len(pieces) - 1}
    config = CLIPConfig(
        text_config={**size, **ends, "vocab_size": len(pieces)},
        vision_config={**size, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(seed)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))
    return folder


def save_names(path: Path, names: Sequence[str]) -> Path:
    """One class word a line."""
    path.write_text("\n".join(names) + "\n")
    return path


VLM_WORDS = (
    *("<unk>", "<s>", "</s>", "<image>", "<pad>", "yes", "no", "Yes", "No", "USER", "ASSISTANT", ":", "?", "."),
    *("is", "there", "a", "red", "cat", "dog", "Answer", "or"),
)
CHAT = (
    "{% for m in messages %}USER : {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)


def save_vlm(folder: Path, seed: int = 0) -> Path:
    """LLaVA with a tokenizer of a few words."""
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(VLM_WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**size, num_hidden_layers=2, image_size=32, patch_size=16),
        text_config=LlamaConfig(
            **size, vocab_size=len(VLM_WORDS), num_hidden_layers=1, max_position_embeddings=64, pad_token_id=4
        ),
        image_token_index=VLM_WORDS.index("<image>"),
        vision_feature_layer=-2,
    )
    torch.manual_seed(seed)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
