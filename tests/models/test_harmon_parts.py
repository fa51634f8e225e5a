import math

import numpy as np
import pytest
import torch
from harmon_tiny import WORDS, tiny_config, tiny_model
from PIL import Image
from torch.nn import functional

from reca.config import SamplingConfig
from reca.models.autoencoder import published_name, published_state
from reca.models.harmon import diffusion, pixels
from reca.models.harmon.autoencoder import (
    build_autoencoder,
    decode_latents,
    image_moments,
)
from reca.models.harmon.collation import Collator, padded
from reca.models.harmon.config import VaeSizes
from reca.models.harmon.dropout import RowDropout
from reca.models.harmon.head import DiffusionHead
from reca.models.harmon.mar import Mar, attend, resized
from reca.models.harmon.masking import hidden_counts, mask_rate, split
from reca.models.harmon.network import positions
from reca.models.harmon.text import build_word_tokenizer, prompt
from reca.models.words import text_ids


def test_mask_rates_are_a_truncated_normal_distribution() -> None:
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rates = mask_rate(uniform, 0.7)
    assert float(rates.mean()) == pytest.approx(0.867, abs=0.003)
    assert float(mask_rate(torch.zeros(1, dtype=torch.float64), 0.7)) == 0.7
    assert float(mask_rate(torch.ones(1, dtype=torch.float64), 0.7)) == 1.0
    assert torch.equal(rates.sort().values, mask_rate(uniform.sort().values, 0.7))


def test_hidden_counts_follow_the_cosine_and_always_fall() -> None:
    assert hidden_counts(25, 4) == [25, 23, 17, 9, 0]
    assert hidden_counts(1024, 64)[:3] == [1024, 1023, 1022]
    assert hidden_counts(1024, 64)[-3:] == [50, 25, 0]
    assert hidden_counts(3, 5) == [3, 2, 1, 1, 1, 0]
    assert hidden_counts(16, 1) == [16, 0]


def test_split_by_order() -> None:
    hidden, visible = split(torch.tensor([[3, 0, 2, 1], [1, 2, 3, 0]]), 3)
    assert hidden.tolist() == [[0, 2, 3], [1, 2, 3]]
    assert visible.tolist() == [[1], [0]]


