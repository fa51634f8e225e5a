"""Compare this room with tensors recorded from the published OpenUni code.

Sizes, lengths, ids and number of samples are all read from the folder; its README describes the format. The recording
has raw ids instead of texts, and latents instead of an autoencoder.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from reca.models.base import LossTerm
from reca.models.checkpoint import load_strict
from reca.models.openuni.config import (
    AutoencoderSizes,
    ConnectorSizes,
    FlowSettings,
    LanguageSizes,
    OpenUniConfig,
    SanaSizes,
    VisionSizes,
)
from reca.models.openuni.files import FLOW, LMM, SANA, VISION
from reca.models.openuni.flow import denoise, sampling_scheduler, training_levels
from reca.models.openuni.model import OpenUniModel
from reca.models.openuni.understanding import published_state
from reca.models.parity import Check, Recording, compare_gradient, compare_norm
from reca.models.settings import Kind, check_fixed, known_fields

STATES = 1e-4
VELOCITY = 1e-4
LOSS = 1e-5
GRADIENT = 1e-4
LATENTS = 1e-3
EXACT = 1e-6

BUILT: dict[str, dict[str, Any]] = {
    "": {"select_layer": LMM["select_layer"], "ps_version": LMM["ps_version"], "weighting": "none"},
    "llm": {"use_sliding_window": False},
    "vision": VISION,
    "sana": SANA,
    "inference_scheduler": FLOW,
    "freeze": {"lmm": True, "vae": True},
}
"""What the sections of a recording's `config.json` (the first is the whole) must say where they say anything."""


def recognises(config: Mapping[str, Any]) -> bool:
    """Whether a reference folder is OpenUni's."""
    return "sana" in config and "connector" in config


def check(folder: Path) -> Iterator[Check]:
    """Compare every quantity of a reference folder."""
    yield from _Case(folder).run()


class _Case(Recording):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for section, fixed in BUILT.items():
            check_fixed(self.settings[section] if section else self.settings, fixed, folder / "config.json", section)
        self.model = _build(self.settings, folder)
        self.losses: dict[str, Tensor] = {}

    def run(self) -> Iterator[Check]:
        """Compare whatever the folder recorded; what nothing here compares is reported by the caller."""
        levels, _ = training_levels(self.model.config.flow)
        yield from self.same("train_scheduler.sigmas_head_tail", torch.cat([levels[:3], levels[-3:]]), EXACT)
        features = None
        if "reca.pixel_values_src" in self.inputs:
            with torch.no_grad():
                features = self.model.lmm.features(self.inputs["reca.pixel_values_src"])
            yield from self.same("reca.vit_embeds", features, STATES)
        if self.recorded("t2i."):
            yield from self.training("t2i", None)
        if self.recorded("reca."):
            yield from self.training("reca", features)
        yield from self.gradients()
        with torch.no_grad():
            if self.recorded("gen."):
                yield from self.sampling("gen", None)
            if self.recorded("genimg."):
                yield from self.sampling("genimg", None if features is None else features[:1])

    def training(self, group: str, features: Tensor | None) -> Iterator[Check]:
        """Inputs, states, noise, velocity and loss of one objective."""
        inputs, model = self.inputs, self.model
        ids, mask = inputs[f"{group}.input_ids"], inputs[f"{group}.attention_mask"]
        draws = {"uniform": inputs[f"{group}.draw_u"], "noise": inputs[f"{group}.draw_noise"]}
        latents = inputs[f"{group}.vae_latents_raw"]
        with torch.no_grad():
            yield from self.forward(group, ids, mask, features, latents, draws)
        batch = {"input_ids": ids, "mask": mask, "latents": latents, "dropped_ids": ids, "dropped_mask": mask}
        draws["caption_drop"] = torch.ones(len(ids))
        if features is not None:
            batch["features"] = features
        recorded = "reca_recon" if group == "reca" else group
        term: LossTerm = model.loss("reconstruction" if group == "reca" else "text_to_image", batch, draws)
        self.losses[group] = term.mean
        yield from self.same(f"loss.{recorded}", term.mean.view(1), LOSS)

    def forward(
        self,
        group: str,
        ids: Tensor,
        mask: Tensor,
        features: Tensor | None,
        latents: Tensor,
        draws: Mapping[str, Tensor],
    ) -> Iterator[Check]:
        model = self.model
        queries = model.loss_inputs(ids, mask, features)
        yield from self.same(f"{group}.inputs_embeds", queries.embeddings, STATES)
        yield from self.same(f"{group}.llm_attention_mask", queries.mask)
        yield from self.same(f"{group}.position_ids", queries.positions)
        states = model.query_states(queries)
        connected, context = model.connected(states)
        yield from self.same(f"{group}.query_hidden", states, STATES)
        yield from self.same(f"{group}.connector_out", connected, STATES)
        yield from self.same(f"{group}.prompt_embeds", context, STATES)
        noised = model.noised(latents, draws)
        yield from self.same(f"{group}.scaled_latents", latents * model.config.vae.scaling_factor, EXACT)
        yield from self.same(f"{group}.sigmas", noised.sigmas, EXACT)
        yield from self.same(f"{group}.timesteps", noised.timesteps, STATES)
        yield from self.same(f"{group}.noisy_latents", noised.latents, STATES)
        yield from self.same(f"{group}.velocity_target", noised.velocity, VELOCITY)
        velocity = model.velocity(noised.latents, context, noised.timesteps)
        yield from self.same(f"{group}.velocity_pred", velocity, VELOCITY)

    def gradients(self) -> Iterator[Check]:
        """Gradients of the losses; -1 is recorded where a parameter is frozen."""
        parameters, known = self.model.trainable(), published_state(self.model.state_dict())
        recorded = [name.split(".", 2) for name in self.outputs if name.startswith(("grad.", "grad_norm."))]
        for group in sorted({group for _, group, _ in recorded}):
            self.model.zero_grad(set_to_none=True)
            self.losses[group].backward()
            for kind, parameter in [(kind, parameter) for kind, its, parameter in recorded if its == group]:
                name = f"{kind}.{group}.{parameter}"
                found = parameters[parameter].grad if parameter in parameters else None
                if parameter not in known:
                    yield Check(name, float("inf"), 0.0, "no such parameter")
                elif kind == "grad_norm":
                    yield _norm(name, found, float(self.outputs[name]))
                else:
                    yield compare_gradient(name, found, self.outputs[name], GRADIENT)

    def sampling(self, group: str, features: Tensor | None) -> Iterator[Check]:
        """Every step of the solver, from the recorded noise; conditional prompts come before unconditional ones."""
        model, flow = self.model, self.model.config.flow
        # The published pipeline guides with scales above 1 only.
        guidance = max(self.settings["generation"]["cfg_scale"] - 1, 0)
        count = self.settings["generation"]["num_steps"]
        ids, mask = self.inputs[f"{group}.input_ids"], self.inputs[f"{group}.attention_mask"]
        if features is not None:
            features = features.repeat(len(ids), 1, 1)
        context = model.context(model.query_inputs(ids, mask, features))
        noise = self.inputs[f"{group}.draw_latents"]
        read = context if guidance else context[: len(noise)]
        steps = list(denoise(model.guided_velocity(read, guidance), noise, count, flow))
        yield from self.same(f"{group}.prompt_embeds", context, STATES)
        yield from self.same(f"{group}.sigmas", sampling_scheduler(flow, count).sigmas, EXACT)
        yield from self.same(f"{group}.timesteps", torch.stack([step.timestep for step in steps]).float())
        yield from self.same(f"{group}.step_latents_before", torch.stack([step.before for step in steps]), LATENTS)
        yield from self.same(f"{group}.step_cfg_velocity", torch.stack([step.velocity for step in steps]), VELOCITY)
        yield from self.same(f"{group}.final_latents", steps[-1].after, LATENTS)
        decoded = steps[-1].after / model.config.vae.scaling_factor
        yield from self.same(f"{group}.final_latents_over_scale", decoded, LATENTS)


