"""Train a family's image tokenizer on composed scenes, then freeze it."""

import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reca.data.scenes import MAX_OBJECTS, Scene, render, sample_scene
from reca.data.sets import generator, scene_at
from reca.pretraining.config import TokenizerRecipe
from reca.pretraining.family import ModelT, TinyFamily, TokenizerT
from reca.pretraining.schedule import cosine
from reca.pretraining.state import LoopState

Report = Callable[[str], None]


def scene_pixels(scenes: Iterable[Scene]) -> Tensor:
    """Rendered scenes, float32 [number of scenes, 3, 64, 64] in [-1, 1]."""
    images = np.stack([render(scene) for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def _training_scene(seed: int, index: int) -> Scene:
    """Three of four training scenes are full boards, so that fewer updates go into empty patches."""
    return sample_scene(generator("tokenizer", seed, index), None if index % 4 == 0 else MAX_OBJECTS)


def training_scenes(seed: int, first: int, count: int) -> Tensor:
    """Scenes of a tokenizer's training, float32 [count, 3, 64, 64] in [-1, 1].

    Args:
        seed: of the training.
        first: number of the first scene, from 0.
        count: number of scenes.
    """
    return scene_pixels(_training_scene(seed, first + offset) for offset in range(count))


def train_tokenizer(
    family: TinyFamily[TokenizerT, ModelT], recipe: TokenizerRecipe, state: LoopState, report: Report
) -> TokenizerT:
    """Train from random weights. Loss: L1 + mean square error of pixels, plus the family's penalties.

    Args:
        family: its tokenizer and penalties.
        recipe: updates, batch size, rate, weights and seed.
        state: continues where an earlier run was killed.
        report: takes a line every 50 updates.

    Returns:
        The trained tokenizer, float32, in evaluation mode.
    """
    torch.manual_seed(recipe.seed)
    model = family.new_tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    first_update, started = state.restore(model, optimizer, report), time.monotonic()
    for update in range(first_update, recipe.updates):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * cosine(update, recipe.updates)
        first = update * recipe.batch_size

        def scenes(count: int, first: int = first) -> Tensor:
            return training_scenes(recipe.seed, first, count)

        family.before_update(model, update, recipe, scenes)
        pixels = scenes(recipe.batch_size)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = family.redraw(model, pixels, update, recipe)
        error = output.pictures.float() - pixels
        loss = error.abs().mean() + error.pow(2).mean()
        for penalty in output.penalties:
            loss = loss + penalty
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        state.save(model, optimizer, update + 1)
        if update % 50 == 0 or update + 1 == recipe.updates:
            used = "" if output.codes is None else f" · {output.codes.unique().numel()} codes used"
            rate = (update + 1 - first_update) / (time.monotonic() - started)
            l1 = float(error.abs().mean().detach())
            report(f"tokenizer {update + 1}/{recipe.updates} · {rate:.1f} updates/s · L1 {l1:.4f}{used}")
    return model.eval()


@torch.no_grad()
def tokenizer_quality(
    family: TinyFamily[TokenizerT, ModelT], model: TokenizerT, seed: int, count: int = 256
) -> tuple[float, int]:
    """Quality on scenes never trained on.

    Args:
        family: of the tokenizer.
        model: trained.
        seed: of the held-out scenes.
        count: number of scenes.

    Returns:
        PSNR in dB over pixel range [0, 255], and number of distinct codes (0 where there are no codes).
    """
    pixels = scene_pixels(scene_at("held-out", seed, index) for index in range(count))
    pictures, codes = zip(*[family.redrawn(model, chunk) for chunk in pixels.split(64)], strict=True)
    mse = functional.mse_loss(torch.cat(pictures).clamp(-1, 1) * 127.5, pixels * 127.5)
    used = torch.cat([part.flatten() for part in codes if part is not None] or [torch.empty(0)])
    return float(10 * torch.log10(255**2 / mse)), used.unique().numel()
