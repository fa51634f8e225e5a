from pathlib import Path

import pytest

from reca.models.errors import CheckpointError
from reca.models.words import (
    answer_text,
    build_word_tokenizer,
    load_tokenizer,
    numbered,
    questions_and_answers,
    text_ids,
)


def test_words_are_lower_cased_and_punctuation_stands_alone(tmp_path: Path) -> None:
    tokenizer = build_word_tokenizer(["a red cat.", "how many cats?"])
    words = tokenizer.convert_ids_to_tokens(text_ids(tokenizer, ["USER: \n A Red cat? ASSISTANT:"], ["x"])[0])
    assert words == ["user", ":", "a", "red", "cat", "?", "assistant", ":"]
    assert len(tokenizer) == 3 + 8 + 2  # of the conversation form, of the texts, marks
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == len(tokenizer) - 1
    tokenizer.save_pretrained(str(tmp_path))
    assert text_ids(load_tokenizer(tmp_path), ["many red"], ["x"]) == text_ids(tokenizer, ["many red"], ["x"])


def test_unknown_words_are_named() -> None:
    with pytest.raises(ValueError, match=r"second: .*'blue'"):
        text_ids(build_word_tokenizer(["a cat"]), ["a cat", "a blue cat"], ["first", "second"])


def test_answers_end_at_the_mark_and_rows_need_a_question() -> None:
    tokenizer = build_word_tokenizer(["a red cat"])
    (ids,) = text_ids(tokenizer, ["a cat"], ["x"])
    end = tokenizer.eos_token_id
    assert answer_text(tokenizer, [*ids, end, ids[0]], end) == answer_text(tokenizer, ids, end) == "a cat"
    assert questions_and_answers(["is it?\nred\ncat"], ["x"]) == (["is it?"], ["red\ncat"])
    with pytest.raises(ValueError, match=r"second: .*question, newline, answer; found only 'red'"):
        questions_and_answers(["a\nb", "red"], ["first", "second"])
    assert numbered("prompt", ["a", "b"]) == ["prompt 0", "prompt 1"]


def test_no_texts_and_empty_texts() -> None:
    tokenizer = build_word_tokenizer(["a"])
    assert text_ids(tokenizer, [], []) == []
    assert text_ids(tokenizer, [""], ["x"]) == [[]]


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