def _norm(name: str, found: Tensor | None, expected: float) -> Check:
    if expected >= 0 and found is not None:
        return compare_norm(name, float(found.norm()), expected, GRADIENT)
    frozen = expected < 0 and found is None
    return Check(name, 0.0 if frozen else float("inf"), 0.0, "frozen" if found is None else "has a gradient")


def _build(settings: Mapping[str, Any], folder: Path) -> OpenUniModel:
    model = OpenUniModel(_config(settings)).eval()
    model.transformer.requires_grad_(not settings["freeze"]["transformer"])
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("vae.")}
    weights = folder / "weights.safetensors"
    load_strict(published_state(state), weights, lambda name: None if name.startswith("vae.") else name)
    return model


def _pick(kind: type[Kind], *values: Mapping[str, Any], **changes: Any) -> Kind:
    found = {name: value for each in values for name, value in known_fields(each, kind).items()}
    return msgspec.convert({**found, **changes}, kind)


def _config(settings: Mapping[str, Any]) -> OpenUniConfig:
    side, channels = settings["generation"]["latent_size"], settings["sana"]["in_channels"]
    # Positions are rotations, so the published model does not mind prompts longer than this says.
    positions = max(settings["llm"]["max_position_embeddings"], settings["max_length"] + settings["num_queries"])
    return OpenUniConfig(
        queries=settings["num_queries"],
        image_size=side,
        image_context_id=settings["token_ids"]["img_context"],
        merge=round(1 / settings["downsample_ratio"]),
        vit_input_size=settings.get("vit_input_size"),
        proj_type=settings.get("proj_type", "enc_proj"),
        max_prompt=settings["max_length"],
        activation_checkpointing=False,
        language=_pick(LanguageSizes, settings["llm"], max_position_embeddings=positions),
        vision=_pick(VisionSizes, settings["vision"]),
        connector=_pick(ConnectorSizes, settings["connector"]),
        sana=_pick(SanaSizes, settings["sana"]),
        vae=_stand_in(channels, settings["vae_scaling_factor"]),
        flow=_pick(FlowSettings, settings["inference_scheduler"], settings["train_scheduler"]),
    )


def _stand_in(channels: int, scaling_factor: float) -> AutoencoderSizes:
    """The least autoencoder with these latents; the recording has none."""
    return AutoencoderSizes(
        latent_channels=channels,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(channels,),
        decoder_block_out_channels=(channels,),
        encoder_layers_per_block=(1,),
        decoder_layers_per_block=(1,),
        encoder_qkv_multiscales=((),),
        decoder_qkv_multiscales=((),),
        scaling_factor=scaling_factor,
    )
