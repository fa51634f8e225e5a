"""Flow matching: noise levels of training, and sampling with DPM-Solver. Latents here are scaled to unit variance."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from reca.models.openuni.config import FlowSettings


@dataclass(frozen=True)
class Noised:
    """Latents on their way to noise.

    Attributes:
        sigmas: float32 [B] in (0, 1], share of noise.
        timesteps: float32 [B], time given to the transformer, sigma times the number of training levels.
        latents: float32 [B, C, h, w], (1 - sigma) * latents + sigma * noise.
        velocity: float32 [B, C, h, w], the target noise - latents.
    """

    sigmas: Tensor
    timesteps: Tensor
    latents: Tensor
    velocity: Tensor


@dataclass(frozen=True)
class Step:
    """One step of the solver.

    Attributes:
        timestep: time given to the transformer.
        before: float32 [B, C, h, w], latents entering the step.
        velocity: float32 [B, C, h, w], guided velocity.
        after: float32 [B, C, h, w], latents leaving it.
    """

    timestep: Tensor
    before: Tensor
    velocity: Tensor
    after: Tensor


def training_levels(settings: FlowSettings) -> tuple[Tensor, Tensor]:
    """The noise levels of training, largest first, and their times; float32 [n] each."""
    levels = FlowMatchEulerDiscreteScheduler(num_train_timesteps=settings.num_train_timesteps, shift=settings.shift)
    return torch.as_tensor(levels.sigmas), torch.as_tensor(levels.timesteps)


def sampling_scheduler(settings: FlowSettings, steps: int) -> DPMSolverMultistepScheduler:
    """A fresh solver for `steps` steps; it remembers the steps taken."""
    values = asdict(settings)
    del values["shift"]
    solver = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, **values)
    solver.set_timesteps(steps)
    return solver


def add_noise(latents: Tensor, noise: Tensor, uniform: Tensor, settings: FlowSettings) -> Noised:
    """Noise latents at level floor(n * u) of the n training levels (OpenUni's `diff_loss`, density "none").

    Args:
        latents: float32 [B, C, h, w].
        noise: float32 [B, C, h, w], standard normal.
        uniform: float32 [B] in [0, 1), the draws u.
        settings: noise levels.
    """
    index = (uniform.cpu() * settings.num_train_timesteps).long()
    sigmas, timesteps = (values[index].to(latents) for values in training_levels(settings))
    share = sigmas.view(-1, 1, 1, 1)
    return Noised(sigmas, timesteps, (1 - share) * latents + share * noise, noise - latents)


def denoise(
    velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int, settings: FlowSettings
) -> Iterator[Step]:
    """Solve the flow from noise to latents; the picture is `after` of the last step.

    Args:
        velocity: guided velocity float32 [B, C, h, w] of latents [B, C, h, w] and a time, scalar int64.
        noise: float32 [B, C, h, w], standard normal.
        steps: number of steps.
        settings: the solver.
    """
    solver, latents = sampling_scheduler(settings, steps), noise
    for timestep in solver.timesteps.to(noise.device):
        predicted = velocity(latents, timestep).float()
        after = solver.step(predicted, timestep, latents, return_dict=False)[0]
        yield Step(timestep, latents, predicted, after)
        latents = after


def seeded_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Standard normal float32 [B, C, h, w] from one generator per picture."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
