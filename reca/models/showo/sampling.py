"""Drawing a picture by iterative unmasking (MaskGIT as published in Show-o), with explicit random draws."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST = 1e-20
"""No logarithm is taken of less."""


@dataclass(frozen=True)
class StepDraws:
    """Random numbers of one step.

    Attributes:
        exponential: float32 [B, N, K], Exp(1) draws; the code drawn is argmax of probability / draw.
        uniform: float32 [B, N], U(0, 1) draws of the confidence noise.
    """

    exponential: Tensor
    uniform: Tensor


@dataclass(frozen=True)
class Step:
    """What happened in one step.

    Attributes:
        masked_before: bool [B, N], positions that were still hidden.
        logits: float32 [B, N, K], guided logits over the image codes.
        drawn: int64 [B, N], code drawn at every position.
        codes: int64 [B, N], the same with the codes that were already known.
    """

    masked_before: Tensor
    logits: Tensor
    drawn: Tensor
    codes: Tensor


def seeded_draws(seeds: Sequence[int], steps: int, positions: int, codes: int) -> Iterator[StepDraws]:
    """Draws of each step on the CPU, one generator per picture, so that none depends on the rest of its batch.

    Args:
        seeds: 63 bits, one for each of B pictures.
        steps: number of steps.
        positions: N.
        codes: K.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for _ in range(steps):
        exponential = [torch.empty(positions, codes).exponential_(generator=generator) for generator in generators]
        uniform = [torch.rand(positions, generator=generator) for generator in generators]
        yield StepDraws(torch.stack(exponential), torch.stack(uniform))


def unmask(
    logits: Callable[[Tensor, Tensor], Tensor],
    draws: Iterable[StepDraws],
    shape: tuple[int, int],
    steps: int,
    temperature: float,
    device: torch.device | str = "cpu",
) -> Iterator[Step]:
    """Draw codes step by step; the picture is the `codes` of the last step.

    At step s, with r = (s + 1) / steps: every position draws a code; known ones keep theirs. Then the n positions of
    lowest confidence are hidden again, n = floor(N * cos(pi/2 * r)), at least 1 and fewer than were hidden: those
    strictly below entry n (from 0) of the sorted confidences. Confidence is log probability + temperature * Gumbel
    noise; the temperature is multiplied by (1 - r) at every step, cumulatively. The log probability of a known code is
    that of the largest float32, 88.7, as published: noise of temperatures from about 4.3 on can hide it again.

    Args:
        logits: guided logits float32 [B, N, K] of codes int64 [B, N] and hidden positions bool [B, N] (whose code is
            meaningless).
        draws: one entry per step.
        shape: B and N.
        steps: number of steps.
        temperature: start temperature.
        device: where to work.
    """
    codes = torch.zeros(shape, dtype=torch.long, device=device)
    masked = torch.ones(shape, dtype=torch.bool, device=device)
    for number, step_draws in zip(range(steps), draws, strict=False):
        guided = logits(codes, masked)
        probabilities = guided.softmax(dim=-1)
        drawn = (probabilities / step_draws.exponential.to(device)).argmax(dim=-1)
        step = Step(masked, guided, drawn, torch.where(masked, drawn, codes))
        yield step
        ratio = (number + 1) / steps
        temperature *= 1 - ratio
        probability = probabilities.gather(-1, step.codes[..., None]).squeeze(-1)
        sure = probability.masked_fill(~masked, torch.finfo(probability.dtype).max).clamp(min=SMALLEST).log()
        confidence = sure + temperature * _gumbel(step_draws.uniform.to(device))
        masked = _least_confident(confidence, masked, _still_hidden(shape[1], ratio))
        codes = step.codes


def _still_hidden(positions: int, ratio: float) -> int:
    # In float32 as published: 16 * cos(60 degrees) is 7.9999995 there and hides 7 positions, in float64 it hides 8.
    return int((positions * torch.cos(torch.tensor(ratio) * (math.pi / 2))).floor())


def _least_confident(confidence: Tensor, masked: Tensor, count: int) -> Tensor:
    unknown = masked.sum(dim=-1, keepdim=True)
    keep = (unknown - 1).clamp(max=count).clamp(min=1, max=confidence.shape[1] - 1)
    threshold = confidence.sort(dim=-1).values.gather(-1, keep)
    return confidence < threshold


def _gumbel(uniform: Tensor) -> Tensor:
    return -(-uniform.clamp(min=SMALLEST).log()).clamp(min=SMALLEST).log()
