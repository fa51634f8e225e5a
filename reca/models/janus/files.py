"""A Janus-Pro folder, in transformers' layout or in DeepSeek's own (`reca.models.janus.original`)."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import JanusConfig, JanusForConditionalGeneration, PreTrainedTokenizerFast

from reca.models.checkpoint import Target, Types, find_weights, joined, storage_types, stored_names, write_sharded
from reca.models.janus.config import Processing, read_config, read_processing, sizes_of, write_processing
from reca.models.janus.original import Original, original_config, original_name, original_tensors, read_original
from reca.models.janus.tokenizer import find_marks, matching_marks
from reca.models.words import load_tokenizer

LANGUAGE_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Parts:
    """What a folder says besides its weights.

    Attributes:
        config: sizes.
        tokenizer: tokenizer that fits them.
        processing: pixel statistics and system prompt.
        original: what only DeepSeek's layout has; None in transformers'.
    """

    config: JanusConfig
    tokenizer: PreTrainedTokenizerFast
    processing: Processing
    original: Original | None


def read_parts(folder: Path) -> Parts:
    """Read everything but the weights.

    A stored language head is a matrix of its own; a checkpoint without one uses the input embedding. The published
    configuration does not say which, so the weights decide.

    Raises:
        CheckpointError: naming the file, on missing files, another model's configuration, or a tokenizer that lacks a
            mark.
    """
    original = read_original(folder)
    tokenizer, weights, source = load_tokenizer(folder), find_weights(folder), str(folder / "tokenizer.json")
    config = read_config(folder) if original is None else original_config(folder, find_marks(tokenizer, source))
    head = LANGUAGE_HEAD if original is None else original_name(LANGUAGE_HEAD)
    config.tie_word_embeddings = head not in stored_names(weights)
    matching_marks(tokenizer, sizes_of(config, str(folder)), source)
    return Parts(config, tokenizer, read_processing(folder), original)


def published(janus: JanusForConditionalGeneration, original: Original | None) -> dict[str, Target]:
    """The model's tensors by their names in the files, of any shape and type; memory is shared."""
    tied, state = janus.config.tie_word_embeddings, janus.state_dict()
    tensors = {name: value for name, value in state.items() if not (tied and name == LANGUAGE_HEAD)}
    return {**tensors} if original is None else {**original_tensors(tensors), **original.unused}


def write_parts(
    janus: JanusForConditionalGeneration, parts: Parts, folder: Path, dtype: torch.dtype | None, stored: Types
) -> None:
    """Write a folder in the layout it came in, else in transformers'.

    Args:
        janus: the model.
        parts: everything but its weights.
        folder: where; made where it is missing.
        dtype: see `reca.models.checkpoint.storage_types`.
        stored: types in the files that the model came from, or nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: joined(value) for name, value in published(janus, parts.original).items()}
    parts.tokenizer.save_pretrained(str(folder))
    if parts.original is None:
        _write_settings(janus, parts, folder, storage_types(tensors, dtype, stored))
    else:
        for name, content in parts.original.files.items():
            (folder / name).write_bytes(content)
    write_sharded(tensors, folder, dtype, stored=stored)


def _write_settings(janus: JanusForConditionalGeneration, parts: Parts, folder: Path, types: Types) -> None:
    kinds = {kind for kind in types.values() if kind.is_floating_point}
    parts.config.dtype = kinds.pop() if len(kinds) == 1 else torch.float32
    parts.config.architectures = ["JanusForConditionalGeneration"]
    parts.config.save_pretrained(str(folder))
    janus.generation_config.save_pretrained(str(folder))
    write_processing(parts.processing, sizes_of(parts.config, str(folder)), folder)
