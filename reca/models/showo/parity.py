"""Compare this room with tensors recorded from the published Show-o and RecA code.

Sizes, lengths, vocabulary and number of samples are all read from the folder; its README describes the format.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reca.models.base import LossTerm
from reca.models.checkpoint import load_strict
from reca.models.finite import Watch
from reca.models.losses import IGNORED
from reca.models.parity import Check, Recording, compare, compare_gradient, compare_norm
from reca.models.settings import check_fixed, known_fields
from reca.models.showo import masks, sequences
from reca.models.showo.config import ClipSizes, MagvitConfig, PhiSizes, ShowoConfig
from reca.models.showo.decoding import Layout, greedy
from reca.models.showo.files import clip_name, published
from reca.models.showo.magvit import quantizer_losses
from reca.models.showo.masking import mask_codes
from reca.models.showo.model import ShowoModel
from reca.models.showo.pixels import plain_resize
from reca.models.showo.sampling import StepDraws, unmask
from reca.models.showo.sequences import Tokens

LOGITS = 1e-4
LOSS = 1e-5
FEATURES = 1e-5
PIXELS = 1e-4
GRADIENT = 1e-4

_ALWAYS: dict[str, dict[str, Any]] = {
    "": {"mask_schedule": "cosine", "label_smoothing": 0.0},
    "generation": {"schedule": "cosine"},
    "showo": {"w_clip_vit": True, "num_new_special_tokens": 10},
    "phi": {"qk_layernorm": True, "tie_word_embeddings": False},
    "clip_vision": {"drop_cls": True},
}
"""What no released Show-o with CLIP features varies and this implementation does not offer."""


def recognises(config: Mapping[str, Any]) -> bool:
    """Whether a reference folder is Show-o's."""
    return "showo" in config and "magvit" in config


def check(folder: Path) -> Iterator[Check]:
    """Compare every quantity of a reference folder."""
    yield from _Case(folder).run()


