"""Gaussian diffusion of single tokens: the cosine schedule with learned variance and its ancestral sampler.

Formulas: Ho et al. (arXiv 2006.11239) equations 5 to 7, Nichol and Dhariwal (arXiv 2102.09672) sections 3.1 (variance
between two bounds, the variational term beside the squared error) and 3.2 (cosine schedule).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

STEPS = 1000
"""Noise levels of the training schedule."""

CPU = torch.device("cpu")

Head = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Function of noised latents float [n, C], timesteps int64 [n] and conditions float [n, Dd] giving float [n, 2C] (see
`DiffusionHead`)."""

Predict = Callable[[Tensor, Tensor], Tensor]
"""A head with its conditions filled in: function of x_t float32 [n, C] and timesteps int64 [n] giving float [n, 2C]."""


@dataclass(frozen=True)
class Schedule:
    """Tables float64 [T] of a chain of T noise levels. All are made in float64: near level 0, float32 loses 3e-4 of the
    variational term.

    Attributes:
        levels: int64 [T], the training schedule's timestep of each level.
        betas: variance added at each level.
        alphas_cumprod: share of the signal's variance left.
        signal: factor of x0 in x_t.
        deviation: factor of the noise in x_t.
        clean_xt: factor of x_t in the x0 that a predicted noise stands for.
        clean_noise: factor of the noise there (to be subtracted).
        posterior_mean_x0: weight of x0 in the mean of the true posterior.
        posterior_mean_xt: weight of x_t there.
        posterior_log_variance: log variance of the true posterior; level 0, whose variance is 0, has that of level 1.
        log_betas: log of `betas`.
    """

    levels: Tensor
    betas: Tensor
    alphas_cumprod: Tensor
    signal: Tensor
    deviation: Tensor
    clean_xt: Tensor
    clean_noise: Tensor
    posterior_mean_x0: Tensor
    posterior_mean_xt: Tensor
    posterior_log_variance: Tensor
    log_betas: Tensor

    def at(self, name: str, index: Tensor) -> Tensor:
        """Entries float32 [..., 1] of a table at levels int64 [...]."""
        return getattr(self, name)[index].float()[..., None]


def cosine_betas() -> Tensor:
    """float64 [T], T = 1000: 1 - f(t+1)/f(t), at most 0.999, for f(t) = cos^2((t/T + 0.008) / 1.008 * pi/2) (Nichol and
    Dhariwal, section 3.2).
    """

    def signal(t: int) -> float:
        return math.cos((t / STEPS + 0.008) / 1.008 * math.pi / 2) ** 2

    return torch.tensor(
        [min(1 - signal(t + 1) / signal(t), 0.999) for t in range(STEPS)], dtype=torch.float64, device=CPU
    )


@cache
def schedule(count: int = STEPS, device: torch.device = CPU) -> Schedule:
    """The chain over `count` of the training schedule's levels, evenly spaced from the first to the last, on a device.

    Betas of the levels that are kept: Nichol and Dhariwal, section 4; the posterior: Ho et al., equations 6 and 7.

    Raises:
        ValueError: `count` is not in 2..1000.
    """
    if not 2 <= count <= STEPS:
        raise ValueError(f"a chain of {count} noise levels is not possible; choose 2 to {STEPS} (num_sampling_steps)")
    # Strides are added up, as published: at exact halves their rounding errors decide.
    strides = itertools.repeat((STEPS - 1) / (count - 1), count - 1)
    levels = torch.tensor([round(level) for level in itertools.accumulate(strides, initial=0.0)], device=CPU)
    kept = (1 - cosine_betas()).cumprod(0)[levels]
    betas = 1 - kept / _previous(kept)
    kept = (1 - betas).cumprod(0)
    variance = betas * (1 - _previous(kept)) / (1 - kept)
    tables = Schedule(
        levels=levels,
        betas=betas,
        alphas_cumprod=kept,
        signal=kept.sqrt(),
        deviation=(1 - kept).sqrt(),
        clean_xt=(1 / kept).sqrt(),
        clean_noise=(1 / kept - 1).sqrt(),
        posterior_mean_x0=betas * _previous(kept).sqrt() / (1 - kept),
        posterior_mean_xt=(1 - _previous(kept)) * (1 - betas).sqrt() / (1 - kept),
        posterior_log_variance=torch.cat([variance[1:2], variance[1:]]).log(),
        log_betas=betas.log(),
    )
    return Schedule(**{name: value.to(device) for name, value in vars(tables).items()})


def _previous(kept: Tensor) -> Tensor:
    return torch.cat([kept.new_ones(1), kept[:-1]])


