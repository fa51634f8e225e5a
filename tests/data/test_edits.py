"""Edits of scenes: pure functions of stream, seed and index, whose instruction says exactly what changes."""

import pytest

from reca.data.edits import KINDS, WORDS, Edit, edit_at
from reca.data.scenes import count_of, vocabulary

EDITS = [edit_at("held-out-edits", 0, index) for index in range(300)]


def test_an_edit_is_a_function_of_stream_seed_and_index() -> None:
    assert edit_at("held-out-edits", 0, 7) == EDITS[7]
    others = [edit_at("edits", 0, 7), edit_at("held-out-edits", 1, 7), edit_at("held-out-edits", 0, 8)]
    assert all(other != EDITS[7] for other in others)
    assert {edit.kind for edit in EDITS} == set(KINDS)


def test_instructions_use_the_world_s_words() -> None:
    known = {word for text in vocabulary() for word in text.split()} | set(WORDS)
    assert {word for edit in EDITS for word in edit.instruction.split()} <= known


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.instruction)
def test_only_the_named_object_changes(edit: Edit) -> None:
    assert count_of(edit.source, edit.changed.name) == 1
    kept = [item for item in edit.source.objects if item is not edit.changed]
    assert list(edit.target.objects) == [
        after for item in edit.source.objects if (after := edit.wanted if item is edit.changed else item) is not None
    ]
    assert len(edit.target.objects) >= 1
    if edit.wanted is None:
        assert edit.instruction == f"remove the {edit.changed.name}"
        return
    assert (edit.wanted.x, edit.wanted.y) == (edit.changed.x, edit.changed.y)
    if edit.kind == "color":
        assert edit.instruction == f"make the {edit.changed.name} {edit.wanted.color}"
        assert (edit.wanted.name, edit.wanted.color != edit.changed.color) == (edit.changed.name, True)
    else:
        assert edit.instruction == f"replace the {edit.changed.name} by a {edit.wanted.name}"
        assert edit.wanted.color == edit.changed.color
        assert edit.wanted.name not in {item.name for item in (edit.changed, *kept)}