def test_schedules() -> None:
    full, short = diffusion.schedule(), diffusion.schedule(100)
    assert full.levels.tolist() == list(range(1000))
    assert short.levels[[0, 1, 2, 98, 99]].tolist() == [0, 10, 20, 989, 999]
    torch.testing.assert_close(short.alphas_cumprod, full.alphas_cumprod[short.levels], rtol=1e-10, atol=0)
    assert float(full.betas.max()) == pytest.approx(0.999)
    assert float(full.alphas_cumprod[499]) == pytest.approx(
        (math.cos((0.5 + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    )
    with pytest.raises(ValueError, match="num_sampling_steps"):
        diffusion.schedule(1)


def perfect(clean: torch.Tensor, x: torch.Tensor, timestep: torch.Tensor, fraction: float) -> torch.Tensor:
    tables = diffusion.schedule()
    noise = (x - tables.at("signal", timestep) * clean) / tables.at("deviation", timestep)
    return torch.cat([noise, torch.full_like(noise, fraction)], dim=-1)


def test_a_perfect_prediction_has_no_error_and_the_least_bound() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.rand(64, 4, generator=generator), torch.randn(64, 4, generator=generator)
    timestep = torch.arange(1, 65) * 15
    x = diffusion.noised(clean, noise, timestep)
    found = diffusion.token_loss(perfect(clean, x, timestep, -1.0), clean, noise, timestep)
    torch.testing.assert_close(found.error, torch.zeros(64), atol=1e-8, rtol=0)
    torch.testing.assert_close(found.bound, torch.zeros(64), atol=1e-5, rtol=0)
    wider = diffusion.token_loss(perfect(clean, x, timestep, 0.0), clean, noise, timestep)
    # The two ends of the variance grow together towards the last timesteps.
    assert (wider.bound > found.bound)[:10].all()
    assert (wider.bound >= 0).all()


def test_the_bound_trains_the_variance_only() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.rand(8, 4, generator=generator), torch.randn(8, 4, generator=generator)
    predicted = torch.randn(8, 8, generator=generator, requires_grad=True)
    diffusion.token_loss(predicted, clean, noise, torch.arange(8) * 100).bound.sum().backward()
    assert predicted.grad is not None
    assert not predicted.grad[:, :4].any()
    assert predicted.grad[:, 4:].all()


def test_log_likelihood_is_of_bins() -> None:
    edges = torch.arange(0, 256) / 127.5 - 1
    mean, log_variance = torch.tensor(0.1), torch.tensor(math.log(0.04))
    total = diffusion.log_likelihood(edges, mean, log_variance).exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-5)
    exact = torch.distributions.Normal(0.1, 0.2)
    value = edges[140]
    mass = exact.cdf(value + 1 / 255) - exact.cdf(value - 1 / 255)
    assert float(diffusion.log_likelihood(value, mean, log_variance).exp()) == pytest.approx(float(mass), rel=0.01)


def test_sampling_with_a_perfect_prediction_finds_the_clean_latents() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(6, 4, generator=generator) * 2 - 1
    noise = torch.randn(21, 6, 4, generator=generator)
    found = diffusion.sample(
        lambda x, timestep: perfect(clean, x, timestep, 0.0), noise[0], iter(noise[1:]), 20, temperature=1.0
    )
    torch.testing.assert_close(found, clean, atol=1e-4, rtol=0)


def test_position_tables_are_resized_bilinearly_behind_the_buffers() -> None:
    table = torch.randn(1, 2 + 9, 4, generator=torch.Generator().manual_seed(0))
    assert resized(table, 3, 3, 2) is table
    larger = resized(table, 4, 6, 2)
    assert torch.equal(larger[:, :2], table[:, :2])
    grid = table[:, 2:].view(1, 3, 3, 4).permute(0, 3, 1, 2)
    expected = functional.interpolate(grid, size=(4, 6), mode="bilinear", align_corners=False)
    torch.testing.assert_close(larger[:, 2:].view(4, 6, 4), expected[0].permute(1, 2, 0))


def test_encoder_and_decoder_put_tokens_where_they_belong() -> None:
    torch.manual_seed(0)
    mar = Mar(tiny_config().mar).eval()
    latents = torch.randn(2, 4, 4, 4)
    everything = torch.arange(16).expand(2, -1)
    whole = mar.encode(latents, None, None)
    assert whole.shape == (2, 19, 24)
    torch.testing.assert_close(mar.encode(latents, everything, None), whole)
    hidden = torch.tensor([[0, 1, 5], [2, 7, 9]])
    changed = latents.flatten(1, 2).clone()
    visible = torch.stack([everything[0][~torch.isin(everything[0], row)] for row in hidden])
    changed.scatter_(1, hidden[..., None].expand(-1, -1, 4), 9.0)
    torch.testing.assert_close(mar.encode(changed.view_as(latents), visible, None), mar.encode(latents, visible, None))
    encoded = mar.encode(latents, visible, None)
    conditions = mar.decode(encoded, visible, (4, 4), None)
    assert conditions.shape == (2, 16, 24)
    shuffled = torch.stack([torch.randperm(13), torch.randperm(13)])
    rows = torch.cat([encoded[:, :3], encoded[:, 3:].gather(1, shuffled[..., None].expand(-1, -1, 24))], dim=1)
    torch.testing.assert_close(
        mar.decode(rows, visible.gather(1, shuffled), (4, 4), None), conditions, atol=1e-5, rtol=1e-5
    )


def test_attention_on_a_cpu_equals_the_fused_kernel() -> None:
    query, key, value = torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(0))
    expected = functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attend(query, key, value, None), expected, atol=1e-6, rtol=1e-5)


def test_dropout_depends_on_seed_and_place_of_each_row() -> None:
    dropout = RowDropout([5, 6, 5], attention=0.25, projection=0.5)
    values = torch.ones(3, 100, 40)
    here, there = dropout.at("a"), dropout.at("b")
    found = here.drop(values, 0.5)
    assert torch.equal(found, here.drop(values, 0.5))
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found, there.drop(values, 0.5))
    assert torch.equal(RowDropout([6], 0.25, 0.5, "/a").drop(values[1:2], 0.5), found[1:2])
    assert set(found.unique().tolist()) == {0.0, 2.0}
    assert float(found.mean()) == pytest.approx(1.0, abs=0.02)