def noised(clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """x_t float32 [..., C] (Ho et al., equation 4).

    Args:
        clean: float32 [..., C], latents.
        noise: float32 [..., C], standard normal.
        timestep: int64 [...] in 0..999.
    """
    tables = schedule(device=timestep.device)
    return tables.at("signal", timestep) * clean + tables.at("deviation", timestep) * noise


@dataclass(frozen=True)
class TokenLoss:
    """Loss of each token, float32 [...].

    Attributes:
        error: mean squared error of the predicted noise.
        bound: variational term in bits per channel; it trains the variance only.
    """

    error: Tensor
    bound: Tensor


def token_loss(predicted: Tensor, clean: Tensor, noise: Tensor, timestep: Tensor) -> TokenLoss:
    """Both terms for every token (Nichol and Dhariwal, section 3.1).

    Args:
        predicted: float [..., 2C], what the head says of `noised(clean, noise, timestep)`.
        clean: float32 [..., C].
        noise: float32 [..., C], standard normal.
        timestep: int64 [...] in 0..999.
    """
    epsilon, fraction = predicted.float().chunk(2, dim=-1)
    x = noised(clean, noise, timestep)
    tables = schedule(device=timestep.device)
    true_mean = tables.at("posterior_mean_x0", timestep) * clean + tables.at("posterior_mean_xt", timestep) * x
    true_log_variance = tables.at("posterior_log_variance", timestep)
    mean, log_variance = posterior(tables, x, epsilon.detach(), fraction, timestep)
    divergence = 0.5 * (
        log_variance
        - true_log_variance
        - 1
        + (true_log_variance - log_variance).exp()
        + (true_mean - mean).square() * (-log_variance).exp()
    )
    bits = torch.where((timestep == 0)[..., None], -log_likelihood(clean, mean, log_variance), divergence)
    return TokenLoss((noise - epsilon).square().mean(dim=-1), bits.mean(dim=-1) / math.log(2))


def posterior(tables: Schedule, x: Tensor, epsilon: Tensor, fraction: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance, float32 [..., C] each, of the step from a level to the one below.

    Args:
        tables: the chain.
        x: float32 [..., C], x_t.
        epsilon: float32 [..., C], predicted noise.
        fraction: float32 [..., C]; -1 to 1 places the log variance between the true posterior's and log beta (Nichol
            and Dhariwal, equation 15).
        index: int64 [...], the level, from 0 in the chain.
    """
    clean = tables.at("clean_xt", index) * x - tables.at("clean_noise", index) * epsilon
    mean = tables.at("posterior_mean_x0", index) * clean + tables.at("posterior_mean_xt", index) * x
    low, high = tables.at("posterior_log_variance", index), tables.at("log_betas", index)
    share = (fraction + 1) / 2
    return mean, share * high + (1 - share) * low


def log_likelihood(values: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log probability in nats, float32 [..., C], of the bin of half width 1/255 around each value under a normal
    distribution (Ho et al., equation 13); the bins beyond -0.999 and 0.999 are open. The normal distribution's integral
    is Page's tanh approximation.

    Args:
        values: float32 [..., C].
        mean: float32 [..., C].
        log_variance: float32 [..., C].
    """

    def integral(z: Tensor) -> Tensor:
        return 0.5 * (1 + (math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)).tanh())

    scale = (-0.5 * log_variance).exp()
    upper, lower = (integral(scale * (values - mean + edge / 255)) for edge in (1, -1))
    inside = torch.where(values > 0.999, 1 - lower, upper - lower)
    return torch.where(values < -0.999, upper, inside).clamp(min=1e-12).log()


def sample(predict: Predict, start: Tensor, noise: Iterator[Tensor], count: int, temperature: float) -> Tensor:
    """Draw tokens by running the chain of `count` levels down.

    Args:
        predict: the head, with or without guidance.
        start: float32 [n, C], normal noise.
        noise: normal noise float32 [n, C] of each level, from the last to the first; that of the first is not used.
        count: number of levels.
        temperature: factor of the noise.

    Returns:
        float32 [n, C].
    """
    tables, x = schedule(count, start.device), start
    for level, fresh in zip(reversed(range(count)), noise, strict=True):
        index = torch.full((len(x),), level, device=x.device)
        epsilon, fraction = predict(x, tables.levels[index]).float().chunk(2, dim=-1)
        mean, log_variance = posterior(tables, x, epsilon, fraction, index)
        x = mean + (0.5 * log_variance).exp() * fresh * temperature if level else mean
    return x


def unguided(head: Head, condition: Tensor) -> Predict:
    """`predict` for `sample` with conditions float [n, Dd] and no guidance."""
    return lambda x, timestep: head(x, timestep, condition)


def guided(head: Head, condition: Tensor, scale: float) -> Predict:
    """`predict` for `sample` with classifier-free guidance of the noise: uncond + scale * (cond - uncond).

    Args:
        head: the diffusion head.
        condition: float [n, Dd]; the first half is conditional, the second half unconditional. Both halves see the x_t
            of the first, and the second half's result means nothing.
        scale: guidance scale.
    """

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        first = x.chunk(2)[0]
        epsilon, fraction = head(torch.cat([first, first]), timestep, condition).chunk(2, dim=-1)
        conditional, unconditional = epsilon.chunk(2)
        mixed = unconditional + scale * (conditional - unconditional)
        return torch.cat([torch.cat([mixed, mixed]), fraction], dim=-1)

    return predict
