import itertools

import numpy as np
import pytest

from reca.data import scenes
from reca.data.scenes import CELL, CLASSES, COLORS, COLUMNS, NUMBERS, ROWS, Scene, SceneObject, count_of
from reca.data.sets import captioned_row, generator, instruction_row, scene_at, unlabeled_row
from reca.data.twemoji import CLASSES as CLASS_FILES
from reca.data.twemoji import COLORS as COLOR_VALUES
from reca.data.twemoji import emoji_file, plural, sprite
from reca.evaluation.geneval import Detection, relations

PLACES = {f"{row} {column}" for row in ROWS for column in COLUMNS}
SCENES = [scene_at("pictures", 3, index) for index in range(300)]


def test_every_class_has_its_own_picture_by_its_real_name() -> None:
    assert len({emoji_file(name) for name in CLASS_FILES.values()}) == len(CLASSES) == 16


def test_unknown_emoji_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no emoji is named 'dog fase'"):
        emoji_file("dog fase")


@pytest.mark.parametrize("color", COLORS)
def test_a_tinted_sprite_is_nearest_to_its_own_colour(color: str) -> None:
    targets = np.array(list(COLOR_VALUES.values()), dtype=np.float32)
    for name in CLASSES:
        picture = sprite(name, color, 28)
        mean = picture[picture[..., 3] > 0.9][:, :3].mean(axis=0)
        assert COLORS[int(np.abs(targets - mean).sum(axis=1).argmin())] == color


def test_cells_never_overlap_and_counts_cover_one_to_four() -> None:
    for scene in SCENES:
        for i, one in enumerate(scene.objects):
            for other in scene.objects[i + 1 :]:
                assert abs(one.x - other.x) >= CELL or abs(one.y - other.y) >= CELL
    assert {len(scene.objects) for scene in SCENES} == {1, 2, 3, 4}


def test_a_scene_is_a_function_of_set_seed_and_index() -> None:
    assert scene_at("pictures", 3, 7) == SCENES[7]
    assert scene_at("pictures", 4, 7) != SCENES[7]
    assert scene_at("instructions", 3, 7) != SCENES[7]


def test_render_draws_where_the_scene_says() -> None:
    scene = Scene((SceneObject("car", "red", 0, 32),))
    ground = np.array(scenes.BACKGROUND)
    drawn = (scenes.render(scene) != ground).any(axis=-1)
    assert drawn[32:, :32].any()
    assert not drawn[:32].any()
    assert not drawn[32:, 32:].any()


def test_captions_are_sparse_and_never_wrong() -> None:
    lengths = []
    for index, scene in enumerate(SCENES):
        words = scenes.sparse_caption(scene, generator("test", 0, index)).split()
        names = [word for word in words if word in CLASSES]
        assert all(count_of(scene, name) for name in names)
        for color, name in itertools.pairwise(words):
            if color in COLORS:
                assert any(item.color == color and item.name == name for item in scene.objects)
            if color in NUMBERS:
                singular = next(known for known in CLASSES if plural(known) == name)
                assert count_of(scene, singular) == NUMBERS.index(color)
        if " ".join(words[-2:]) in PLACES:
            assert any(item.name == names[0] and item.place == " ".join(words[-2:]) for item in scene.objects)
        lengths.append(len(words))
    assert 2 <= np.mean(lengths) < 3.5


def test_relation_words_hold_by_genevals_rule() -> None:
    for scene in SCENES:
        for one in scene.objects:
            for other in scene.objects:
                if one is other or (word := scenes.relation(one, other)) is None:
                    continue
                seen = [Detection(o.name, (o.x, o.y, o.x + 28.0, o.y + 28.0), 1.0) for o in (one, other)]
                assert relations(*seen) == (word,)


def test_answers_are_true() -> None:
    for index, scene in enumerate(SCENES):
        for kind in scenes.QUESTION_KINDS:
            question, answer = scenes.ask(scene, kind, generator(kind, 0, index))
            words = question.split()
            if words[0] == "is":
                assert (answer == "yes") == bool(count_of(scene, words[3]))
            elif words[:2] == ["what", "color"]:
                assert [item.color for item in scene.objects if item.name == words[4]] == [answer]
            elif words[:2] == ["how", "many"]:
                singular = next(name for name in CLASSES if plural(name) == words[2])
                assert answer == NUMBERS[count_of(scene, singular)]
            elif len(words) == 5:
                assert [item.place for item in scene.objects if item.name == words[3]] == [answer]


def test_the_vocabulary_holds_every_word() -> None:
    known = set(scenes.vocabulary())
    for index, scene in enumerate(SCENES):
        rng = generator("words", 0, index)
        text = " ".join((scenes.sparse_caption(scene, rng), *scenes.question(scene, rng), scenes.dense_caption(scene)))
        assert set(text.split()) <= known


def test_rows_share_pictures_and_unlabeled_rows_say_nothing() -> None:
    plain, captioned, asked = unlabeled_row(5, 1), captioned_row(5, 1), instruction_row(5, 1)
    assert plain.image == captioned.image != asked.image
    assert plain.caption is None
    assert captioned.caption
    assert asked.caption is not None
    assert len(asked.caption.split("\n")) == 2
