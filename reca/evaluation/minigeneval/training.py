"""Training of the MiniGenEval scorer: `python -m reca.evaluation.minigeneval.training --out FOLDER`.

One process, one thread, minutes; every batch is a function of (seed, step), so the weights are a function of the
recipe on one machine. A quarter of each batch is junk without objects: a detector trained on scenes alone passed 23 %
of colour blobs.
"""

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reca.data.scenes import CANVAS, CLASSES, COLORS
from reca.evaluation.minigeneval.ceiling import JUNK_LIMIT, ceiling
from reca.evaluation.minigeneval.network import STRIDE, Maps, ScorerNetwork
from reca.evaluation.minigeneval.pictures import (
    JUNK,
    Placed,
    Pool,
    damage,
    objects_anywhere,
    objects_on_lattice,
    stack,
)
from reca.evaluation.minigeneval.scorer import SIZE_UNIT, Scorer, ScorerError, normalize

GRID = CANVAS // STRIDE


@dataclass(frozen=True)
class ScorerRecipe:
    """How the scorer is trained.

    Attributes:
        seed: seed of weights and pictures; disjoint from every data seed because the streams have other names.
        steps: optimizer steps.
        batch_size: pictures in a step.
        junk: share of object-free pictures in a batch.
        learning_rate: peak rate of AdamW, cosine to 0 after `warmup` steps.
        warmup: steps of linear warm-up.
        weight_decay: AdamW weight decay.
    """

    seed: int = 7
    steps: int = 3000
    batch_size: int = 64
    junk: float = 0.25
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 1e-3


class Targets(NamedTuple):
    """What the maps should say.

    Attributes:
        heat: float32 [B, classes, G, G]; 1 at centres, Gaussian (1 grid point) around them.
        points: int64 [N, 3]: picture, row and column of every object.
        color: int64 [N].
        offset: float32 [N, 2].
        size: float32 [N, 2], in units of 16 px.
    """

    heat: Tensor
    points: Tensor
    color: Tensor
    offset: Tensor
    size: Tensor


