"""Train a tiny base: vision tower, understanding and sparse-caption text-to-image in one loop, for every family.

The base is meant to be like the published ones before RecA: it understands pictures densely (questions about class,
number, colour, place) but learnt to draw from captions that leave most of the picture out.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from reca.data.scenes import Scene, question, sparse_caption
from reca.data.sets import generator, scene_at
from reca.models.base import Example
from reca.objectives import templates
from reca.pretraining.config import BaseRecipe
from reca.pretraining.family import ModelT, TinyFamily, TokenizerT
from reca.pretraining.labels import FILLER, WORDS, description
from reca.pretraining.schedule import cosine
from reca.pretraining.state import LoopState
from reca.pretraining.tokenizer import scene_pixels

Report = Callable[[str], None]
CodesOf = Callable[[Tensor], Tensor]


class BaseData:
    """The two sets, composed once: captioned pictures as codes, and pictures with questions as pixels.

    Args:
        recipe: its scenes, batch sizes, rates and seed.
        codes_of: codes int64 [B, N] of pixels float [B, 3, 64, 64] in [-1, 1].
        feature_shape: (C, E) of understanding features; examples hold zeros in their place.
    """

    def __init__(self, recipe: BaseRecipe, codes_of: CodesOf, feature_shape: tuple[int, int]) -> None:
        self.recipe = recipe
        self.drawn = [scene_at("pictures", recipe.seed, index) for index in range(recipe.scenes)]
        self.asked = [scene_at("instructions", recipe.seed, index) for index in range(recipe.scenes)]
        self.blank = np.zeros(feature_shape, dtype=np.float32)
        self.words = np.stack([description(scene) for scene in self.asked])
        self.codes = np.concatenate([_codes(codes_of, self.drawn[i : i + 256]) for i in range(0, recipe.scenes, 256)])

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
        return examples, scene_pixels(self.asked[i] for i in chosen), torch.from_numpy(self.words[chosen])


def train_base(
    family: TinyFamily[TokenizerT, ModelT], model: ModelT, recipe: BaseRecipe, state: LoopState, report: Report
) -> None:
    """Train language model, projector and vision tower in place; the image tokenizer stays frozen.

    Loss: text-to-image + spelled captions + `understand` * image-to-text + `align` * word labels.
    """
    data = BaseData(recipe, lambda pixels: family.image_codes(model, pixels), family.feature_shape(model))
    model.train()
    family.tower(model).requires_grad_(True).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    first_update, started = state.restore(model, optimizer, report), time.monotonic()
    for update in range(first_update, recipe.updates):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * cosine(update, recipe.updates)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = _losses(family, model, data, update)
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
    family.tower(model).requires_grad_(False)
    model.eval()


def _losses(family: TinyFamily[TokenizerT, ModelT], model: ModelT, data: BaseData, update: int) -> dict[str, Tensor]:
    captions = data.captions(update)
    drawing = model.collate("text_to_image", captions)
    seeds = generator("base/draws", data.recipe.seed, update).integers(2**62, size=len(captions)).tolist()
    spelled, slots = data.spelled(update)
    examples, pixels, words = data.questions(update)
    features = family.features(model, pixels)
    understanding = {**model.collate("image_to_text", examples), "features": features}
    return {
        "t2i": model.loss("text_to_image", drawing, model.draw("text_to_image", drawing, seeds)).mean,
        "spelled": family.spelled_loss(model, spelled, slots, seeds[: len(spelled)]),
        "i2t": model.loss("image_to_text", understanding, {}).mean,
        "align": word_loss(family.projected(model, features), family.word_embeddings(model, WORDS), words),
    }


def word_loss(projected: Tensor, table: Tensor, words: Tensor) -> Tensor:
    """How far projected understanding features are from the embeddings of the words they stand for.

    Args:
        projected: float [B, 16, D].
        table: embeddings of `WORDS`, float [number of words, D]; they are targets and get no gradient here.
        words: int64 [B, 16], indices into `WORDS`.

    Returns:
        Scalar: cross entropy over cosine similarity (temperature 0.1) + squared distance relative to the word's squared
        norm; fillers, some three in eight of all, weigh 0.2 of a word.
    """
    projected, table = projected.float().flatten(0, 1), table.detach().float()
    target = words.flatten()
    weight = torch.where(target == 0, 0.2, 1.0)
    cosines = functional.normalize(projected, dim=-1) @ functional.normalize(table, dim=-1).T
    entropy = functional.cross_entropy(cosines / 0.1, target, reduction="none")
    distance = (projected - table[target]).pow(2).sum(-1) / table[target].pow(2).sum(-1)
    return ((entropy + distance) * weight).sum() / weight.sum()


@torch.no_grad()
def _codes(codes_of: CodesOf, scenes: Sequence[Scene]) -> NDArray[np.int64]:
    return codes_of(scene_pixels(scenes)).numpy()