class _Case(Recording):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = _build(self.settings, folder)
        self.vocabulary = self.model.vocabulary
        self.losses: dict[str, Tensor] = {}
        with torch.no_grad():
            self.codes = self.model.magvit.encode(self.inputs["t2i.pixel_values"])
            self.reca_codes = self.model.magvit.encode(self.inputs["reca.pixel_values"])

    def run(self) -> Iterator[Check]:
        """Compare whatever the folder recorded; what nothing here compares is reported by the caller."""
        with torch.no_grad():
            yield from self.layout_of_vocabulary()
            yield from self.tokenizer()
            yield from self.features()
            if self.recorded("gen."):
                yield from self.drawing()
            if self.recorded("mmu.greedy_tokens"):
                yield from self.answering()
        yield from self.text_to_image()
        yield from self.understanding()
        yield from self.reconstruction()
        if self.recorded("lm.", "loss.lm", "loss.showo"):
            yield from self.text()
        if self.recorded("reca_vq.", "loss.reca_vq"):
            yield from self.code_reconstruction()
        yield from self.totals()
        yield from self.gradients()

    def texts(self, group: str) -> list[list[int]]:
        ids, lengths = self.inputs[f"{group}.text_ids"], self.inputs[f"{group}.text_lens"]
        return [row[:length] for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)]

    def draws(self, group: str) -> dict[str, Tensor]:
        names = {"mask_timestep": "mask_timestep", "mask_order": "mask_order", "caption_drop": "cond_drop"}
        found = {ours: f"{group}.draw_{theirs}" for ours, theirs in names.items()}
        return {ours: self.inputs[theirs] for ours, theirs in found.items() if theirs in self.inputs}

    def sequence(self, group: str, tokens: Tokens, layout: Layout) -> Iterator[Check]:
        """Ids, labels, mask, embeddings and logits, as far as they were recorded."""
        found: dict[str, tuple[Callable[[], Tensor], float]] = {
            "input_ids": (lambda: tokens.ids, 0),
            "labels": (lambda: tokens.labels, 0),
            "attention_visible": (lambda: layout.mask, 0),
            "inputs_embeds": (lambda: layout.embeddings, FEATURES),
            "logits": (lambda: self.model.showo.lm_head(self.model.states(layout)), LOGITS),
        }
        with torch.no_grad():
            for name, (value, limit) in found.items():
                if f"{group}.{name}" in self.outputs:
                    yield from self.same(f"{group}.{name}", value(), limit)

    def loss(self, name: str, term: LossTerm) -> Iterator[Check]:
        self.losses[name] = term.mean
        yield from self.same(f"loss.{name}", term.mean.view(1), LOSS)

    def layout_of_vocabulary(self) -> Iterator[Check]:
        ours, special = self.vocabulary, self.settings["special_token_ids"]
        pairs = {
            "soi": (ours.soi, special["<|soi|>"]),
            "eoi": (ours.eoi, special["<|eoi|>"]),
            "t2i": (ours.t2i, special["<|t2i|>"]),
            "mmu": (ours.mmu, special["<|mmu|>"]),
            "pad": (ours.pad, self.settings["pad_token_id"]),
            "image offset": (ours.image_offset, self.settings["image_token_offset"]),
            "mask": (ours.mask, self.settings["mask_token_id"]),
            "size": (ours.size, self.settings["phi"]["vocab_size"]),
        }
        found = torch.tensor([pair[0] for pair in pairs.values()])
        yield compare("vocabulary", found, torch.tensor([pair[1] for pair in pairs.values()]), 0)

    def tokenizer(self) -> Iterator[Check]:
        magvit, pixels = self.model.magvit, self.inputs["t2i.pixel_values"]
        z = magvit.encoder(pixels)
        losses = quantizer_losses(z)
        yield from self.same("magvit.encoder_z", z, FEATURES)
        yield from self.same("magvit.z_q", magvit.quantize(z), FEATURES)
        yield from self.same("magvit.codes", self.codes)
        yield from self.same("magvit.decoded", magvit.decode(self.codes), PIXELS)
        yield from self.same("magvit.commit_loss", losses.commit.view(1), LOSS)
        yield from self.same("magvit.entropy_loss", losses.entropy.view(1), LOSS)
        yield from self.same("t2i.image_token_ids", self.codes + self.vocabulary.image_offset)
        yield from self.same("reca.image_token_ids", self.reca_codes + self.vocabulary.image_offset)

    def features(self) -> Iterator[Check]:
        pixels = plain_resize(self.inputs["reca.pixel_values"], self.model.config.clip.image_size)
        yield from self.same("reca.clip_pixel_values", pixels, FEATURES)
        for group, values in (("reca", pixels), ("mmu", self.inputs["mmu.clip_pixel_values"])):
            found = self.model.clip_features(values)
            yield from self.same(f"{group}.clip_features", found, FEATURES)
            yield from self.same(f"{group}.image_embeds", self.model.mm_projector(found), FEATURES)

    def text(self) -> Iterator[Check]:
        size = self.model.config.max_text + 1 + self.model.config.image_tokens + 2
        tokens = sequences.text_tokens(self.texts("lm"), self.vocabulary, size)
        layout = Layout(self.model.embed(tokens.ids), masks.text_mask(tokens.ids))
        yield from self.sequence("lm", tokens, layout)
        logits = self.model.showo.lm_head(self.model.states(layout))[:, :-1].flatten(0, 1)
        loss = functional.cross_entropy(logits, tokens.labels[:, 1:].flatten(), ignore_index=IGNORED)
        self.losses["lm"] = loss
        yield from self.same("loss.lm", loss.view(1), LOSS)

    def text_to_image(self) -> Iterator[Check]:
        prefix = sequences.caption_block(self.texts("t2i"), self.vocabulary, self.model.config.max_text)
        batch, draws = {"codes": self.codes, "prefix": prefix}, self.draws("t2i")
        yield from self.ratio("t2i", self.codes, draws)
        yield from self.sequence("t2i", *self.model.drawing(batch, draws))
        yield from self.loss("t2i", self.model.loss("text_to_image", batch, draws))

    def ratio(self, group: str, codes: Tensor, draws: Mapping[str, Tensor]) -> Iterator[Check]:
        least = self.model.config.min_masking_rate
        masked = mask_codes(codes, draws["mask_timestep"], draws["mask_order"], self.vocabulary, least)
        yield from self.same(f"{group}.mask_prob", masked.ratio, FEATURES)

    def conversation(self) -> dict[str, Tensor]:
        with torch.no_grad():
            features = self.model.clip_features(self.inputs["mmu.clip_pixel_values"])
        return {
            "features": features,
            "system": self.inputs.get("mmu.system_ids", self.inputs["mmu.input_ids_text"][:, :0]),
            "text": self.inputs["mmu.input_ids_text"],
            "labels": self.inputs["mmu.labels_text"],
        }

    def understanding(self) -> Iterator[Check]:
        batch = self.conversation()
        yield from self.sequence("mmu", *self.model.understanding(batch))
        yield from self.loss("mmu", self.model.loss("image_to_text", batch, {}))

    def answering(self) -> Iterator[Check]:
        """The recording continues sample 0 after "the first third of its text": of its ids with or without its pads."""
        expected, text = self.outputs["mmu.greedy_tokens"], self.inputs["mmu.input_ids_text"][0]
        checks: list[Check] = []
        for cut in {len(text) // 3, int((text != self.vocabulary.pad).sum()) // 3}:
            batch = {name: value[:1] for name, value in self.conversation().items()}
            batch |= {name: batch[name][:, :cut] for name in ("text", "labels")}
            tokens, layout = self.model.understanding(batch)
            found = greedy(
                self.model.showo, layout, torch.tensor([tokens.ids.shape[1]]), len(expected), None, Watch("showo")
            )[0]
            checks += self.same("mmu.greedy_tokens", found)
        yield min(checks, key=lambda check: check.error)

    def reconstruction_batch(self) -> dict[str, Tensor]:
        with torch.no_grad():
            pixels = plain_resize(self.inputs["reca.pixel_values"], self.model.config.clip.image_size)
            features = self.model.clip_features(pixels)
        prefix = sequences.template_prefix(self.texts("reca"), self.vocabulary, self.model.config.prefix_length)
        return {"codes": self.reca_codes, "prefix": prefix, "features": features}

    def reconstruction(self) -> Iterator[Check]:
        batch, draws = self.reconstruction_batch(), self.draws("reca")
        yield from self.ratio("reca", self.reca_codes, draws)
        yield from self.sequence("reca", *self.model.reconstruction(batch, draws))
        yield from self.loss("reca_recon", self.model.loss("reconstruction", batch, draws))
        self.model.config = replace(self.model.config, condition_gradient=True)
        self.losses["through_inputs"] = self.model.loss("reconstruction", batch, draws).mean
        self.model.config = replace(self.model.config, condition_gradient=False)

    def code_reconstruction(self) -> Iterator[Check]:
        images = self.inputs["reca.pixel_values"]
        with torch.no_grad():
            small = plain_resize(images, images.shape[-1] // 2)
            condition = self.model.magvit.encode(small)
        yield from self.same("reca_vq.small_pixel_values", small, FEATURES)
        yield from self.same("reca_vq.cond_token_ids", condition + self.vocabulary.image_offset)
        prefix = sequences.template_block(self.texts("reca"), self.vocabulary, self.model.config.max_text)
        batch = {"codes": self.reca_codes, "prefix": prefix, "condition_codes": condition}
        yield from self.sequence("reca_vq", *self.model.reconstruction(batch, self.draws("reca")))
        yield from self.loss("reca_vq_recon", self.model.loss("reconstruction", batch, self.draws("reca")))

    def totals(self) -> Iterator[Check]:
        sums = {
            "reca_total": {"t2i": "t2i", "mmu": "mmu", "recon": "reca_recon"},
            "showo_total_stage": {"t2i": "t2i", "lm": "lm", "mmu": "mmu"},
        }
        coefficients = {"reca_total": "reca_coefficients", "showo_total_stage": "showo_coefficients"}
        for name, parts in sums.items():
            if self.recorded(f"loss.{name}"):
                weights = self.settings[coefficients[name]]
                total = torch.stack([weights[part] * self.losses[loss] for part, loss in parts.items()]).sum()
                self.losses[name] = total
                yield from self.same(f"loss.{name}", total.view(1), LOSS)

    def gradients(self) -> Iterator[Check]:
        losses = {"reca": "reca_recon", "reca_through_inputs": "through_inputs", "reca_vq": "reca_vq_recon"}
        parameters = self.model.trainable()
        recorded = [name.split(".", 2) for name in self.outputs if name.startswith(("grad.", "grad_norm."))]
        for group in sorted({group for _, group, _ in recorded}):
            self.model.zero_grad(set_to_none=True)
            self.losses[losses.get(group, group)].backward(retain_graph=True)
            for kind, parameter in [(kind, parameter) for kind, its, parameter in recorded if its == group]:
                name = f"{kind}.{group}.{parameter}"
                found, expected = parameters[parameter].grad, self.outputs[name]
                if kind == "grad_norm":
                    yield _gradient_norm(name, found, float(expected))
                else:
                    yield compare_gradient(name, found, expected, GRADIENT)

    def drawing(self) -> Iterator[Check]:
        generation, config = self.settings["generation"], self.model.config
        texts = self.texts("gen")
        image = torch.full((len(texts), config.image_tokens), self.vocabulary.mask)
        both: list[Tokens] = []
        for name, prompts in (("gen.input_ids", texts), ("gen.uncond_input_ids", [[] for _ in texts])):
            block = sequences.caption_block(prompts, self.vocabulary, config.max_text)
            both.append(sequences.caption_tokens(block, image, image, self.vocabulary))
            yield from self.same(name, both[-1].ids)
        masked = [masks.caption_mask(tokens.ids, self.vocabulary.pad, config.image_tokens) for tokens in both]
        # Without guidance the published sampler runs the conditional sequences only.
        guided = generation["guidance_scale"] != 0 or "gen.uncond_input_ids" in self.outputs
        yield from self.same("gen.attention_visible", torch.cat(masked if guided else masked[:1]))
        layout = Layout(self.model.embed(both[0].ids), masked[0])
        draws = map(StepDraws, self.inputs["gen.draw_exponential"], self.inputs["gen.draw_gumbel_uniform"])
        logits = self.model.guided_logits(layout, generation["guidance_scale"])
        steps = list(
            unmask(logits, draws, (len(texts), config.image_tokens), generation["timesteps"], generation["temperature"])
        )
        yield from self.same("gen.step_masked_before", torch.stack([step.masked_before for step in steps]))
        yield from self.same("gen.step_cfg_logits", torch.stack([step.logits for step in steps]), LOGITS)
        yield from self.same("gen.step_sampled_codes_raw", torch.stack([step.drawn for step in steps]))
        yield from self.same("gen.final_codes", steps[-1].codes)
        yield from self.same("gen.decoded", self.model.magvit.decode(steps[-1].codes), PIXELS)


def _gradient_norm(name: str, found: Tensor | None, expected: float) -> Check:
    """Recorded: -1 where a parameter gets no gradient; 0 where a joint batch touches it with zero weight."""
    if expected > 0 and found is not None:
        return compare_norm(name, float(found.norm()), expected, GRADIENT)
    none = found is None or (expected == 0 and not found.any())
    return Check(
        name, 0.0 if none and expected <= 0 else float("inf"), 0.0, "no gradient" if none else "has a gradient"
    )


def _build(settings: Mapping[str, Any], folder: Path) -> ShowoModel:
    _refuse_unoffered(settings, folder)
    model = ShowoModel(_config(settings)).eval()
    parts = published(model)
    load_strict(parts[""], folder / "weights.safetensors")
    load_strict(parts["clip"], folder / "clip_weights.safetensors", clip_name)
    load_strict(parts["magvitv2"], folder / "magvit_weights.safetensors")
    return model


def _refuse_unoffered(settings: Mapping[str, Any], folder: Path) -> None:
    one_mark = {"bos_token_id": settings["eos_token_id"]}
    for part, wanted in (*_ALWAYS.items(), ("", one_mark)):
        check_fixed(settings.get(part, {}) if part else settings, wanted, folder / "config.json", part)


def _config(settings: Mapping[str, Any]) -> ShowoConfig:
    phi, clip, magvit = settings["phi"], settings["clip_vision"], settings["magvit"]
    return ShowoConfig(
        text_size=settings["showo"]["llm_vocab_size"],
        end_of_text=settings["eos_token_id"],
        image_size=settings["image_size"],
        max_text=settings["max_seq_length"],
        prefix_length=settings["reca_prefix_len"],
        system_prompt="",
        caption_dropout=settings["cond_dropout_prob"],
        min_masking_rate=settings["min_masking_rate"],
        projector_hidden=settings["mm_projector"][1],
        phi=PhiSizes(
            hidden_size=phi["hidden_size"],
            intermediate_size=phi["intermediate_size"],
            layers=phi["num_hidden_layers"],
            heads=phi["num_attention_heads"],
            kv_heads=phi["num_key_value_heads"],
            max_positions=phi["max_position_embeddings"],
            rotary_share=phi["partial_rotary_factor"],
            rope_theta=phi["rope_theta"],
            norm_eps=phi["layer_norm_eps"],
            activation=phi["hidden_act"],
        ),
        clip_layer=clip["select_layer"],
        clip=ClipSizes(**known_fields(clip, ClipSizes)),
        magvit=MagvitConfig(
            channels=magvit["ch"],
            encoder_multipliers=tuple(magvit.get("ch_mult_encoder", magvit.get("ch_mult"))),
            decoder_multipliers=tuple(magvit.get("ch_mult_decoder", magvit.get("ch_mult"))),
            encoder_blocks=tuple(magvit["num_res_blocks_encoder"]),
            decoder_blocks=tuple(magvit["num_res_blocks_decoder"]),
            code_bits=magvit["z_channels"],
            norm_groups=magvit["norm_groups"],
            norm_eps=magvit["norm_eps"],
        ),
    )