def test_fused_attention_with_dropout_is_a_function_of_the_rows_and_leaves_the_generator_alone() -> None:
    dropout = RowDropout([5, 6], attention=0.25, projection=0.5).at("a")
    query, key = torch.zeros(2, 2, 4, 200, 8).unbind(0)
    value = torch.ones(2, 4, 200, 8)
    torch.manual_seed(0)
    found = dropout.fused_attention(query, key, value)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(RowDropout([6], 0.25, 0.5, "/a").fused_attention(query[1:], key[1:], value[1:]), found[1:])
    assert not torch.equal(found[0], found[1])
    assert float(found.mean()) == pytest.approx(1.0, abs=0.02)
    assert float(found.std()) > 0.01


def test_a_new_head_predicts_nothing_and_its_blocks_do_nothing() -> None:
    torch.manual_seed(0)
    head = DiffusionHead(4, 24, 16, 2, recompute=False)
    x, timestep, condition = torch.randn(5, 4), torch.arange(5), torch.randn(5, 24)
    assert not head(x, timestep, condition).any()
    block = head.res_blocks[0]
    values = torch.randn(5, 16)
    assert torch.equal(block(values, values), values)


def test_pixels_there_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(pixels.from_bytes(every)[[0, 255]], torch.tensor([-1.0, 1.0]))
    assert torch.equal(
        pixels.to_bytes(torch.tensor([-2.0, -1.0, 0.0, 0.999, 2.0])),
        torch.tensor([0, 0, 128, 255, 255], dtype=torch.uint8),
    )
    assert (pixels.to_bytes(pixels.from_bytes(every)).int() - every.int()).abs().max() <= 1


def test_published_ways_to_make_a_square() -> None:
    image = Image.fromarray(np.full((20, 60, 3), (255, 0, 0), dtype=np.uint8))
    assert np.array(pixels.squashed(image, 24)).tolist() == [[[255, 0, 0]] * 24] * 24
    square = np.array(pixels.padded_square(image, 60))
    assert (square[:20] == 127).all()
    assert (square[20:40] == (255, 0, 0)).all()
    assert (square[40:] == 127).all()


def test_layouts_of_prompts() -> None:
    tokenizer = build_word_tokenizer(WORDS)
    words = tokenizer.get_vocab()

    def ids(text: str) -> list[int]:
        return [words[word] for word in text.replace("NN", "\n\n").replace("N", "\n").split(" ")]

    collator = Collator(tiny_config(), tokenizer)
    assert tokenizer.decode(collator.requests([" a red cat "], ["x"])[0]).startswith("<|im_start|>")
    front = [words["<|im_start|>"], words["user"]]
    close = [words["<|im_end|>"], words["\n"], words["<|im_start|>"], words["assistant"], words["\n"]]
    text = [words[word] for word in ("the", "cat")]
    one, two = words["\n"], words["\n\n"]
    assert collator.templates(["the cat"], ["x"]) == [[*front, two, *text, *close]]
    assert collator.reconstructions(["the cat"], ["x"]) == [[*front, one, *text, *close]]
    assert collator.questions(["the cat"], ["x"]) == [[*front, one, one, *text, *close]]
    generate = [words[word] for word in ("generate", "an", "image")]
    assert collator.requests([" the cat "], ["x"]) == [[*front, one, *generate, words[":"], *text, *close]]
    assert collator.plain() == [[*front, one, *generate, words["."], *close]]
    batch = collator.instructions(["is the cat?\nred"], ["x"])
    answer = [words["red"], words["<|im_end|>"]]
    assert batch["ids"][0].tolist() == [*front, one, one, words["is"], *text, words["?"], *close, *answer, one]
    assert batch["labels"][0].tolist() == [*[-100] * 13, *answer, -100]
    assert collator.answer([*answer, words["cat"]]) == "red"
    assert text_ids(tokenizer, [prompt("")], ["x"])[0][:3] == [*front, one]


