"""Rectified flow between latents (t = 0) and noise (t = 1), and the guided sampler. All tensors are in token layout.

Formulas follow the published `modeling/bagel/bagel.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from reca.models.bagel.config import Guidance

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(noised tokens float32 [B, N, D], times float32 [B]) to velocities float32 [B, N, D]."""


def shifted(times: Tensor, shift: float) -> Tensor:
    """s t / (1 + (s - 1) t) of times t float32, any shape, in [0, 1]: more time near noise for s > 1."""
    return shift * times / (1 + (shift - 1) * times)


def time_grid(steps: int, shift: float) -> Tensor:
    """float32 [steps + 1], from 1 down to 0. The published `num_timesteps` counts the points: steps + 1.

    Raises:
        ValueError: there is no step.
    """
    if steps < 1:
        raise ValueError(f"sampling.steps={steps} draws nothing; set it to 1 or more")
    return shifted(torch.linspace(1, 0, steps + 1), shift)


def noised(clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """(1 - t) * clean + t * noise, float32 [..., D].

    Args:
        clean: float32 [..., D], latent tokens.
        noise: float32 [..., D], standard normal.
        times: float32 in [0, 1], of a shape that broadcasts with those.
    """
    return (1 - times) * clean + times * noise


@dataclass(frozen=True)
class Step:
    """One step of the sampler.

    Attributes:
        state: float32 [B, N, D] tokens before the step.
        raw: velocities float32 [B, N, D] without guidance: conditional, then text-free and image-free as far as they
            were needed.
        velocity: float32 [B, N, D] after guidance.
    """

    state: Tensor
    raw: list[Tensor]
    velocity: Tensor


def sample(branches: Sequence[Velocity], noise: Tensor, times: Tensor, guidance: Guidance) -> Iterator[Step | Tensor]:
    """Euler steps from noise to latents. Yields each `Step`, then the final tokens float32 [B, N, D].

    Args:
        branches: velocity given everything, without the text, and without the pictures.
        noise: float32 [B, N, D], standard normal.
        times: float32 [steps + 1] of `time_grid`.
        guidance: scales, interval and renormalisation.
    """
    conditional, text_free, image_free = branches
    state = noise
    for now, after in pairwise(times):
        low, high = guidance.interval
        # In float32, as published: a bound of 0.4 is the grid's own 0.4 there, and in float64 it is below it.
        guided = bool((now > low) & (now <= high))
        batch_times = now.to(state.device).expand(len(state))
        raw = [conditional(state, batch_times)]
        free_text = text_free(state, batch_times) if guided and guidance.text > 1 else None
        free_image = image_free(state, batch_times) if guided and guidance.image > 1 else None
        raw += [each for each in (free_text, free_image) if each is not None]
        velocity = raw[0] if free_text is None else guide(raw[0], free_text, free_image, guidance)
        yield Step(state, raw, velocity)
        state = state - velocity * (now - after).to(state.device)
    yield state


def guide(velocity: Tensor, text_free: Tensor, image_free: Tensor | None, guidance: Guidance) -> Tensor:
    """Guided velocity float32 [B, N, D]: text step, image step, and a norm that may not exceed the conditional one's.

    The global norm is taken over each picture of the batch by itself (the released code packs one picture).

    Args:
        velocity: float32 [B, N, D], conditional velocity.
        text_free: float32 [B, N, D], velocity without the text.
        image_free: float32 [B, N, D], velocity without the pictures; None where the image scale is 1.
        guidance: scales and renormalisation.
    """

    def renormed(value: Tensor, axes: tuple[int, ...]) -> Tensor:
        norms = [each.norm(dim=axes, keepdim=True) for each in (velocity, value)]
        return value * (norms[0] / (norms[1] + 1e-8)).clamp(guidance.renorm_min, 1.0)

    def image_step(value: Tensor) -> Tensor:
        return value if image_free is None else image_free + guidance.image * (value - image_free)

    by_text = text_free + guidance.text * (velocity - text_free)
    if guidance.renorm == "text_channel":
        return image_step(renormed(by_text, (-1,)))
    return renormed(image_step(by_text), (1, 2) if guidance.renorm == "global" else (-1,))
