import enum
import math
from dataclasses import dataclass, field, make_dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dsl.canonical import encode, flatten, key_of, readable
from pipelines.dsl.errors import CanonicalError


class Color(enum.Enum):
    RED = 1
    GREEN = 2


class Level(enum.IntEnum):
    RED = 1


@dataclass(frozen=True)
class Optimizer:
    name: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Training:
    steps: int = 10
    optimizer: Any = field(default_factory=Optimizer)


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
leaves = leaves | st.text(st.characters(exclude_categories=["Cs"])) | st.binary()
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def same(one: object, other: object) -> bool:
    """Equal with types told apart, which `==` does not do for 0, 0.0 and False."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)  # type: ignore[arg-type]
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))  # type: ignore[arg-type]
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(v, other[k]) for k, v in one.items())  # type: ignore[union-attr]
    return one == other


@given(values, values)
def test_equal_encodings_mean_equal_values(one: object, other: object) -> None:
    assert (encode(one, "v") == encode(other, "v")) == same(one, other)


@given(st.dictionaries(st.text(max_size=5), st.integers(), min_size=2, max_size=6))
def test_order_of_a_mapping_does_not_count(value: dict[str, int]) -> None:
    assert key_of(value, "v") == key_of(dict(reversed(value.items())), "v")


@pytest.mark.parametrize(
    "group",
    [
        (0, 0.0, False, None, "", b"", (), [], {}),
        (1, 1.0, True, "1", b"1", (1,), [1], Level.RED, Color.RED),
        (0.0, -0.0),
        ("ab", b"ab", ("a", "b"), ["a", "b"], ("ab",), [["a"], "b"]),
        (Color.RED, Color.GREEN, Level.RED),
        (("a", ("b",)), (("a",), "b"), ("a", "b", ())),
    ],
)
def test_look_alikes_differ(group: tuple[object, ...]) -> None:
    assert len({key_of(value, "v") for value in group}) == len(group)


def test_key_is_160_bits_and_stable() -> None:
    key = key_of({"a": [1, 2.5, "x", None], "b": (True, b"\x00")}, "v")
    assert len(key) == 40
    assert key == "dc1a6c500a70d1b119230236f074c961d580d567", (
        "the encoding changed: every store in use would be made again"
    )


def test_dataclasses_count_by_class_and_fields() -> None:
    assert key_of(Training(), "v") == key_of(Training(steps=10, optimizer=Optimizer()), "v")
    assert key_of(Training(), "v") != key_of(Training(steps=11), "v")
    twin = make_dataclass("Optimizer2", [("name", str), ("betas", tuple)], frozen=True)
    assert key_of(Optimizer(), "v") != key_of(twin("adamw", (0.9, 0.999)), "v")


@pytest.mark.parametrize(
    "bad",
    [
        object(),
        {1, 2},
        lambda: 0,
        np.float64(1.0),
        np.arange(3),
        complex(1, 2),
        float("nan"),
        float("inf"),
        "\ud800",
        int,
    ],
)
def test_what_has_no_canonical_form_raises_and_names_the_field(bad: object) -> None:
    with pytest.raises(CanonicalError, match=r"recipe\.training\.optimizer"):
        encode({"training": Training(optimizer=bad)}, "recipe")


def test_positions_and_keys_are_named() -> None:
    with pytest.raises(CanonicalError, match=r"recipe\.sizes\[1\]"):
        encode({"sizes": (1, object())}, "recipe")
    with pytest.raises(CanonicalError, match="keys must be str"):
        encode({"sizes": {1: 2}}, "recipe")


def test_a_dataclass_that_can_change_is_refused() -> None:
    changing = make_dataclass("Changing", [("a", int)])
    with pytest.raises(CanonicalError, match="frozen=True"):
        encode(changing(1), "recipe")


def test_readable_and_flat() -> None:
    assert flatten(readable({"training": Training(), "color": Color.RED, "raw": b"\xff"})) == {
        "training.steps": 10,
        "training.optimizer.name": "adamw",
        "training.optimizer.betas": [0.9, 0.999],
        "color": "RED",
        "raw": "ff",
    }
