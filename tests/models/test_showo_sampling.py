import math
from itertools import pairwise

import torch
from torch import Tensor

from reca.models.showo.sampling import Step, StepDraws, seeded_draws, unmask


def run(logits: Tensor, seeds: list[int], steps: int, temperature: float = 1.0) -> list[Step]:
    batch, positions, codes = logits.shape
    draws = seeded_draws(seeds, steps, positions, codes)
    return list(unmask(lambda *_: logits, draws, (batch, positions), steps, temperature))


def test_known_codes_stay_and_the_schedule_is_kept() -> None:
    logits = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(1))
    steps = run(logits, [1, 2, 3], 6)
    hidden = [int(step.masked_before[0].sum()) for step in steps]
    # floor(16 cos(pi/2 r)); at r = 4/6 float32 gives 7.9999995, as in the published code.
    assert hidden == [16, 15, 13, 11, 7, 4]
    for before, after in pairwise(steps):
        known = ~after.masked_before
        assert torch.equal(before.codes[known], after.codes[known])


def test_a_picture_does_not_depend_on_its_batch() -> None:
    logits = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(2))
    together = run(logits, [10, 11, 12, 13], 5)[-1].codes
    alone = run(logits[2:3], [12], 5)[-1].codes
    assert torch.equal(together[2:3], alone)
    assert not torch.equal(run(logits, [20, 21, 22, 23], 5)[-1].codes, together)


def test_codes_follow_their_probabilities() -> None:
    logits = torch.tensor([0.0, math.log(3.0)]).expand(1, 4000, 2)
    drawn = run(logits, [0], 1)[0].drawn.float().mean()
    assert abs(float(drawn) - 0.75) < 0.03


def test_without_noise_the_surest_position_is_kept_first() -> None:
    logits = torch.zeros(1, 4, 2)
    logits[0, 2, 1] = 50.0
    steps = run(logits, [0], 4, temperature=0.0)
    assert not steps[1].masked_before[0, 2]
    assert int(steps[0].codes[0, 2]) == 1


def test_every_step_reveals_at_least_one_even_with_more_steps_than_positions() -> None:
    steps = run(torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(3)), [5], 9)
    hidden = [int(step.masked_before.sum()) for step in steps]
    assert len(steps) == 9
    assert all(later <= earlier for earlier, later in pairwise(hidden))
    assert hidden[-1] == 1


def test_noise_hides_a_known_code_again_only_where_it_outweighs_the_largest_float() -> None:
    # Two steps of three positions with one code: position 0 stays after the first step, its confidence noise being
    # 16.6 and the others' -2. In the second, noises of -2.0 (known) and 2.25 (hidden) are weighed against 88.7.
    first, second = torch.tensor([[1 - 2**-24, 1e-3, 1e-3]]), torch.tensor([[6e-4, 0.9, 0.9]])

    def hidden(temperature: float) -> list[list[bool]]:
        draws = [StepDraws(torch.ones(1, 3, 1), uniform) for uniform in (first, second, second)]
        steps = unmask(lambda *_: torch.zeros(1, 3, 1), draws, (1, 3), 3, temperature)
        return [step.masked_before[0].tolist() for step in steps]

    assert hidden(1.0)[2][0] is False
    assert hidden(200.0)[2][0] is True
    assert all(steps[1] == [False, True, True] for steps in (hidden(1.0), hidden(200.0)))
