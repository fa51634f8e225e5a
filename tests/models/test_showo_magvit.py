import pytest
import torch

from reca.models.showo.magvit import Magvit, MagvitConfig, SignQuantizer, quantizer_losses

TINY = MagvitConfig(8, (1, 2, 2), (1, 1, 2), (1, 2, 1), (2, 1, 1), code_bits=5, norm_groups=4)


def test_codes_are_the_bits_most_significant_first() -> None:
    z = torch.tensor([0.3, -0.1, 2.0]).view(1, 3, 1, 1)
    quantizer = SignQuantizer(3)
    assert quantizer.codes(z).tolist() == [[0b101]]
    assert quantizer.latents(torch.tensor([[0b101]])).flatten().tolist() == [1, -1, 1]


def test_every_code_survives_a_round_trip() -> None:
    quantizer = SignQuantizer(4)
    codes = torch.arange(16)[None]
    assert torch.equal(quantizer.codes(quantizer.latents(codes)), codes)


def test_codes_that_do_not_fill_a_square_are_refused() -> None:
    with pytest.raises(ValueError, match="5 codes"):
        SignQuantizer(3).latents(torch.zeros(1, 5, dtype=torch.long))


def test_forward_agrees_with_encode_and_decode_and_trains_the_encoder() -> None:
    torch.manual_seed(0)
    magvit = Magvit(TINY)
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    output = magvit(pixels)
    assert output.codes.shape == (2, 16)
    assert torch.equal(output.codes, magvit.encode(pixels))
    torch.testing.assert_close(output.reconstruction, magvit.decode(output.codes))
    (output.reconstruction - pixels).pow(2).mean().backward()
    assert magvit.encoder.conv_in.weight.grad is not None
    assert magvit.encoder.conv_in.weight.grad.abs().sum() > 0


def test_quantizer_losses_on_values_worked_out_by_hand() -> None:
    z = torch.tensor([0.5, -0.5]).view(2, 1, 1, 1)
    losses = quantizer_losses(z)
    p = torch.sigmoid(torch.tensor(2.0))
    entropy = -(p * p.log() + (1 - p) * (1 - p).log())
    torch.testing.assert_close(losses.commit, torch.tensor(0.1 * 1.25 * 0.25))
    torch.testing.assert_close(losses.entropy, 0.1 * (entropy - torch.tensor(2.0).log()))


def test_published_sizes() -> None:
    with torch.device("meta"):
        magvit = Magvit(MagvitConfig())
    names = list(magvit.state_dict())
    assert sum(name.startswith("encoder.") for name in names) == 190
    assert sum(name.startswith("decoder.") for name in names) == 190
    assert magvit.state_dict()["quantize.embedding"].shape == (8192, 13)
    assert sum(p.numel() for p in magvit.parameters()) == 95_387_004
    assert magvit.config.factor == 16


def test_channels_that_groups_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="norm_groups"):
        MagvitConfig(channels=20)
