"""The loop on a real family: a random Show-o of the smallest sizes."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from training_toy import ToyRow

from reca.config import TrainingConfig
from reca.data.order import SampleOrder
from reca.models.showo.config import ClipSizes, MagvitConfig, PhiSizes, ShowoConfig
from reca.models.showo.model import ShowoModel
from reca.models.words import build_word_tokenizer
from reca.objectives import templates
from reca.training.checkpoints import WorkFolder, resume, write_checkpoint
from reca.training.feed import Slice
from reca.training.group import Group
from reca.training.loop import run_updates
from reca.training.state import TrainingState, UpdateRecord

CONFIG = TrainingConfig(
    updates=6, batch_size=4, learning_rate=1e-3, warmup_updates=2, checkpoint_every=3, lambda_t2i=0.5
)


def tiny_showo(seed: int) -> ShowoModel:
    tokenizer = build_word_tokenizer([*templates(), "answer briefly", "what is this?", "a red cat"])
    sizes = ShowoConfig(
        text_size=len(tokenizer),
        end_of_text=tokenizer.eos_token_id,
        image_size=16,
        max_text=24,
        prefix_length=24,
        system_prompt="answer briefly",
        clip_normalize_understanding=False,
        projector_hidden=32,
        phi=PhiSizes(32, 64, layers=2, heads=4, kv_heads=4, max_positions=128),
        clip=ClipSizes(16, 32, 2, 2, image_size=16, patch_size=8, projection_dim=8),
        magvit=MagvitConfig(8, (1, 1, 2), (1, 1, 2), (1, 1, 1), (1, 1, 1), code_bits=5, norm_groups=4),
    )
    torch.manual_seed(seed)
    return ShowoModel(sizes, tokenizer)


@dataclass
class NoiseFeed:
    """Twelve noise pictures, encoded once."""

    rows: list[ToyRow]

    @classmethod
    def of(cls, model: ShowoModel) -> "NoiseFeed":
        pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 16, 16), dtype=np.uint8)
        with torch.no_grad():
            encoded = model.encode(torch.from_numpy(pixels))
        tensors = [{name: value[i].numpy() for name, value in encoded.items()} for i in range(12)]
        return cls([ToyRow(f"noise-{i}", "what is this?\na red cat", tensors[i]) for i in range(12)])

    def __call__(self, start: int, stop: int) -> Iterator[Mapping[str, Slice]]:
        for update in range(start, stop):
            positions = list(range(update * 4, update * 4 + 4))
            order = SampleOrder(12, 0)
            rows = [self.rows[order.sample_at(p)[1]] for p in positions]
            captions = [replace(row, caption="a red cat") for row in rows]
            yield {"images": Slice(positions, captions), "instructions": Slice(positions, rows)}


def test_show_o_trains_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    feed = NoiseFeed.of(tiny_showo(0))
    whole = TrainingState.fresh(tiny_showo(0), CONFIG)
    frozen = {name: p.clone() for name, p in whole.model.named_parameters() if not p.requires_grad}
    work = WorkFolder(str(tmp_path), "first", "job")
    work.take_lease()
    seen: list[UpdateRecord] = []

    def save(state: TrainingState) -> None:
        (tmp_path / "local").mkdir()
        write_checkpoint(tmp_path / "local", state, "job", 1, 1, final=False)
        work.upload(tmp_path / "local", "u00000003")

    run_updates(whole, CONFIG, feed, Group(), seen.append, save, lambda _: "")
    assert set(seen[0].losses) == {"reconstruction", "image_to_text", "text_to_image"}
    assert all(torch.equal(p, frozen[name]) for name, p in whole.model.named_parameters() if name in frozen)

    again = TrainingState.fresh(tiny_showo(1), CONFIG)
    again.model.load_state_dict({**again.model.state_dict(), **frozen}, strict=True)
    assert resume(again, WorkFolder(str(tmp_path), "second", "job"))
    assert again.update == 3
    run_updates(again, CONFIG, feed, Group(), lambda _: None, lambda _: None, lambda _: "")
    assert [r.outcome() for r in again.history] == [r.outcome() for r in whole.history]
    assert all(torch.equal(again.parameters[name], p) for name, p in whole.parameters.items())


def test_the_tiny_tokenizer_can_know_every_template() -> None:
    words = {word for prompt in templates() for word in re.findall("[a-z]+", prompt.lower())}
    tokenizer = build_word_tokenizer(templates())
    assert words <= set(tokenizer.get_vocab())
