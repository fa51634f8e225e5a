import numpy as np
import pytest

from reca.evaluation.statistics import StatisticsError, differences, estimates


def test_interval_has_the_binomial_width() -> None:
    rng = np.random.default_rng(0)
    scores = {task: rng.permutation([0.0, 1.0] * 100).tolist() for task in "abcdef"}
    table = estimates(scores)
    assert table["a"].value == 0.5
    # 1.96 * sqrt(0.25 / 200) = 0.0693, and 1 / sqrt(6) of that for the mean of six tasks.
    assert (table["a"].high - table["a"].low) / 2 == pytest.approx(0.0693, rel=0.1)
    assert (table["overall"].high - table["overall"].low) / 2 == pytest.approx(0.0283, rel=0.1)
    assert table["overall"].prompts == 1200


def test_overall_is_the_plain_mean_of_tasks() -> None:
    table = estimates({"a": [1.0] * 10, "b": [0.0] * 90})
    assert table["overall"].value == 0.5


def test_pairing_removes_what_both_share() -> None:
    before = {"a": [0.0, 1.0] * 50}
    after = {"a": [0.0, 1.0] * 45 + [1.0, 1.0] * 5}
    table = differences(before, after)
    assert table["a"].value == pytest.approx(0.05)
    assert table["a"].above_zero
    assert table["a"].high < 0.11
    assert differences(before, after) == table


def test_bad_scores_are_named() -> None:
    with pytest.raises(StatisticsError, match="not the same prompts"):
        differences({"a": [1.0]}, {"a": [1.0, 0.0]})
    with pytest.raises(StatisticsError, match="task a is empty"):
        estimates({"a": []})
    with pytest.raises(StatisticsError, match="task a"):
        estimates({"a": [float("nan")]})
    with pytest.raises(StatisticsError, match="no tasks"):
        estimates({})
