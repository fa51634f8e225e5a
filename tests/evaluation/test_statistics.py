import numpy as np
import pytest

from reca.evaluation.statistics import StatisticsError, clustered, clustered_differences, differences, estimates


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
    assert 0 < table["a"].low < table["a"].high < 0.11
    assert differences(before, after) == table


def test_bad_scores_are_named() -> None:
    with pytest.raises(StatisticsError, match="not the same prompts"):
        differences({"a": [1.0]}, {"a": [1.0, 0.0]})
    with pytest.raises(StatisticsError, match="group a is empty"):
        estimates({"a": []})
    with pytest.raises(StatisticsError, match="group a"):
        estimates({"a": [float("nan")]})
    with pytest.raises(StatisticsError, match="no groups"):
        estimates({})


def test_prompts_with_several_pictures_are_drawn_whole() -> None:
    # Pictures of one prompt agree, so four of them tell no more than one: 1.96 * sqrt(0.25 / 200) = 0.0693.
    samples = {"a": {str(i): [float(i % 2)] * 4 for i in range(200)}}
    table = clustered(samples)
    assert table["a"].value == 0.5
    assert table["a"].prompts == 200
    assert (table["a"].high - table["a"].low) / 2 == pytest.approx(0.0693, rel=0.1)
    assert clustered({"a": {k: v[:1] for k, v in samples["a"].items()}}) == table


def test_pictures_weigh_alike_in_a_group_and_groups_as_told() -> None:
    samples = {"a": {"x": [1.0, 1.0, 1.0], "y": [0.0]}, "b": {"z": [0.5]}}
    table = clustered(samples, weights={"a": 0.4, "b": 0.6})
    assert table["a"].value == 0.75
    assert table["overall"].value == pytest.approx(0.4 * 0.75 + 0.6 * 0.5)
    assert clustered(samples)["overall"].value == pytest.approx(0.625)


def test_clustered_pairs_share_their_prompts() -> None:
    rng = np.random.default_rng(0)
    noise = {str(i): rng.random(3).tolist() for i in range(50)}
    after = {"a": {key: [value + 0.01 for value in values] for key, values in noise.items()}}
    shuffled = {"a": dict(reversed(after["a"].items()))}
    table = clustered_differences({"a": noise}, after)
    assert table["a"].value == pytest.approx(0.01)
    assert table["a"].high - table["a"].low < 1e-12
    assert clustered_differences({"a": noise}, shuffled) == table
    with pytest.raises(StatisticsError, match="group a differs in 1, such as 9"):
        clustered_differences({"a": noise}, {"a": {k: v for k, v in after["a"].items() if k != "9"}})
    with pytest.raises(StatisticsError, match="group b differs"):
        clustered_differences({"a": noise}, {**after, "b": {"q": [0.0]}})
