"""Text to ids: any fast tokenizer stored with the checkpoint; a word-level one for tiny models."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from reca.models.errors import CheckpointError

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<unk>"


def build_word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Tokenizer of whole lower-case words, with every run of punctuation a word of its own.

    The words `user`, `assistant` and `:` of the conversation form are always known. The last two ids are `<unk>`,
    which no text may need (`text_ids` raises), and `<|endoftext|>`.

    Args:
        words: words or whole texts; each is split the way later texts are.
    """
    tokenizer = word_level(words, pre_tokenizers.Whitespace(), (":", "user", "assistant"), (UNKNOWN, END_OF_TEXT))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT
    )


def word_level(
    words: Iterable[str], splitter: pre_tokenizers.PreTokenizer, first: Sequence[str], last: Sequence[str] = ()
) -> Tokenizer:
    """Tokenizer of whole lower-case words, numbered from 0: `first`, then the words as they come, then `last`.

    Args:
        words: words or whole texts; each is split the way later texts are.
        splitter: splits a text into words.
        first: words with the first ids.
        last: words with the last ids; `first` or `last` holds `UNKNOWN`.
    """
    known = dict.fromkeys(first)
    for word in words:
        known.update(dict.fromkeys(piece for piece, _ in splitter.pre_tokenize_str(word.lower())))
    vocabulary = {word: number for number, word in enumerate([*known, *last])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = splitter
    return tokenizer


def text_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
    """Ids of each text, without any mark at its ends; special tokens that are written out in it are found.

    Args:
        tokenizer: the checkpoint's tokenizer.
        texts: texts of one batch.
        names: what to call each text in an error message.

    Raises:
        ValueError: a text has a word that the tokenizer does not know.
    """
    if not texts:
        return []
    rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown == tokenizer.eos_token_id:
        return rows
    for row, text, name in zip(rows, texts, names, strict=True):
        if unknown in row:
            spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            start, end = spans[row.index(unknown)]
            raise ValueError(
                f"{name}: the tokenizer does not know the word {text[start:end]!r} in {text!r}; use words it knows"
            )
    return rows


def answer_text(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], end: int) -> str:
    """Text of generated ids up to the id `end`, or of all where there is none; special tokens are left out."""
    words = ids[: ids.index(end)] if end in ids else ids
    return str(tokenizer.decode(list(words), skip_special_tokens=True)).strip()


def numbered(kind: str, texts: Sequence[str]) -> list[str]:
    """What error messages call texts without a key of their own: the kind, and their number from 0."""
    return [f"{kind} {number}" for number in range(len(texts))]


def questions_and_answers(texts: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Both parts of image-to-text rows, which are question, newline, answer (in which there may be more newlines).

    Args:
        texts: the rows.
        names: what to call each in an error message.

    Raises:
        ValueError: a row has no newline.
    """
    for text, name in zip(texts, names, strict=True):
        if "\n" not in text:
            raise ValueError(f"{name}: an image-to-text row is question, newline, answer; found only {text!r}")
    pairs = [text.split("\n", 1) for text in texts]
    return [question for question, _ in pairs], [answer for _, answer in pairs]


def load_tokenizer(folder: Path, whose: str = "the checkpoint's") -> PreTrainedTokenizerFast:
    """Tokenizer of a checkpoint folder; nothing is looked up on the network.

    Args:
        folder: the folder.
        whose: tokenizer it should be, for the message.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder / 'tokenizer.json'}: file is missing; copy {whose} tokenizer files there")
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the tokenizers library raises a bare Exception on files it cannot parse
        raise CheckpointError(f"{folder / 'tokenizer.json'}: cannot be read as a tokenizer: {error}") from error
