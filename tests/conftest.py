"""The smallest run of the main job, which several rooms' tests make."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder with a short path: Ray's socket names must stay below 107 bytes, and pytest's folders are long."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def save_smallest(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[str]], Path]:
    """Saves a random Show-o for 16 px pictures that knows more words than the built-in world's."""

    def save(more_words: Sequence[str]) -> Path:
        return _save_smallest(tmp_path_factory.mktemp("base"), more_words)

    return save


@pytest.fixture(scope="session")
def smallest_base(save_smallest: Callable[[Sequence[str]], Path]) -> Path:
    """A random Show-o for 16 px pictures, saved as published ones are: it can do nothing and trains in no time."""
    return save_smallest(())


def _save_smallest(folder: Path, more_words: Sequence[str]) -> Path:
    import torch

    from reca.data.scenes import vocabulary
    from reca.models.showo.config import ClipSizes, MagvitConfig, PhiSizes, ShowoConfig
    from reca.models.showo.model import ShowoModel
    from reca.models.words import build_word_tokenizer
    from reca.objectives import templates

    words = build_word_tokenizer([*vocabulary(), *" ".join(templates()).split(), *more_words])
    assert isinstance(words.eos_token_id, int)
    config = ShowoConfig(
        text_size=len(words),
        end_of_text=words.eos_token_id,
        image_size=16,
        max_text=12,
        prefix_length=26,
        system_prompt="",
        clip_normalize_understanding=False,
        projector_hidden=32,
        phi=PhiSizes(32, 64, layers=2, heads=4, kv_heads=4, max_positions=128),
        clip=ClipSizes(16, 32, 2, 2, image_size=16, patch_size=8, projection_dim=8),
        magvit=MagvitConfig(8, (1, 1, 2), (1, 1, 2), (1, 1, 1), (1, 1, 1), code_bits=5, norm_groups=4),
    )
    torch.manual_seed(0)
    ShowoModel(config, words).save(folder)
    return folder


@pytest.fixture(scope="session")
def smallest_run(smallest_base: Path) -> list[str]:
    """`--set` words that make of the recipe `smoke` the least that still goes through every stage."""
    changes = {
        "model.checkpoint": smallest_base,
        "data.images": 16,
        "data.instructions": 16,
        "training.updates": 1,
        "training.batch_size": 4,
        "training.warmup_updates": 0,
        "evaluation.prompts_per_task": 1,
        "evaluation.understanding_questions": 2,
        "evaluation.reconstructions": 1,
        "evaluation.bootstrap": 10,
        "evaluation.scorer": ROOT / "checkpoints/minigeneval_scorer",
        **{f"gates.{name}": 0 for name in ("single_object", "colors", "understanding", "class_recall")},
    }
    return [f"--set={name}={value}" for name, value in changes.items()]
