"""Train a tiny base: vision tower, understanding and sparse-caption text-to-image in one loop, for every family.

The base is meant to be like the published ones before RecA: it understands pictures densely (questions about class,
number, colour, place) but learnt to draw from captions that leave most of the picture out.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
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
from reca.pretraining.tokenizer import Report, scene_pixels

TargetsOf = Callable[[Tensor], Mapping[str, Tensor]]


class BaseData:
    """The two sets, composed once: captioned pictures as the family draws them, and pictures with questions as pixels.

    Args:
        recipe: its scenes, batch sizes, rates and seed.
        targets_of: what pixels float [B, 3, 64, 64] in [-1, 1] are drawn as, by name, batch axis first.
        blanks: one picture's zeros in place of what is encoded for understanding.
    """

    def __init__(self, recipe: BaseRecipe, targets_of: TargetsOf, blanks: Mapping[str, np.ndarray]) -> None:
        self.recipe = recipe
        self.drawn = [scene_at("pictures", recipe.seed, index) for index in range(recipe.scenes)]
        self.asked = [scene_at("instructions", recipe.seed, index) for index in range(recipe.scenes)]
        self.blanks = dict(blanks)
        self.words = np.stack([description(scene) for scene in self.asked])
        parts = [_targets(targets_of, self.drawn[i : i + 256]) for i in range(0, recipe.scenes, 256)]
        self.targets = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def captions(self, update: int) -> list[Example]:
        """Examples of one text-to-image batch; each visit to a picture draws a new sparse caption."""
        rng = generator("base/captions", self.recipe.seed, update)
        chosen = rng.integers(len(self.drawn), size=self.recipe.batch_size)
        return [Example(str(i), sparse_caption(self.drawn[i], rng, self.recipe.rates), self._target(i)) for i in chosen]

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
            Example(str(i), sentences[rng.integers(len(sentences))], {**self.blanks, **self._target(i)}) for i in chosen
        ], slots

    def questions(self, update: int) -> tuple[list[Example], Tensor, Tensor]:
        """One understanding batch: examples, pixels float [B, 3, 64, 64] in [-1, 1], label words int64 [B, 16]."""
        rng = generator("base/questions", self.recipe.seed, update)
        chosen = rng.integers(len(self.asked), size=self.recipe.batch_size)
        examples = [Example(str(i), "\n".join(question(self.asked[i], rng)), self.blanks) for i in chosen]
        return examples, scene_pixels(self.asked[i] for i in chosen), torch.from_numpy(self.words[chosen])

    def _target(self, index: int) -> dict[str, np.ndarray]:
        return {name: values[index] for name, values in self.targets.items()}


def train_base(
    family: TinyFamily[TokenizerT, ModelT], model: ModelT, recipe: BaseRecipe, state: LoopState, report: Report
) -> None:
    """Train everything but the image tokenizer in place.

    Loss: text-to-image + spelled captions + `understand` * image-to-text + `align` * word labels + what the
    family adds.

    Args:
        family: its losses and features.
        model: of `family.build`; left in evaluation mode.
        recipe: updates, batch sizes, rates, weights and seed.
        state: continues where an earlier run was killed.
        report: takes a line every 50 updates.
    """
    data = BaseData(recipe, lambda pixels: family.targets(model, pixels), family.blanks(model))
    model.train()
    for module in family.learns(model):
        module.requires_grad_(True).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    first_update, started = state.restore(model, optimizer, report), time.monotonic()
    for update in range(first_update, recipe.updates):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * cosine(update, recipe.updates)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = _losses(family, model, data, update)
            further = family.further(model, recipe, update)
        loss = losses["t2i"] + losses["spelled"] + recipe.understand * losses["i2t"] + recipe.align * losses["align"]
        for term in further.values():
            loss = loss + term
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        state.save(model, optimizer, update + 1)
        if update % 50 == 0 or update + 1 == recipe.updates:
            rate = (update + 1 - first_update) / (time.monotonic() - started)
            terms = " · ".join(f"{name} {float(value.detach()):.3f}" for name, value in {**losses, **further}.items())
            report(f"base {update + 1}/{recipe.updates} · {rate:.1f} updates/s · {terms}")
    for module in family.learns(model):
        module.requires_grad_(False)
    family.finish(model)
    model.eval()


def _losses(family: TinyFamily[TokenizerT, ModelT], model: ModelT, data: BaseData, update: int) -> dict[str, Tensor]:
    captions = data.captions(update)
    drawing = model.collate("text_to_image", captions)
    seeds = generator("base/draws", data.recipe.seed, update).integers(2**62, size=len(captions)).tolist()
    spelled, slots = data.spelled(update)
    examples, pixels, words = data.questions(update)
    features = family.features(model, pixels)
    draws = {
        **model.draw("text_to_image", drawing, seeds),
        **model.draw_shared("text_to_image", int(generator("base/shared", data.recipe.seed, update).integers(2**62))),
    }
    t2i = family.drawing_loss(model, drawing, draws)
    spelled_loss = family.spelled_loss(model, spelled, slots, seeds[: len(spelled)])
    understood = family.asked(model, examples, features)
    return {
        "t2i": t2i,
        "spelled": spelled_loss,
        "i2t": understood.loss,
        "align": word_loss(understood.projected, family.word_embeddings(model, WORDS), words),
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
def _targets(targets_of: TargetsOf, scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in targets_of(scene_pixels(scenes)).items()}
