"""The loop on a tiny Harmon with dropout, and on two slices of its batches."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_toy import ToyRow

from reca.config import TrainingConfig
from reca.data.order import SampleOrder
from reca.models.harmon.config import HarmonConfig, LlmSizes, MarSizes, VaeSizes
from reca.models.harmon.model import HarmonModel
from reca.models.harmon.text import build_word_tokenizer
from reca.objectives import task_weights, templates
from reca.training.checkpoints import WorkFolder, resume, write_checkpoint
from reca.training.feed import Slice, prepare
from reca.training.group import Group
from reca.training.loop import run_updates
from reca.training.state import TrainingState, UpdateRecord

CONFIG = TrainingConfig(
    updates=6, batch_size=4, learning_rate=1e-3, warmup_updates=2, checkpoint_every=3, lambda_t2i=0.5
)


def tiny_harmon(seed: int) -> HarmonModel:
    tokenizer = build_word_tokenizer([*templates(), "what is this?", "a red cat"])
    mar = MarSizes(
        img_size=8,
        vae_stride=4,
        encoder_embed_dim=24,
        encoder_depth=1,
        encoder_num_heads=4,
        decoder_embed_dim=24,
        decoder_depth=1,
        decoder_num_heads=4,
        vae_embed_dim=4,
        class_num=2,
        buffer_size=3,
        diffloss_d=1,
        diffloss_w=16,
    )
    sizes = HarmonConfig(
        image_size=16,
        max_text=40,
        llm=LlmSizes(len(tokenizer), 32, 64, 2, 4, 2, max_position_embeddings=128),
        mar=mar,
        vae=VaeSizes(32, (1, 1, 1), 1, resolution=16, attn_resolutions_encoder=(4,)),
    )
    torch.manual_seed(seed)
    return HarmonModel(sizes, tokenizer)


@dataclass
class NoiseFeed:
    """Twelve noise pictures, encoded once; worker `rank` of `world` gets every `world`-th row."""

    rows: list[ToyRow]
    rank: int = 0
    world: int = 1

    @classmethod
    def of(cls, model: HarmonModel) -> "NoiseFeed":
        pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 16, 16), dtype=np.uint8)
        latents = model.encode(torch.from_numpy(pixels))["latents"].numpy()
        return cls([ToyRow(f"noise-{i}", "what is this?\na red cat", {"latents": latents[i]}) for i in range(12)])

    def __call__(self, start: int, stop: int) -> Iterator[Mapping[str, Slice]]:
        for update in range(start, stop):
            positions = list(range(update * 4, update * 4 + 4))[self.rank :: self.world]
            order = SampleOrder(12, 0)
            rows = [self.rows[order.sample_at(p)[1]] for p in positions]
            captions = [replace(row, caption="a red cat") for row in rows]
            yield {"images": Slice(positions, captions), "instructions": Slice(positions, rows)}


def test_harmon_trains_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    feed = NoiseFeed.of(tiny_harmon(0))
    whole = TrainingState.fresh(tiny_harmon(0), CONFIG)
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

    again = TrainingState.fresh(tiny_harmon(1), CONFIG)
    again.model.load_state_dict({**again.model.state_dict(), **frozen}, strict=True)
    assert resume(again, WorkFolder(str(tmp_path), "second", "job"))
    assert again.update == 3
    run_updates(again, CONFIG, feed, Group(), lambda _: None, lambda _: None, lambda _: "")
    assert [r.outcome() for r in again.history] == [r.outcome() for r in whole.history]
    assert all(torch.equal(again.parameters[name], p) for name, p in whole.parameters.items())


def test_two_workers_share_the_mask_rate_and_add_up_to_one() -> None:
    model = tiny_harmon(0).train()
    feed = NoiseFeed.of(model)
    tasks = list(task_weights(CONFIG))
    for update in (0, 1):
        whole, first, second = (
            prepare(model, tasks, next(iter(each(update, update + 1))), update, CONFIG.seed)
            for each in (feed, replace(feed, rank=0, world=2), replace(feed, rank=1, world=2))
        )
        for task in tasks:
            terms = [model.loss(task, part[task].batch, part[task].draws) for part in (whole, first, second)]
            torch.testing.assert_close(terms[0].total, terms[1].total + terms[2].total)
            assert terms[0].count == terms[1].count + terms[2].count
        rates = [float(part["reconstruction"].draws["mask_rate"]) for part in (whole, first, second)]
        assert len(set(rates)) == 1
    assert rates[0] != pytest.approx(float(model.draw_shared("reconstruction", 0)["mask_rate"]))