def test_padding_takes_no_positions() -> None:
    ids, mask = padded([[5, 6, 7], [8]], 9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[True] * 3, [True, False, False]]
    shown = torch.cat([mask, torch.ones(2, 2, dtype=torch.bool)], dim=1)
    assert positions(shown).tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]]


def test_names_of_the_autoencoder() -> None:
    for ours, theirs in (
        ("encoder.down_blocks.1.resnets.0.conv_shortcut.weight", "encoder.down.1.block.0.nin_shortcut.weight"),
        ("encoder.down_blocks.0.downsamplers.0.conv.bias", "encoder.down.0.downsample.conv.bias"),
        ("decoder.up_blocks.0.upsamplers.0.conv.bias", "decoder.up.4.upsample.conv.bias"),
        ("decoder.mid_block.attentions.0.to_out.0.weight", "decoder.mid.attn_1.proj_out.weight"),
        ("encoder.down_blocks.4.attentions.1.group_norm.bias", "encoder.down.4.attn.1.norm.bias"),
        ("decoder.mid_block.resnets.1.norm2.weight", "decoder.mid.block_2.norm2.weight"),
        ("encoder.conv_norm_out.weight", "encoder.norm_out.weight"),
        ("post_quant_conv.bias", "post_quant_conv.bias"),
    ):
        assert published_name(ours, 5) == theirs


def test_the_encoder_of_the_autoencoder_starts_with_its_base_width() -> None:
    """As published, whatever the first level is; diffusers' starts with the first level's width."""
    narrow = published_state(build_autoencoder(VaeSizes(32, (1, 2), 1, 16, ()), 4))
    wide = published_state(build_autoencoder(VaeSizes(32, (2, 2), 1, 16, ()), 4))
    assert "encoder.down.0.block.0.nin_shortcut.weight" not in narrow
    assert wide["encoder.conv_in.weight"].shape == narrow["encoder.conv_in.weight"].shape == (32, 3, 3, 3)
    assert wide["encoder.down.0.block.0.nin_shortcut.weight"].shape == (64, 32, 1, 1)
    assert wide["encoder.down.0.block.0.conv1.weight"].shape == (64, 32, 3, 3)
    assert wide["decoder.conv_out.weight"].shape == (3, 64, 3, 3)
    autoencoder = build_autoencoder(VaeSizes(32, (2, 1), 1, 16, (8,)), 4)
    images = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    first, block = autoencoder.encoder.conv_in(images), autoencoder.encoder.down_blocks[0].resnets[0]
    inner = block.conv1(functional.silu(functional.group_norm(first, 32, block.norm1.weight, block.norm1.bias, 1e-6)))
    inner = block.conv2(functional.silu(functional.group_norm(inner, 32, block.norm2.weight, block.norm2.bias, 1e-6)))
    torch.testing.assert_close(block(first, None), block.conv_shortcut(first) + inner)
    assert image_moments(autoencoder, images).shape == (1, 8, 8, 12)


def test_a_token_may_hold_several_latents() -> None:
    one, four = tiny_model(), tiny_model(mar={"patch_size": 2, "img_size": 16})
    four.vae.load_state_dict(one.vae.state_dict())
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    apart, joined = one.encode(pixels)["latents"], four.encode(pixels)["latents"]
    assert (apart.shape, joined.shape) == ((2, 4, 4, 4), (2, 2, 2, 16))
    # Number 4c + 2p + q of a token is channel c of its latent in row p, column q.
    assert torch.equal(joined[1, 0, 1].view(4, 2, 2), apart[1, 0:2, 2:4].permute(2, 0, 1))
    latents = decode_latents(one.vae, apart, one.config), decode_latents(four.vae, joined, four.config)
    torch.testing.assert_close(*latents)
    assert four.network.mar.z_proj.weight.shape == (24, 16)
    assert four.network.mar.diffusion_pos_embed_learned.shape == (1, 4, 24)
    drawn = four.generate(["a red cat"], [1], SamplingConfig(guidance=1.0, steps=2))
    assert drawn.shape == (1, 3, 16, 16)