def train_scorer(recipe: ScorerRecipe, progress: Callable[[str], None] = print) -> Scorer:
    """Train a scorer; the same recipe on one machine and thread gives the same weights.

    Args:
        recipe: what to do.
        progress: receives one line every 250 steps.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        network = ScorerNetwork(len(CLASSES), len(COLORS))
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    pool, started = Pool.load(), time.monotonic()
    network.train()
    for step in range(recipe.steps):
        pixels, targets = batch(recipe, step, pool)
        with torch.autocast("cpu", torch.bfloat16):
            maps = network(normalize(pixels).contiguous(memory_format=torch.channels_last))
        loss = scorer_loss(maps, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 250 == 0:
            progress(f"step {step + 1} of {recipe.steps}, loss {loss.item():.4f}, {time.monotonic() - started:.0f} s")
    card = {
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds": round(time.monotonic() - started, 1),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
    }
    return Scorer(network, card)


def batch(recipe: ScorerRecipe, step: int, pool: Pool) -> tuple[Tensor, Targets]:
    """Pictures and targets of one step: damaged scenes first, junk last.

    Args:
        recipe: batch size, share of junk and seed.
        step: optimizer step, from 0.
        pool: sprites.

    Returns:
        Pictures float32 [B, 3, 64, 64] in 0 to 255, and their targets.
    """
    rng = np.random.default_rng([recipe.seed, step])
    junk = round(recipe.batch_size * recipe.junk)
    makers = (objects_on_lattice, objects_anywhere)
    objects = [makers[i % 2](rng) for i in range(recipe.batch_size - junk)]
    kinds = list(JUNK.values())
    scenes = damage(stack([pool.compose(items) for items in objects]), rng)
    clutter = stack([kinds[(i + step * junk) % len(kinds)](rng, pool) for i in range(junk)])
    return torch.cat([scenes, clutter]), targets_of(objects, recipe.batch_size)


def targets_of(objects: list[list[Placed]], pictures: int) -> Targets:
    """Targets of pictures whose first `len(objects)` hold these objects and whose rest hold none."""
    heat = np.zeros((pictures, len(CLASSES), GRID, GRID), dtype=np.float32)
    placed = [(index, item) for index, items in enumerate(objects) for item in items]
    centers = np.array([(o.x + o.size / 2, o.y + o.size / 2) for _, o in placed], dtype=np.float32) / STRIDE
    cells = np.floor(centers + 0.5).astype(np.int64)
    axis = np.arange(GRID)
    for (picture, item), (column, row) in zip(placed, cells, strict=True):
        bump = np.exp(-0.5 * ((axis[:, None] - row) ** 2 + (axis[None, :] - column) ** 2))
        np.maximum(heat[picture, item.name], bump, out=heat[picture, item.name])
    points = np.array([(picture, row, column) for (picture, _), (column, row) in zip(placed, cells, strict=True)])
    return Targets(
        torch.from_numpy(heat),
        torch.from_numpy(points),
        torch.tensor([item.color for _, item in placed]),
        torch.from_numpy(centers - cells.astype(np.float32)),
        torch.tensor([[item.size / SIZE_UNIT] * 2 for _, item in placed]),
    )


def scorer_loss(maps: Maps, targets: Targets) -> Tensor:
    """CenterNet's loss (arXiv 1904.07850, eq. 1 to 4): focal heat + colour cross-entropy + L1 offset + 0.1 L1 size.

    Args:
        maps: what the network says of B pictures.
        targets: what it should say; N objects.

    Returns:
        Scalar float32; the heat is summed over the grid and divided by N, the other terms are means over the objects.
    """
    picture, row, column = targets.points.T
    log_hit, log_miss = functional.logsigmoid(maps.heat), functional.logsigmoid(-maps.heat)
    hit, miss = log_hit.exp(), log_miss.exp()
    center = targets.heat == 1
    focal = torch.where(center, miss**2 * log_hit, (1 - targets.heat) ** 4 * hit**2 * log_miss)
    color = functional.cross_entropy(maps.color[picture, :, row, column], targets.color)
    offset = functional.l1_loss(maps.offset[picture, :, row, column], targets.offset)
    size = functional.l1_loss(maps.size[picture, :, row, column], targets.size)
    return -focal.sum() / len(picture) + color + offset + 0.1 * size


def _rate(step: int, recipe: ScorerRecipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return 0.5 * (1 + float(np.cos(np.pi * done)))


def main(arguments: list[str] | None = None) -> None:
    """Train, measure the ceiling, write the scorer's folder.

    Raises:
        ScorerError: the scorer passes junk; nothing is written.
    """
    parser = argparse.ArgumentParser(description="Train the MiniGenEval scorer.")
    parser.add_argument("--out", type=Path, required=True, help="folder for model.safetensors and config.json")
    parser.add_argument("--steps", type=int, default=ScorerRecipe.steps)
    parser.add_argument("--seed", type=int, default=ScorerRecipe.seed)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    scorer = train_scorer(ScorerRecipe(seed=options.seed, steps=options.steps))
    measured = ceiling(scorer)
    scorer.card |= {"ceiling": msgspec.to_builtins(measured), "junk_passed": measured.junk_passed}
    for name, row in measured.accept.items():
        print(f"{name}: accept {_line(row)}; reject {_line(measured.reject[name])}")
    print(f"junk passed: {_line(measured.junk_passed)}")
    if not measured.junk_gate:
        raise ScorerError(f"junk passes: {measured.junk_passed}; limit {JUNK_LIMIT} in every task; train longer")
    scorer.save(options.out)


def _line(row: dict[str, float]) -> str:
    return ", ".join(f"{task} {value:.3f}" for task, value in row.items())


if __name__ == "__main__":
    main()
