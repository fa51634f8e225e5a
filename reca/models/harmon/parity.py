"""Compare this room with tensors recorded from the published Harmon and RecA code.

Sizes, grids, lengths, ids and numbers of samples and iterations are all read from the folder; its README describes the
format and gives the limits, relative to the largest recorded value.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from reca.models.autoencoder import published_state
from reca.models.base import Task
from reca.models.checkpoint import load_strict
from reca.models.errors import CheckpointError
from reca.models.finite import Watch
from reca.models.harmon import diffusion, pixels
from reca.models.harmon.autoencoder import decode_latents, encode_pixels, image_moments
from reca.models.harmon.config import config_of
from reca.models.harmon.files import HEAD, network_state
from reca.models.harmon.masking import mask_rate
from reca.models.harmon.model import HarmonModel, with_unconditional
from reca.models.harmon.network import Prompt, positions
from reca.models.harmon.sampling import DrawingPlan, GroupNoise, Iteration, draw_image
from reca.models.harmon.text import HEADER
from reca.models.losses import IGNORED
from reca.models.parity import Check, Recording, compare, compare_norm

STATES = 2e-6
"""Embeddings, hidden states, conditions and logits."""
LOSS = 1e-6
ERRORS = 2e-6
"""Squared error of each token."""
BOUNDS = 5e-5
"""Variational term of each token."""
GRADIENT = 2e-5
DRAWN = 1e-3
"""Sampled latents."""
AUTOENCODER = 1e-5
"""The README states about 5e-6 for diffusers' autoencoder, absolute."""
TABLES = 1e-12

PLACEHOLDER = -200
"""Id that stands for the picture in recorded prompts."""

TASKS: dict[str, Task] = {
    "t2i": "text_to_image",
    "t2i_native": "text_to_image",
    "recon": "reconstruction",
    "i2t": "image_to_text",
}


def recognises(config: Mapping[str, Any]) -> bool:
    """Whether a reference folder is Harmon's."""
    model = config.get("model")
    return isinstance(model, dict) and "mar" in model and "llm" in model


def check(folder: Path) -> Iterator[Check]:
    """Compare every quantity of a reference folder."""
    yield from _Case(folder).run()


