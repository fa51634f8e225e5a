import json

import msgspec
import pytest

from reca.data.scenes import CLASSES, vocabulary
from reca.evaluation.geneval import TASKS, read_prompts
from reca.evaluation.minigeneval.prompts import image_seed, item_names, prompts, texts


def test_grammar_and_records() -> None:
    words = set(vocabulary())
    for task in TASKS:
        for prompt in texts(task, "test"):
            assert set(prompt.prompt.split()) <= words
    pool = {p.prompt: p for task in TASKS for split in ("validation", "test") for p in texts(task, split)}
    assert {"a dog", "a dog and a car", "three dogs", "a red dog", "a dog left of a car"} <= set(pool)
    three = json.loads(msgspec.json.encode(pool["three dogs"]))
    assert three["include"] == [{"class": "dog", "count": 3}]
    assert three["exclude"] == [{"class": "dog", "count": 4}]
    above = json.loads(msgspec.json.encode(pool["a dog above a car"]))
    assert above["include"] == [{"class": "car", "count": 1}, {"class": "dog", "count": 1, "position": ["above", 0]}]


@pytest.mark.parametrize("task", TASKS)
def test_splits_share_no_text_but_single_objects(task: str) -> None:
    test, validation = ({p.prompt for p in texts(task, split)} for split in ("test", "validation"))
    if task == "single_object":
        assert test == validation == {f"a {name}" for name in CLASSES}
    else:
        assert test
        assert validation
        assert not test & validation


def test_subsets_are_prefixes_with_the_same_noise() -> None:
    few, many = prompts("test", 20), prompts("test", 50)
    noise = dict(zip(item_names(many), many, strict=True))
    assert all(noise[item] == prompt for item, prompt in zip(item_names(few), few, strict=True))
    seeds = {image_seed(1, split, item) for split in ("validation", "test") for item in noise}
    assert len(seeds) == 600
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_counting_is_balanced() -> None:
    numbers = [p.include[0].count for p in texts("counting", "test")]
    assert [numbers.count(n) for n in (2, 3, 4)] == [11, 11, 11]


def test_records_can_be_read_back() -> None:
    chosen = prompts("test", 5)
    assert list(read_prompts(msgspec.json.encode(p) for p in chosen).values()) == chosen
