"""The joint objective of RecA and its template prompts (arXiv 2509.07295, section 3).

Loss = lambda_recon * reconstruction + lambda_i2t * image-to-text + lambda_t2i * text-to-image, each term the mean
over the counted positions of the *global* batch, so that 1 and 2 workers optimise the same function.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from reca.config import TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor

    from reca.models.base import LossTerm, Task


@cache
def templates() -> tuple[str, ...]:
    """The reconstruction prompts of `templates.txt`: 72 ways to ask for a description, 4 to 13 words each.

    Diverse prompts help Show-o much and Harmon little, say the authors; theirs are 327 distinct ones, these are our
    own.
    """
    return tuple(files("reca").joinpath("templates.txt").read_text(encoding="utf-8").splitlines())


def template_for(seed: int) -> str:
    """The prompt of one sample, drawn uniformly by its 63-bit seed."""
    prompts = templates()
    return prompts[seed % len(prompts)]


def task_weights(config: TrainingConfig) -> "dict[Task, float]":
    """Weight of every task that runs, in a fixed order; tasks of weight 0 are left out and cost nothing.

    The control arm `sft` replaces reconstruction by text-to-image (weight 1) on captions of the same pictures.

    Raises:
        ValueError: when a weight is negative or no task is left.
    """
    weights: dict[Task, float] = {
        "reconstruction": config.lambda_recon if config.arm == "reca" else 0.0,
        "image_to_text": config.lambda_i2t,
        "text_to_image": config.lambda_t2i if config.arm == "reca" else 1.0,
    }
    for task, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"training: the weight of {task} is {weight}; set its lambda to 0 or more")
    weights = {task: weight for task, weight in weights.items() if weight > 0}
    if not weights:
        raise ValueError("training: every lambda is 0, so nothing would be trained; set training.lambda_recon above 0")
    return weights


def joint_loss(
    terms: "Mapping[Task, LossTerm]", weights: "Mapping[Task, float]", global_counts: "Mapping[Task, Tensor]"
) -> "Tensor":
    """This worker's share of the joint loss, a float32 scalar; the shares of all workers add up to the loss.

    Args:
        terms: loss sums of this worker's slice, by task; at least one.
        weights: lambda of each task, from `task_weights`.
        global_counts: counted positions of the whole global batch, by task, a float scalar each; 0 counts as 1.
    """
    shares = [weights[task] * term.total / global_counts[task].clamp(min=1) for task, term in terms.items()]
    return sum(shares[1:], start=shares[0])
