"""Training throughput of BAGEL's packed batches against a dense batch filled up to its largest sample.

Same weights, samples, draws and layers; the dense batch is what one writes first: understanding tokens and latent
tokens filled up to the longest of the batch, attention over [B, L, L] with the same rule and the filling hidden. Both
give the same loss (checked before the clock starts). A useful token is one of a sample; filling does not count. Goal:
at least 1.5 times the useful tokens per second on mixed sizes. The sizes are BAGEL's own on half of its grid: sides of
16 to 32 latent tokens, drawn evenly (512 to 1024 pixels in the release), seen at a longest side of 8 patches.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import harness
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reca.models.bagel import flow
from reca.models.bagel.attention import attention
from reca.models.bagel.config import BagelConfig, ImageRule, LanguageSizes, VaeSizes, VisionSizes
from reca.models.bagel.model import BagelModel
from reca.models.bagel.packing import Layout, visible
from reca.models.bagel.tokenizer import build_word_tokenizer
from reca.models.base import Example, LossTerm
from reca.objectives import templates

BATCH = 8
CONFIG = BagelConfig(
    image_size=512,
    max_latent_size=32,
    text_dropout=0.0,
    condition=ImageRule(64, 64, 8),
    seen=ImageRule(64, 64, 8),
    drawn=ImageRule(512, 256, 16),
    language=LanguageSizes(512, 256, 1024, 4, 4, 2, max_position_embeddings=2048),
    vision=VisionSizes(32, 64, 1, 2, image_size=64, patch_size=8),
    vae=VaeSizes(8, (1, 1, 1, 1), blocks=1, norm_groups=8),
)


def build_model() -> BagelModel:
    """Fresh weights; the output projection is not zero, so that every gradient is a real one."""
    torch.manual_seed(0)
    model = BagelModel(CONFIG, build_word_tokenizer(templates())).train()
    torch.nn.init.normal_(model.network.llm2vae.weight, std=0.02)
    return model


def samples(model: BagelModel) -> list[Example]:
    """`BATCH` pictures of mixed sizes with one template prompt each, of random numbers in the shapes of `encode`.

    Latents are float32 [latent channels, 2 * rows, 2 * columns] for rows and columns of 16 to 32 latent tokens;
    features float32 [rows, columns, D] of the same proportions, the longer side 8.
    """
    rng, prompts, width = np.random.default_rng(0), templates(), model.config.vision.hidden_size
    found = list[Example]()
    for number in range(BATCH):
        rows, columns = rng.integers(16, 33, size=2)
        latent = (model.config.vae.latent_channels, 2 * rows, 2 * columns)
        seen = np.maximum(1, np.round(8 * np.array([rows, columns]) / max(rows, columns)).astype(int))
        arrays = {
            "latent_mean": rng.standard_normal(latent, dtype=np.float32),
            "latent_std": np.full(latent, 0.1, np.float32),
            "features": rng.standard_normal((*seen, width), dtype=np.float32),
        }
        found.append(Example(str(number), prompts[number % len(prompts)], arrays))
    return found


@dataclass(frozen=True)
class Dense:
    """A batch filled up to its largest sample: rows of understanding tokens first, then of latent tokens.

    Attributes:
        und: int64 [B, U], row of each token among the packed understanding tokens; filling repeats row 0.
        gen: int64 [B, G], the same of latent tokens.
        real: bool [B, U + G], no filling.
        mask: bool [B, 1, U + G, U + G].
    """

    und: Tensor
    gen: Tensor
    real: Tensor
    mask: Tensor

    @classmethod
    def of(cls, layout: Layout) -> "Dense":
        """Spread a packed batch out.

        Args:
            layout: of samples that hold understanding and latent tokens.
        """
        count = len(layout.text_index) + len(layout.seen_index)
        row_at = torch.argsort(layout.expert_order)
        starts = torch.tensor([0, *layout.lengths]).cumsum(0).tolist()
        rows = [row_at[start : start + size] for start, size in zip(starts, layout.lengths, strict=False)]
        und, gen = ([each[each < count] for each in rows], [each[each >= count] - count for each in rows])
        longest = [max(len(each) for each in part) for part in (und, gen)]
        mask = torch.eye(sum(longest), dtype=torch.bool).repeat(len(rows), 1, 1)
        real = torch.zeros(len(rows), sum(longest), dtype=torch.bool)
        for number, (start, size) in enumerate(zip(starts, layout.lengths, strict=False)):
            seen = visible(layout.block[start : start + size], layout.noised[start : start + size])
            own = torch.cat([und[number], gen[number] + count])
            places = layout.expert_order[own] - start
            columns = torch.cat([torch.arange(len(und[number])), longest[0] + torch.arange(len(gen[number]))])
            mask[number][columns[:, None], columns] = seen[places][:, places]
            real[number, columns] = True
        pairs = zip((und, gen), longest, strict=True)
        filled = [torch.stack([functional.pad(each, (0, size - len(each))) for each in part]) for part, size in pairs]
        return cls(filled[0], filled[1], real, mask[:, None])


def dense_loss(
    model: BagelModel, layout: Layout, features: Tensor, clean: Tensor, noise: Tensor, logits: Tensor
) -> LossTerm:
    """`BagelModel.loss` on a batch that is filled up.

    Args:
        model: its weights and settings.
        layout: packed batch with Nv understanding tokens and Nl latent tokens in I pictures.
        features: float32 [Nv, D].
        clean: float32 [Nl, C] latent tokens.
        noise: float32 [Nl, C].
        logits: float32 [I], of the times before their shift.

    Returns:
        Sum of the latent tokens' mean square errors of the velocity, and Nl.
    """
    dense, network = Dense.of(layout), model.network
    batch, width = dense.und.shape
    times = flow.shifted(logits.sigmoid(), model.config.timestep_shift)
    mixed = flow.noised(clean, noise, times[layout.latent_picture, None])
    und, gen = network.embed_packed(layout, features, mixed, times)
    positions = layout.positions[layout.expert_order]
    positions = torch.cat([positions[dense.und].flatten(), positions[len(und) + dense.gen].flatten()])

    def by_sample(packed: Tensor) -> Tensor:
        parts = packed[: batch * width], packed[batch * width :]
        return torch.cat([part.unflatten(0, (batch, -1)) for part in parts], dim=1).transpose(1, 2)

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen = attention(by_sample(query), by_sample(key), by_sample(value), dense.mask).transpose(1, 2)
        return torch.cat([seen[:, :width].flatten(0, 1), seen[:, width:].flatten(0, 1)])

    und, gen = und[dense.und].flatten(0, 1), gen[dense.gen].flatten(0, 1)
    _, states = network.language_model.model(und, gen, positions, attend, model.config.freeze_understanding)
    error = (network.llm2vae(states).float() - (noise - clean)[dense.gen].flatten(0, 1)).square().mean(dim=1)
    real = dense.real[:, width:].flatten()
    return LossTerm(error[real].sum(), real.sum().float())


def main() -> None:
    """Measure both layouts in turn, and write the table."""
    torch.set_num_threads(1)
    where = harness.machine(("torch", "transformers"))
    model = build_model()
    batch = model.collate("reconstruction", samples(model))
    draws = model.draw("reconstruction", batch, list(range(BATCH)))
    layout, inputs = model.packed_inputs("reconstruction", batch, draws)
    useful, filled = sum(layout.lengths), Dense.of(layout).real.numel()

    def packed() -> LossTerm:
        return model.loss("reconstruction", batch, draws)

    def dense() -> LossTerm:
        return dense_loss(model, layout, *inputs)

    torch.testing.assert_close(packed().total, dense().total)

    def rate(loss: Callable[[], LossTerm]) -> float:
        begin = time.perf_counter()
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            term = loss()
        term.mean.backward()
        return useful / (time.perf_counter() - begin)

    comparison = harness.interleave(
        {"packed": lambda: rate(packed), "dense": lambda: rate(dense)}, 5, "useful tokens/s"
    )
    harness.write_results(
        "bagel_packing",
        "BAGEL: packed batches against dense ones",
        comparison,
        [("packed", "dense", "at least 1.5")],
        where,
        f"{__doc__}\nForward and backward, one thread, bfloat16 autocast, width 256, 4 layers. {useful} useful tokens "
        f"in {BATCH} samples of {min(layout.lengths)} to {max(layout.lengths)}; the dense batch has {filled} places.",
    )


if __name__ == "__main__":
    main()
