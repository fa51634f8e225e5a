"""Which attention runs where. No accelerator is needed: the meta device stands for every device that is no CPU."""

from collections.abc import Callable
from typing import Any

import harmon_tiny
import openuni_tiny
import pytest
import torch
from torch import Tensor, nn

from reca.models import attention
from reca.models.attention import EAGER_BY_DEVICE, by_device, mask_by_device

Part = tuple[nn.Module, dict[str, Tensor]]


def harmon() -> list[Part]:
    """The language model, and an input."""
    network = harmon_tiny.tiny_model().network
    return [(network.llm.model, {"inputs_embeds": torch.randn(2, 5, network.config.llm.hidden_size)})]


def openuni() -> list[Part]:
    """The three parts with transformers' attention, and an input of each."""
    model = openuni_tiny.tiny_model()
    side, width = model.lmm.image_size, model.config.language.hidden_size
    return [
        (model.lmm.language_model.model, {"inputs_embeds": torch.randn(2, 5, width)}),
        (model.lmm.vision_model, {"pixel_values": torch.randn(2, 3, side, side)}),
        (model.connector, {"inputs_embeds": torch.randn(2, 5, width)}),
    ]


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Devices on which the fused kernel was asked for."""
    calls = list[str]()
    real = attention.sdpa_attention_forward

    def recorded(module: nn.Module, query: Tensor, *others: Any, **options: Any) -> tuple[Tensor, None]:
        calls.append(query.device.type)
        return real(module, query, *others, **options)

    monkeypatch.setattr(attention, "sdpa_attention_forward", recorded)
    return calls


@pytest.mark.parametrize("parts", [harmon, openuni])
def test_models_made_on_the_cpu_use_the_fused_kernel_once_moved(
    parts: Callable[[], list[Part]], fused: list[str]
) -> None:
    with torch.no_grad():
        for module, inputs in parts():
            module(**inputs)
            assert fused == []
            module.to("meta")(**{name: value.to("meta") for name, value in inputs.items()})
            assert fused
            assert set(fused) == {"meta"}
            fused.clear()


@pytest.mark.parametrize("parts", [harmon, openuni])
@pytest.mark.parametrize("autocast", [False, True])
def test_on_the_cpu_it_is_the_eager_attention_of_transformers_bit_for_bit(
    parts: Callable[[], list[Part]], autocast: bool
) -> None:
    for module, inputs in parts():
        module.requires_grad_(True)
        found = list[list[Tensor]]()
        for name in (EAGER_BY_DEVICE, "eager"):
            module.config._attn_implementation = name  # pyright: ignore
            module.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                states = module(**inputs).last_hidden_state
            states.float().square().sum().backward()
            gradients = [value.grad for value in module.parameters() if value.grad is not None]
            found.append([states.detach(), *gradients])
        assert len(found[0]) == len(found[1]) > 1
        assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("parts", [harmon, openuni])
def test_the_fused_kernel_gives_equal_states(parts: Callable[[], list[Part]]) -> None:
    with torch.no_grad():
        for module, inputs in parts():
            found = module(**inputs).last_hidden_state
            module.config._attn_implementation = "sdpa"  # pyright: ignore
            torch.testing.assert_close(found, module(**inputs).last_hidden_state, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("groups", [2, 4])
def test_explicit_and_fused_attention_agree(groups: int) -> None:
    module = nn.Module()
    module.num_key_value_groups = 4 // groups  # pyright: ignore
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(2, 4, 6, 8, generator=generator)
    key, value = (torch.randn(2, groups, 6, 8, generator=generator) for _ in range(2))
    mask = attention.additive(torch.rand(2, 1, 6, 6, generator=generator) < 0.7)
    mask[..., 0] = 0
    found, _ = by_device(module, query, key, value, mask)
    expected, _ = attention.sdpa_attention_forward(module, query, key, value, mask)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_masks_are_additive_on_cpus_and_boolean_elsewhere() -> None:
    sizes = {"batch_size": 1, "q_length": 3, "kv_length": 3, "dtype": torch.float32}
    here = mask_by_device(**sizes, device="cpu")
    there = mask_by_device(**sizes, device="meta", allow_is_causal_skip=False)
    assert here is not None
    assert there is not None
    assert (here.dtype, there.dtype) == (torch.float32, torch.bool)
    assert torch.equal(here[0, 0] == 0, torch.ones(3, 3).tril().bool())