class _Case(Recording):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = _build(self.settings, folder)
        self.network = self.model.network

    def run(self) -> Iterator[Check]:
        """Compare whatever the folder recorded; what nothing here compares is reported by the caller."""
        with torch.no_grad():
            yield from self.tables()
            parts = {"preproc.": self.preprocessing, "vae.": self.autoencoder, "caption.": self.captioning}
            for start, part in parts.items():
                if self.recorded(start):
                    yield from part()
            for group in ("gen_t2i", "gen_recon"):
                if self.recorded(f"{group}."):
                    yield from self.generation(group)
        for group in ("t2i", "t2i_native", "recon"):
            if self.recorded(f"{group}."):
                yield from self.masked(group)
        if self.recorded("i2t."):
            yield from self.understanding()

    def same(self, name: str, found: Tensor, limit: float = 0.0, where: Tensor | None = None) -> Iterator[Check]:
        """One check, relative to the largest recorded value; `where` picks the entries that mean something."""
        if name not in self.outputs:
            return
        expected = self.outputs[name]
        if where is not None and found.shape == expected.shape:
            found, expected = found[where], expected[where]
        result = compare(name, found.to(expected.dtype), expected, limit)
        if not expected.is_floating_point() or result.error == float("inf"):
            yield result
            return
        largest = max(float(expected.abs().max()), 1e-12) if expected.numel() else 1.0
        yield Check(name, result.error / largest, limit, "relative to the largest")

    # Parts without the network

    def tables(self) -> Iterator[Check]:
        chains = {"train": diffusion.schedule(), "gen": diffusion.schedule(self.model.config.mar.num_sampling_steps)}
        names = {
            "alphas_cumprod": "alphas_cumprod",
            "betas": "betas",
            "posterior_log_variance_clipped": "posterior_log_variance",
            "timestep_map": "levels",
        }
        for chain, tables in chains.items():
            for theirs, ours in names.items():
                yield from self.same(f"schedule.{chain}_{theirs}", getattr(tables, ours), TABLES)
        if self.recorded("mask_rate."):
            uniform = self.outputs["mask_rate.quantile_u"]
            yield from self.same(
                "mask_rate.quantile_u", torch.linspace(0, 1, len(uniform), dtype=torch.float64), TABLES
            )
            rates = mask_rate(uniform, self.model.config.mar.mask_ratio_min)
            yield from self.same("mask_rate.quantile", rates, TABLES)

    def preprocessing(self) -> Iterator[Check]:
        image = Image.fromarray(self.inputs["preproc.image_hwc"].numpy())
        for name, fit in (("recon", pixels.squashed), ("llava", pixels.padded_square)):
            if f"preproc.{name}_pixel_values" in self.outputs:
                fitted = fit(image, self.outputs[f"preproc.{name}_pixel_values"].shape[-1])
                values = torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8)
                found = pixels.from_bytes(values.view(fitted.height, fitted.width, 3).permute(2, 0, 1))
                yield from self.same(f"preproc.{name}_pixel_values", found, STATES)

    def autoencoder(self) -> Iterator[Check]:
        vae, config, images = self.model.vae, self.model.config, self.inputs["vae.pixel_values"]
        yield from self.same("vae.moments", image_moments(vae, images), AUTOENCODER)
        yield from self.same("vae.latents", encode_pixels(vae, images, config), AUTOENCODER)
        decoded = decode_latents(vae, self.inputs["vae.decode_latents"], config)
        yield from self.same("vae.decoded", decoded, AUTOENCODER)

    # Losses and gradients

    def ids(self, group: str) -> tuple[Tensor, Tensor]:
        """Recorded ids and mask without placeholders, which must all come right after the header."""
        ids = self.inputs[f"{group}.input_ids"]
        shown = ids[0] != PLACEHOLDER
        count = int((~shown).sum())
        placed = ids[:, HEADER : HEADER + count] == PLACEHOLDER
        if not (placed.all() and (ids == PLACEHOLDER).sum() == placed.numel()):
            raise CheckpointError(
                f"{self.folder / 'inputs.safetensors'}: {group}.input_ids must have the picture's places "
                f"({PLACEHOLDER}) after the {HEADER} ids of the header and nowhere else"
            )
        mask = self.inputs.get(f"{group}.attention_mask", torch.ones_like(ids, dtype=torch.bool))
        return ids[:, shown], mask[:, shown].bool()

    def draws(self, group: str) -> dict[str, Tensor]:
        order, noise = self.inputs[f"{group}.order"], self.inputs[f"{group}.diff_noise"]
        batch, tokens = order.shape
        repeats = len(noise) // (batch * tokens)
        return {
            "order": order,
            "mask_rate": self.inputs[f"{group}.mask_rate"],
            "text_drop": torch.ones(batch),
            "timestep": self.inputs[f"{group}.diff_t"].view(repeats, batch, tokens).transpose(0, 1),
            "noise": noise.view(repeats, batch, tokens, -1).transpose(0, 1),
        }

    def masked(self, group: str) -> Iterator[Check]:
        """A masked pass: everything in it, loss and gradients."""
        (ids, mask), draws, latents = self.ids(group), self.draws(group), self.inputs[f"{group}.latents"]
        batch = {"latents": latents, "ids": ids, "mask": mask, "plain_ids": ids, "plain_mask": mask}
        hidden, found = self.model.drawing(TASKS[group], batch, draws)
        sequence, real = found.sequence, found.sequence.mask
        tokens = torch.arange(latents.shape[1] * latents.shape[2]).expand(len(latents), -1)
        with torch.no_grad():
            terms = self.model.token_losses(found.conditions, latents, tokens, draws)
        yield from self.same(f"{group}.mask", torch.zeros(tokens.shape).scatter(1, hidden, 1.0))
        yield from self.same(f"{group}.x_enc", found.encoded, STATES)
        yield from self.same(f"{group}.z_enc", found.embeddings, STATES)
        yield from self.same(f"{group}.llm_inputs_embeds", sequence.embeddings, STATES)
        yield from self.same(f"{group}.llm_attention_mask", real)
        yield from self.same(f"{group}.llm_position_ids", positions(real))
        yield from self.same(f"{group}.llm_hidden", found.states, STATES, real)
        yield from self.same(f"{group}.z_llm", found.states[:, -found.embeddings.shape[1] :], STATES)
        yield from self.same(f"{group}.x_enc_fused", found.fused, STATES)
        yield from self.same(f"{group}.z", found.conditions, STATES)
        yield from self.same(f"{group}.diff_mse", terms.error.transpose(0, 1).flatten(), ERRORS)
        yield from self.same(f"{group}.diff_vb", terms.bound.transpose(0, 1).flatten(), BOUNDS)
        if group == "recon":
            with torch.no_grad():
                picture = self.network.understand(latents, None)
            yield from self.same("recon.cond_x_enc", picture.encoded, STATES)
            yield from self.same("recon.cond_z_enc", picture.embeddings, STATES)
        yield from self.loss(group, batch, draws)

    def understanding(self) -> Iterator[Check]:
        """A conversation: embeddings, hidden states, logits of labels, loss and gradients."""
        (ids, mask), latents = self.ids("i2t"), self.inputs["i2t.latents"]
        labels = self.inputs["i2t.labels"][:, self.inputs["i2t.input_ids"][0] != PLACEHOLDER]
        batch = {"latents": latents, "ids": ids, "mask": mask, "labels": labels}
        with torch.no_grad():
            picture = self.network.understand(latents, None)
            sequence, following = self.model.understanding(batch, {})
            states = self.network.states(sequence)
            logits = self.network.llm.lm_head(states[following != IGNORED])
        block = slice(HEADER, HEADER + picture.embeddings.shape[1])
        yield from self.same("i2t.x_enc", picture.encoded, STATES)
        yield from self.same("i2t.z_enc", picture.embeddings, STATES)
        yield from self.same("i2t.llm_attention_mask", sequence.mask)
        yield from self.same("i2t.llm_hidden", states, STATES, sequence.mask)
        yield from self.same("i2t.llm_hidden_image", states[:, block], STATES)
        yield from self.same("i2t.label_logits", logits, STATES)
        yield from self.loss("i2t", batch, {})

    def loss(self, group: str, batch: Mapping[str, Tensor], draws: Mapping[str, Tensor]) -> Iterator[Check]:
        self.model.zero_grad(set_to_none=True)
        loss = self.model.loss(TASKS[group], batch, draws).mean
        yield from self.same(f"{group}.loss", loss.detach(), LOSS)
        if self.recorded(f"{group}.grad_norm."):
            loss.backward()
            yield from self.gradients(group)

    def gradients(self, group: str) -> Iterator[Check]:
        silent = 0
        for name, parameter in self.model.trainable().items():
            norm, gradient = f"{group}.grad_norm.{name}", parameter.grad
            if norm in self.outputs:
                found = float("nan") if gradient is None else float(gradient.norm())
                yield compare_norm(norm, found, float(self.outputs[norm]), GRADIENT)
            elif gradient is not None:
                silent += 1
            if gradient is not None:
                yield from self.same(f"{group}.grad.{name}", gradient, GRADIENT)
        yield Check(f"{group}: gradients where none was recorded", silent, 0.0, "parameters")

    # Drawing and answering

    def captioning(self) -> Iterator[Check]:
        ids, mask = self.ids("caption")
        front = self.network.prompt(ids, mask, self.network.understand(self.inputs["caption.latents"], None).embeddings)
        yield from self.same(
            "caption.prefill_logits", self.network.llm.lm_head(self.network.states(front)[:, -1]), STATES
        )
        count = self.outputs["caption.tokens"].shape[1]
        yield from self.same("caption.tokens", self.network.greedy(front, count, None, int(ids[0, 0]), Watch("harmon")))

    def generation(self, group: str) -> Iterator[Check]:
        settings, order = self.settings["model"][group], self.inputs[f"{group}.order"]
        plan = DrawingPlan(
            grid=cast(tuple[int, int], tuple(settings["grid"])),
            iterations=settings["num_iter"],
            scale=settings["cfg"],
            schedule=settings["cfg_schedule"],
            temperature=settings["temperature"],
            levels=self.model.config.mar.num_sampling_steps,
        )
        front = self.reconstruction_prompt() if group == "gen_recon" else self.network.prompt(*self.ids(group))
        yield from self.same(f"{group}.prefill_inputs_embeds", front.embeddings, STATES)
        # Without guidance, every row is an image of its own, unconditional prompts included.
        images = len(front.mask) if plan.scale == 1 else len(front.mask) // 2

        def noise(step: int, _: Tensor) -> GroupNoise:
            name = f"{group}.step{step}"
            return GroupNoise(self.inputs[f"{name}.init_noise"], iter(self.inputs[f"{name}.noise"]))

        iterations = list(draw_image(self.network, front, plan, order[:images], noise))
        for number, iteration in enumerate(iterations):
            yield from self.iteration(f"{group}.step{number}", iteration, len(front.mask) // images)
        yield from self.same(f"{group}.latents", iterations[-1].latents, DRAWN)

    def iteration(self, name: str, found: Iteration, halves: int) -> Iterator[Check]:
        yield from self.same(f"{name}.mask", found.hidden.repeat(halves, 1))
        yield from self.same(f"{name}.cfg", torch.tensor([found.scale]), LOSS)
        yield from self.same(f"{name}.attention_mask", found.sequence_mask)
        yield from self.same(f"{name}.position_ids", found.sequence_positions)
        # From the second iteration on, conditions depend on latents that were sampled.
        limit = STATES if name.endswith("step0") else DRAWN
        yield from self.same(f"{name}.z_all", found.conditions, limit)
        yield from self.same(f"{name}.z", found.drawn_conditions, limit)
        yield from self.same(f"{name}.latent", found.drawn, DRAWN)

    def reconstruction_prompt(self) -> Prompt:
        """The folder has no ids of this prompt. Its marks are known; its words, and the unconditional prompt up to its
        padding, are read off the recorded embeddings as the nearest rows of the embedding table.
        """
        latents, tokens = self.inputs["gen_recon.latents"], self.settings["toy_token_ids"]
        picture = self.network.understand(latents, None).embeddings
        special = {name.split(" ")[0]: value for name, value in tokens.items()}
        start, end, newline = special["<|im_start|>"], special["<|im_end|>"], special["newline"]
        first, last = HEADER + picture.shape[1], -5
        recorded, table = self.outputs["gen_recon.prefill_inputs_embeds"], self.network.llm.model.embed_tokens.weight
        nearest = torch.cdist(recorded[0, first:last], table).argmin(dim=1).tolist()
        header, opening = [start, special["user"], newline], [end, newline, start, special["assistant"], newline]
        ids = torch.tensor([[*header, *nearest, *opening]]).expand(len(latents), -1)
        front = self.network.prompt(ids, torch.ones_like(ids, dtype=torch.bool), picture)
        if len(recorded) == len(latents):
            return front
        pad = special["<|endoftext|>"]
        plain = torch.cdist(recorded[-1], table).argmin(dim=1)
        plain = plain[: int((plain != pad).nonzero()[-1]) + 1].expand(len(latents), -1)
        return with_unconditional(self.network, front, plain, pad)


def _build(settings: Mapping[str, Any], folder: Path) -> HarmonModel:
    sizes = settings["model"]
    vae = sizes["vae"]
    # The published constructor's None leaves gradients as they are.
    own = {"vae_scale": sizes["vae_scale"], "grad_scale": 1.0 if sizes["grad_scale"] is None else sizes["grad_scale"]}
    own["image_size"] = sizes["train_grid"][0] * sizes["mar"]["vae_stride"] * sizes["mar"].get("patch_size", 1)
    if vae.get("attn_resolutions_decoder"):
        raise CheckpointError(
            f"{folder / 'config.json'}: model.vae.attn_resolutions_decoder is {vae['attn_resolutions_decoder']!r}, but "
            "only an autoencoder without attention in the decoder's levels is built here"
        )
    names = ("ch", "ch_mult", "num_res_blocks", "resolution", "attn_resolutions_encoder")
    content = {"llm": sizes["llm"], "mar": sizes["mar"], "vae": {name: vae[name] for name in names}, "reca": own}
    model = HarmonModel(config_of(content)).eval()
    wanted = network_state(model.network)
    load_strict(
        wanted, folder / "weights.safetensors", lambda name: None if name == HEAD and HEAD not in wanted else name
    )
    load_strict(published_state(model.vae), folder / "vae_weights.safetensors")
    return model
