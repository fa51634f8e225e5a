"""Drawing an image token by token group: masked autoregression with a diffusion step for each group.

Published `sample` of Harmon (from MAR, arXiv 2406.11838, section 4.2): tokens leave the mask in a random order, a few
per iteration; the language model reads the visible tokens against a cached prompt in every iteration.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from reca.models.harmon import diffusion
from reca.models.harmon.masking import hidden_counts, split
from reca.models.harmon.network import HarmonNetwork, Prompt, appended, positions


@dataclass(frozen=True)
class DrawingPlan:
    """How an image is drawn.

    Attributes:
        grid: rows and columns.
        iterations: groups of tokens.
        scale: guidance scale s in uncond + s * (cond - uncond); 1 switches it off.
        schedule: scale over the iterations: `constant`, or `linear` from 1 up to `scale`.
        temperature: factor of the noise in the diffusion chain.
        levels: noise levels of that chain.
    """

    grid: tuple[int, int]
    iterations: int
    scale: float
    schedule: Literal["constant", "linear"]
    temperature: float
    levels: int


@dataclass(frozen=True)
class GroupNoise:
    """Normal noise of one group of n = B * m tokens, rows ordered by (image, token).

    Attributes:
        start: float32 [n, C].
        steps: noise of each noise level from the last to the first, float32 [n, C] each ([2n, C] with guidance, whose
            second half has no effect on the result).
    """

    start: Tensor
    steps: Iterator[Tensor]


Noise = Callable[[int, Tensor], GroupNoise]
"""Noise of an iteration (from 0) that draws the tokens int64 [B, m] (raster indices, ascending)."""


@dataclass(frozen=True)
class Iteration:
    """What happened in one iteration; R is B, or 2B with guidance (conditional rows first).

    Attributes:
        hidden: bool [B, N], tokens that were still unknown.
        scale: guidance scale used.
        sequence_mask: bool [R, L], where the sequence of the language model is real.
        sequence_positions: int64 [R, K + buffer], positions of the visible tokens and buffers.
        conditions: float [R, N, Dd] of all tokens.
        drawn_conditions: float [R * m, Dd] of the tokens drawn.
        drawn: float32 [R * m, C], the diffusion samples; the second half, if any, means nothing.
        latents: float32 [B, rows, cols, C] with the new tokens.
    """

    hidden: Tensor
    scale: float
    sequence_mask: Tensor
    sequence_positions: Tensor
    conditions: Tensor
    drawn_conditions: Tensor
    drawn: Tensor
    latents: Tensor


def seeded_noise(
    seeds: Sequence[int], tokens: int, channels: int, levels: int, device: torch.device = diffusion.CPU
) -> tuple[Tensor, Noise]:
    """Order int64 [B, N] and noise of each image from its own generator on the CPU, so that no image depends on its
    batch or on the device.

    Args:
        seeds: 63 bits, one for each image.
        tokens: N.
        channels: C.
        levels: noise levels of the diffusion chain.
        device: where both are moved.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    order = torch.stack([torch.randperm(tokens, generator=generator) for generator in generators])
    rows = [torch.randn(levels + 1, tokens, channels, generator=generator) for generator in generators]
    table = torch.stack(rows).to(device)

    def noise(_: int, chosen: Tensor) -> GroupNoise:
        index = chosen[:, None, :, None].expand(-1, levels + 1, -1, channels)
        start, *steps = table.gather(2, index).transpose(0, 1).flatten(1, 2).unbind(0)
        return GroupNoise(start, iter(steps))

    return order.to(device), noise


def draw_image(
    network: HarmonNetwork, prompt: Prompt, plan: DrawingPlan, order: Tensor, noise: Noise
) -> Iterator[Iteration]:
    """Draw latents iteration by iteration; the image is the `latents` of the last.

    Args:
        network: the network, in evaluation mode.
        prompt: B conditional rows, and with guidance B unconditional ones after them, padded on the right.
        plan: how to draw.
        order: int64 [B, N]; the tokens that stay hidden longest come first.
        noise: noise of each group.
    """
    halves = 1 if plan.scale == 1 else 2
    batch, tokens, device = len(order), order.shape[1], prompt.embeddings.device
    latents = torch.zeros(batch, *plan.grid, network.config.mar.token_channels, device=device)
    reader = _CachedReader(network, prompt)
    counts = hidden_counts(tokens, plan.iterations)
    for number, (before, after) in enumerate(pairwise(counts)):
        if before == after:
            continue  # more iterations than tokens
        _, visible = split(order, before)
        chosen = order[:, after:before].sort(dim=1).values
        conditions, mask, places = reader.conditions(latents, visible, plan.grid, halves)
        index = chosen.repeat(halves, 1)[..., None].expand(-1, -1, conditions.shape[-1])
        picked = conditions.gather(1, index).flatten(0, 1)
        # The last iteration counts as leaving one token hidden, as published.
        scale = _scale(plan, 1 - max(after, 1) / tokens)
        drawn = _diffuse(network, picked, noise(number, chosen), scale, halves, plan)
        kept = drawn[: chosen.numel()].view(batch, -1, latents.shape[-1])
        latents = latents.flatten(1, 2).scatter(1, chosen[..., None].expand_as(kept), kept).view_as(latents)
        hidden = torch.zeros(batch, tokens, dtype=torch.bool, device=device).scatter(1, order[:, :before], True)
        yield Iteration(hidden, scale, mask, places, conditions, picked, drawn, latents)


class _CachedReader:
    """The masked pass with the prompt's keys and values computed once."""

    def __init__(self, network: HarmonNetwork, prompt: Prompt) -> None:
        self.network, self.prompt = network, prompt
        self.cache = DynamicCache(config=network.llm.config)
        # Padding is on the right, so it hides itself from the prompt by causality and needs no mask here.
        network.llm.model(inputs_embeds=prompt.embeddings, past_key_values=self.cache, use_cache=True)

    def conditions(
        self, latents: Tensor, visible: Tensor, grid: tuple[int, int], halves: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Conditions [R, N, Dd] of all tokens, mask [R, L] and positions [R, K + buffer] of the language model.

        Conditional and unconditional rows see the same latents, so these are encoded once.
        """
        network = self.network
        encoded = network.mar.encode(latents, visible, None).repeat(halves, 1, 1)
        embeddings = network.to_llm(encoded)
        mask = appended(self.prompt, embeddings).mask
        places = positions(mask)[:, -embeddings.shape[1] :]
        states = network.llm.model(
            inputs_embeds=embeddings,
            attention_mask=mask.long(),
            position_ids=places,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.cache.crop(-embeddings.shape[1])
        fused = network.fuse(encoded, states)
        return network.mar.decode(fused, visible.repeat(halves, 1), grid, None), mask, places


def _scale(plan: DrawingPlan, known: float) -> float:
    """Guidance scale when a share `known` of the tokens is known after the iteration."""
    return plan.scale if plan.schedule == "constant" else 1 + (plan.scale - 1) * known


def _diffuse(
    network: HarmonNetwork, conditions: Tensor, noise: GroupNoise, scale: float, halves: int, plan: DrawingPlan
) -> Tensor:
    """Samples float32 [R * m, C] for conditions [R * m, Dd]."""
    start = noise.start.repeat(halves, 1)
    steps = (each if len(each) == len(start) else each.repeat(halves, 1) for each in noise.steps)
    head = network.mar.diffloss.net
    predict = diffusion.guided(head, conditions, scale) if halves == 2 else diffusion.unguided(head, conditions)
    return diffusion.sample(predict, start, steps, plan.levels, plan.temperature)
