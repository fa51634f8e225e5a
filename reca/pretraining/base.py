"""Train the tiny Show-o base: vision tower, understanding and sparse-caption text-to-image in one loop.

The base is meant to be like the published ones before RecA: it understands pictures densely (questions about class,
number, colour, place) but learnt to draw from captions that leave most of the picture out.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from reca.data.scenes import Scene, question, render, sparse_caption, vocabulary
from reca.data.sets import generator, scene_at
from reca.models.base import Example
from reca.models.showo.config import ClipSizes, MagvitConfig, PhiSizes, ShowoConfig
from reca.models.showo.magvit import Magvit
from reca.models.showo.model import ShowoModel
from reca.models.showo.pixels import plain_resize
from reca.models.showo.sequences import IGNORED
from reca.models.showo.tokenizer import build_word_tokenizer
from reca.objectives import templates
from reca.pretraining.config import BaseRecipe
from reca.pretraining.labels import FILLER, WORDS, description
from reca.pretraining.schedule import cosine
from reca.pretraining.state import LoopState

Report = Callable[[str], None]

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


def tiny_showo(tokenizer: Magvit, seed: int) -> ShowoModel:
    """An untrained tiny Show-o around a trained image tokenizer. Same class as the released sizes."""
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


class BaseData:
    """The two sets, composed once: captioned pictures as codes, and pictures with questions as pixels."""

    def __init__(self, model: ShowoModel, recipe: BaseRecipe) -> None:
        self.recipe = recipe
        self.drawn = [scene_at("pictures", recipe.seed, index) for index in range(recipe.scenes)]
        self.asked = [scene_at("instructions", recipe.seed, index) for index in range(recipe.scenes)]
        self.blank = np.zeros(
            ((model.config.clip.image_size // model.config.clip.patch_size) ** 2, model.config.clip.hidden_size),
            dtype=np.float32,
        )
        self.words = np.stack([description(scene) for scene in self.asked])
        self.codes = np.concatenate([_codes(model, self.drawn[i : i + 256]) for i in range(0, recipe.scenes, 256)])

    def captions(self, update: int) -> list[Example]:
        """Examples of one text-to-image batch; each visit to a picture draws a new sparse caption."""
        rng = generator("base/captions", self.recipe.seed, update)
        chosen = rng.integers(len(self.drawn), size=self.recipe.batch_size)
        return [
            Example(str(i), sparse_caption(self.drawn[i], rng, self.recipe.rates), {"codes": self.codes[i]})
            for i in chosen
        ]

    def spelled(self, update: int) -> tuple[list[Example], list[list[str]]]:
        """One batch of captions to be spelled where a picture's understanding tokens stand: examples with a template
        sentence as text, and 16 words each: the caption without its articles at a random place, fillers elsewhere.
        """
        rng = generator("base/spelled", self.recipe.seed, update)
        chosen = rng.integers(len(self.drawn), size=self.recipe.spelled)
        sentences, slots, places = templates(), list[list[str]](), self.words.shape[1]
        for i in chosen:
            words = [word for word in sparse_caption(self.drawn[i], rng, self.recipe.rates).split() if word != "a"]
            start = int(rng.integers(places - len(words) + 1))
            slots.append([FILLER] * start + words + [FILLER] * (places - start - len(words)))
        return [
            Example(str(i), sentences[rng.integers(len(sentences))], {"codes": self.codes[i], "features": self.blank})
            for i in chosen
        ], slots

    def questions(self, update: int) -> tuple[list[Example], Tensor, Tensor]:
        """One understanding batch: examples, pixels float [B, 3, 64, 64] in [-1, 1], label words int64 [B, 16]."""
        rng = generator("base/questions", self.recipe.seed, update)
        chosen = rng.integers(len(self.asked), size=self.recipe.batch_size)
        examples = [Example(str(i), "\n".join(question(self.asked[i], rng)), {"features": self.blank}) for i in chosen]
        pixels = np.stack([render(self.asked[i]) for i in chosen])
        return examples, _scaled(pixels), torch.from_numpy(self.words[chosen])


def train_base(model: ShowoModel, recipe: BaseRecipe, state: LoopState, report: Report) -> None:
    """Train language model, projector and vision tower in place; the image tokenizer stays frozen.

    Loss: text-to-image + spelled captions + `understand` * image-to-text + `align` * word labels.
    """
    data = BaseData(model, recipe)
    model.train()
    model.clip.requires_grad_(True).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    first_update, started = state.restore(model, optimizer, report), time.monotonic()
    for update in range(first_update, recipe.updates):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * cosine(update, recipe.updates)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = _losses(model, data, update)
        loss = losses["t2i"] + losses["spelled"] + recipe.understand * losses["i2t"] + recipe.align * losses["align"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        state.save(model, optimizer, update + 1)
        if update % 50 == 0 or update + 1 == recipe.updates:
            rate = (update + 1 - first_update) / (time.monotonic() - started)
            terms = " · ".join(f"{name} {float(value.detach()):.3f}" for name, value in losses.items())
            report(f"base {update + 1}/{recipe.updates} · {rate:.1f} updates/s · {terms}")
    model.clip.requires_grad_(False)
    model.eval()


def _losses(model: ShowoModel, data: BaseData, update: int) -> dict[str, Tensor]:
    captions = data.captions(update)
    drawing = model.collate("text_to_image", captions)
    seeds = generator("base/draws", data.recipe.seed, update).integers(2**62, size=len(captions)).tolist()
    spelled, slots = data.spelled(update)
    examples, pixels, words = data.questions(update)
    features = model.clip_features(plain_resize(pixels, model.config.clip.image_size))
    understanding = {**model.collate("image_to_text", examples), "features": features}
    return {
        "t2i": model.loss("text_to_image", drawing, model.draw("text_to_image", drawing, seeds)).mean,
        "spelled": spelled_loss(model, spelled, slots, seeds[: len(spelled)]),
        "i2t": model.loss("image_to_text", understanding, {}).mean,
        "align": word_loss(model, features, words),
    }


def spelled_loss(model: ShowoModel, examples: list[Example], slots: list[list[str]], seeds: list[int]) -> Tensor:
    """Text-to-image in the layout of a reconstruction: caption words stand where understanding tokens will stand.

    Teaches drawing to read that place as it reads a caption, and no more than sparse captions tell. Published models
    bring this with them: their understanding tokens have been read next to text for millions of steps.

    Args:
        model: the model in training.
        examples: pictures with a template sentence each.
        slots: 16 words for each picture.
        seeds: one per example.

    Returns:
        Scalar: mean cross entropy over hidden codes.
    """
    assert model.collator is not None
    batch = model.collate("reconstruction", examples)
    tokens, layout = model.reconstruction(batch, model.draw("reconstruction", batch, seeds))
    ids = torch.tensor([model.collator.tokenizer.convert_tokens_to_ids(words) for words in slots])
    words = model.showo.model.embed_tokens(ids)
    embeddings = torch.cat([layout.embeddings[:, :2], words, layout.embeddings[:, 2 + ids.shape[1] :]], dim=1)
    labels = tokens.labels.clone()
    labels[:, : -1 - batch["codes"].shape[1]] = IGNORED
    labels[:, -1] = IGNORED
    states = model.states(replace(layout, embeddings=embeddings))
    return functional.cross_entropy(model.showo.lm_head(states[labels != IGNORED]).float(), labels[labels != IGNORED])


def word_loss(model: ShowoModel, features: Tensor, words: Tensor) -> Tensor:
    """How far projected understanding features are from the embeddings of the words they stand for.

    Args:
        model: owner of projector and word embeddings; the embeddings are targets and get no gradient here.
        features: float [B, 16, D].
        words: int64 [B, 16], indices into `WORDS`.

    Returns:
        Scalar: cross entropy over cosine similarity (temperature 0.1) + squared distance relative to the word's squared
        norm; fillers, some three in eight of all, weigh 0.2 of a word.
    """
    projected = model.mm_projector(features).float().flatten(0, 1)
    assert model.collator is not None
    ids = torch.tensor(model.collator.tokenizer.convert_tokens_to_ids(list(WORDS)))
    table = model.showo.model.embed_tokens.weight[ids].detach().float()
    target = words.flatten()
    weight = torch.where(target == 0, 0.2, 1.0)
    cosines = functional.normalize(projected, dim=-1) @ functional.normalize(table, dim=-1).T
    entropy = functional.cross_entropy(cosines / 0.1, target, reduction="none")
    distance = (projected - table[target]).pow(2).sum(-1) / table[target].pow(2).sum(-1)
    return ((entropy + distance) * weight).sum() / weight.sum()


def _scaled(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def _codes(model: ShowoModel, scenes: list[Scene]) -> NDArray[np.int64]:
    return model.magvit.encode(_scaled(np.stack([render(scene) for scene in scenes]))).numpy()
