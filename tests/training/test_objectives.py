import re
from collections import Counter
from dataclasses import replace

import pytest
import torch

from reca.config import TrainingConfig
from reca.data.order import sample_seed
from reca.models.base import LossTerm
from reca.objectives import joint_loss, task_weights, template_for, templates


def test_templates_are_many_short_and_of_a_small_vocabulary() -> None:
    prompts = templates()
    assert len(prompts) == len(set(prompts)) >= 60
    assert all(re.fullmatch(r"[A-Z][A-Za-z ,]+\.", prompt) for prompt in prompts)
    assert all(3 <= len(prompt.split()) <= 14 for prompt in prompts)
    assert len({word for prompt in prompts for word in re.findall("[a-z]+", prompt.lower())}) <= 180


def test_templates_are_drawn_uniformly_by_the_seed_of_the_sample() -> None:
    counts = Counter(template_for(sample_seed(0, 0, position, "template")) for position in range(7200))
    assert len(counts) == len(templates())
    assert min(counts.values()) >= 60
    assert max(counts.values()) <= 145


def test_arms_choose_their_tasks_and_zero_weights_do_not_run() -> None:
    config = TrainingConfig()
    assert task_weights(config) == {"reconstruction": 1.0, "image_to_text": 1.0}
    assert task_weights(replace(config, lambda_i2t=0.0, lambda_t2i=0.5)) == {
        "reconstruction": 1.0,
        "text_to_image": 0.5,
    }
    assert task_weights(replace(config, arm="sft", lambda_i2t=0.25)) == {"image_to_text": 0.25, "text_to_image": 1.0}


@pytest.mark.parametrize("change", [{"lambda_recon": 0.0, "lambda_i2t": 0.0}, {"lambda_i2t": -1.0}])
def test_impossible_weights_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="lambda"):
        task_weights(replace(TrainingConfig(), **change))


def test_shares_of_two_workers_add_up_to_the_joint_loss_of_one() -> None:
    weights = {"reconstruction": 1.0, "image_to_text": 0.5}
    first = {
        "reconstruction": LossTerm(torch.tensor(6.0), torch.tensor(2.0)),
        "image_to_text": LossTerm(torch.tensor(1.0), torch.tensor(1.0)),
    }
    second = {
        "reconstruction": LossTerm(torch.tensor(2.0), torch.tensor(6.0)),
        "image_to_text": LossTerm(torch.tensor(8.0), torch.tensor(2.0)),
    }
    counts = {"reconstruction": torch.tensor(8.0), "image_to_text": torch.tensor(3.0)}
    shares = joint_loss(first, weights, counts) + joint_loss(second, weights, counts)
    assert shares.item() == pytest.approx(8 / 8 + 0.5 * 9 / 3)
