"""Compare this room with tensors recorded from the published BAGEL and RecA code.

Sizes, samples, runs and settings are all read from the folder; its README describes the format. Layouts are packed
afresh from raw texts, pictures and draws, and compared with the recorded ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reca.models.autoencoder import published_state
from reca.models.bagel import files, flow, vision
from reca.models.bagel.config import Guidance, ImageRule
from reca.models.bagel.context import Context, Reader
from reca.models.bagel.images import fitted_size, normalised, resize
from reca.models.bagel.model import BagelModel
from reca.models.bagel.network import Predictions
from reca.models.bagel.packing import MODES, Dropped, Marks, Picture, Split, Text, grid_positions, pack, visible
from reca.models.bagel.recorded import recorded_config, resize_cases
from reca.models.checkpoint import load_strict
from reca.models.finite import Watch
from reca.models.parity import Check, Recording, compare, compare_norm
from reca.models.settings import read_json

FORWARD = 1.5e-5
RELATIVE = 1e-5
"""Forward tensors may differ by FORWARD + RELATIVE * |value|."""
LOSS = 1e-6
GRADIENT = 2e-5
SAMPLING = 3e-5
VAE = 3e-5
TABLE = 1e-6

TEXT_DROPOUT, PICTURE_DROPOUT = 0.1, 0.3
"""Draws below these leave a condition out (the release's `text_cond_dropout_prob`, `vae_...` and `vit_...`)."""


def recognises(config: Mapping[str, Any]) -> bool:
    """Whether a reference folder is BAGEL's."""
    return {"bagel", "llm", "vit", "vae", "batches"} <= set(config)


def check(folder: Path) -> Iterator[Check]:
    """Compare every quantity of a reference folder."""
    yield from _Case(folder).run()


class _Case(Recording):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.norms = read_json(folder / "grad_norms.json")
        self.sizes = resize_cases(folder / "resize_cases.json")
        special = self.settings["special"]
        begin, end = special["bos_token_id"], special["eos_token_id"]
        self.marks = Marks(begin, end, special["start_of_image"], special["end_of_image"])
        self.model = BagelModel(recorded_config(self.settings, folder)).eval()
        self.network = self.model.network
        self.computed_tables = {
            name: value.clone() for name, value in files.network_tensors(self.network).items() if "pos_embed." in name
        }
        load_strict(files.network_tensors(self.network), folder / "weights.safetensors")
        load_strict(published_state(self.model.vae.autoencoder), folder / "vae_weights.safetensors")

    def run(self) -> Iterator[Check]:
        with torch.no_grad():
            for name, table in self.computed_tables.items():
                yield compare(f"{name}, computed", table, files.network_tensors(self.network)[name], TABLE)
            yield from self.resizes()
            yield from self.autoencoder()
            yield from self.sampling()
            yield from self.text_generation()
        for settings in self.settings["batches"]:
            yield from _BatchCheck(self, settings).run()
        yield from self.trace()

    def forward(self, name: str, found: Tensor) -> Check:
        """Difference against the forward limit; scaled so that the limit reads as the absolute one."""
        expected = self.outputs[name]
        if found.shape != expected.shape or not expected.is_floating_point():
            return compare(name, found, expected, FORWARD)
        scaled = (found.detach() - expected).double().abs() / (1 + RELATIVE / FORWARD * expected.double().abs())
        return Check(name, float(scaled.max()) if scaled.numel() else 0.0, FORWARD, "absolute / (1 + 2/3 |value|)")

    def near(self, name: str, found: Tensor, limit: float = 0.0) -> Check:
        return compare(name, found, self.outputs[name], limit)

    def resizes(self) -> Iterator[Check]:
        wrong = 0
        for case in self.sizes:
            rule = ImageRule(case["max_size"], case["min_size"], case["stride"], case["max_pixels"])
            width, height = case["in_wh"]
            wrong += fitted_size(width, height, rule, case["img_num"]) != tuple(case["out_wh"])
        yield Check(f"resize_cases.json, {len(self.sizes)} cases", wrong, 0, "sizes that differ")
        for name in [name for name in self.inputs if name.startswith("resize.stride")]:
            stride, longest, shortest = (int(part.lstrip("stridemaxn")) for part in name.split(".")[1].split("_"))
            picture = resize(self.inputs["resize.uint8"].numpy(), ImageRule(longest, shortest, stride))
            found = normalised(torch.from_numpy(picture.copy())).permute(2, 0, 1)
            yield compare(name, found, self.inputs[name], TABLE)

    def autoencoder(self) -> Iterator[Check]:
        vae, image = self.model.vae, self.inputs["vae.image"]
        yield self.near("vae.encoder_moments", vae.autoencoder.encoder(image), VAE)
        mean, deviation = vae.moments(image)
        yield self.near("vae.latent_mean", mean, VAE)
        yield self.near("vae.latent_sampled", mean + deviation * self.inputs["vae.posterior_noise"], VAE)
        yield self.near("vae.decoded", vae.decode(self.inputs["vae.latent_to_decode"]), VAE)
        yield self.near("vae.roundtrip_mean", vae.decode(mean), VAE)

    @property
    def reader(self) -> Reader:
        return Reader(self.network, self.marks)

    def seen(self, context: Context) -> Context:
        return self.reader.seen(context, self.model.features(self.inputs["sample.vit_uint8"].permute(2, 0, 1)[None]))

    def contexts(self) -> tuple[Context, Context, Context]:
        """Of an edit: with everything, without text, without pictures."""
        patch, latent = self.model.config.latent_patch_size, self.inputs["sample.cond_latent"]
        tokens = vision.to_patches(latent, patch)
        text, empty = [self.inputs["sample.text_ids"].tolist()], self.reader.empty(1)
        both = self.seen(self.reader.latents(empty, tokens, latent.shape[3] // patch))
        return self.reader.text(both, text), both, self.reader.text(empty, text)

    def sampling(self) -> Iterator[Check]:
        settings, full = self.settings["samp"], self.contexts()
        pixels = normalised(self.inputs["sample.vit_uint8"]).permute(2, 0, 1)
        yield compare("sample.vit_image", pixels, self.inputs["sample.vit_image"], TABLE)
        sizes = [[int(context.valid.sum()), int(context.position)] for context in full]
        yield self.near("sample.edit.kv_len_rope", torch.tensor(sizes))
        order = self.sequence_order()
        for layer, pair in enumerate(zip(full[0].keys, full[0].values, strict=True)):
            for name, found in zip(("k_cache", "v_cache"), pair, strict=True):
                yield self.forward(f"sample.edit.{name}.{layer}", found[0, order])
        times = flow.time_grid(settings["steps"] - 1, settings["shift"])
        yield self.forward("sample.timesteps", times)
        empty = self.reader.empty(1)
        for name, run in settings["runs"].items():
            contexts = full if name.startswith("edit") else (full[2], empty, full[2])
            yield from self.sampled(f"sample.{name}", run, contexts, times)

    def sequence_order(self) -> Tensor:
        """Rows of the full context's cache in sequence order; a picture is cached as both marks, then its tokens."""
        latent, patch = self.inputs["sample.cond_latent"], self.model.config.latent_patch_size
        pixels, side = self.inputs["sample.vit_uint8"], self.model.config.vision.patch_size
        counts = (latent.shape[2] * latent.shape[3] // patch**2, pixels.shape[0] * pixels.shape[1] // side**2)
        order: list[int] = []
        for count in counts:
            start = len(order)
            order += [start, *range(start + 2, start + 2 + count), start + 1]
        return torch.tensor([*order, *range(len(order), len(order) + len(self.inputs["sample.text_ids"]) + 2)])

    def sampled(self, name: str, run: Mapping[str, Any], contexts: Sequence[Context], times: Tensor) -> Iterator[Check]:
        rows, columns = (size // self.model.config.token_pixels for size in self.settings["samp"]["hw"])
        guidance = Guidance(
            text=run["cfg_text_scale"],
            image=run["cfg_img_scale"],
            interval=tuple(run["cfg_interval"]),
            renorm=run["cfg_renorm_type"],
            renorm_min=run["cfg_renorm_min"],
        )

        def velocity(context: Context) -> flow.Velocity:
            return lambda tokens, now: self.reader.velocity(context, tokens, now, columns)

        noise = self.inputs["sample.init_noise"][None]
        found = list(flow.sample([velocity(context) for context in contexts], noise, times, guidance))
        steps = [step for step in found if isinstance(step, flow.Step)]
        final = [step for step in found if isinstance(step, Tensor)][-1]
        yield self.near(f"{name}.x_t", torch.cat([*(step.state for step in steps), final]), SAMPLING)
        yield self.near(f"{name}.v_guided", torch.cat([step.velocity for step in steps]), SAMPLING)
        raw = [each for step in steps for each in step.raw]
        yield self.near(f"{name}.v_raw_all_calls", torch.cat(raw), SAMPLING)
        yield self.near(f"{name}.final_latent_tokens", final[0], SAMPLING)
        latent = vision.from_patches(final, rows, columns, self.model.config.latent_patch_size)
        yield self.near(f"{name}.final_latent", latent, SAMPLING)

    def text_generation(self) -> Iterator[Check]:
        if "generate_text.ids" in self.outputs:
            context = self.reader.text(self.seen(self.reader.empty(1)), [self.inputs["sample.text_ids"].tolist()])
            ids, logits = self.reader.greedy(context, len(self.outputs["generate_text.ids"]), Watch("bagel"))
            fed = torch.cat([torch.tensor([self.marks.begin]), ids[0, :-1]])
            yield self.near("generate_text.ids", fed)
            yield self.forward("generate_text.logits", logits[0])

    def prepare(self, mode: str) -> dict[str, nn.Parameter]:
        """Set up a gradient mode; returns what is trainable in it by published name."""
        self.model.config = replace(self.model.config, freeze_understanding=mode == "reca")
        fixed = ("vit_pos_embed.", "latent_pos_embed.") + (("vit_model.", "connector.") if mode == "reca" else ())
        named = {files.network_name(name): value for name, value in self.network.named_parameters()}
        for name, parameter in named.items():
            parameter.requires_grad_(not name.startswith(fixed))
            parameter.grad = None
        return {name: parameter for name, parameter in named.items() if parameter.requires_grad}

    def trace(self) -> Iterator[Check]:
        """Optimizer trace: linear warm-up from 0, clipping, AdamW, moving average."""
        settings = self.settings["trace"]
        batch = _BatchCheck(self, next(each for each in self.settings["batches"] if each["name"] == "reca"))
        parameters = self.prepare("reca")
        start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        average = {name: value.clone() for name, value in start.items()}
        optimizer = torch.optim.AdamW(
            parameters.values(),
            lr=settings["lr"],
            betas=(settings["beta1"], settings["beta2"]),
            eps=settings["eps"],
            weight_decay=0.0,
        )
        lines: list[tuple[float, float, float]] = []
        for step in range(settings["steps"]):
            rate = settings["lr"] * min(1.0, step / max(1, settings["warmup"]))
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            loss = batch.losses()["total_loss"]
            loss.backward()
            norm = nn.utils.clip_grad_norm_(parameters.values(), settings["clip"])
            optimizer.step()
            lines.append((loss.item(), norm.item(), rate))
            for name, parameter in parameters.items():
                average[name].lerp_(parameter.detach(), 1 - settings["ema"])
        for name, found in zip(("loss", "grad_norm", "lr"), torch.tensor(lines).double().T, strict=True):
            yield self.relative(f"trace.{name}", found, GRADIENT)
        for name in [name for name in self.outputs if name.startswith(("trace.param.", "trace.ema."))]:
            kind, parameter = name.removeprefix("trace.").split(".", 1)
            found = parameters[parameter].detach() if kind == "param" else average[parameter]
            yield self.relative(name, found, GRADIENT)
        yield from self.changes(parameters, start)

    def changes(self, parameters: Mapping[str, nn.Parameter], start: Mapping[str, Tensor]) -> Iterator[Check]:
        """Norms of what the trace changed; where nothing changed, not one bit may differ."""
        checks = list[Check]()
        for name, expected in self.norms["trace_delta"].items():
            moved = parameters[name].detach() - start[name] if name in start else torch.zeros(())
            checks.append(gradient_norm(name, moved, expected))
        yield worst("grad_norms.json trace_delta", checks)
        frozen = [name for name in parameters if name not in files.generation_side(parameters)]
        moved = sum(not torch.equal(parameters[name], start[name]) for name in frozen)
        yield Check("trace: understanding parameters", moved, 0, "tensors that changed")

    def relative(self, name: str, found: Tensor, limit: float) -> Check:
        expected = self.outputs[name]
        result, largest = compare(name, found.to(expected.dtype), expected, limit), float(expected.abs().max())
        return replace(result, error=result.error / max(largest, 1e-30), note="of the largest value")


class _BatchCheck:
    """One recorded training batch."""

    def __init__(self, case: _Case, settings: Mapping[str, Any]) -> None:
        self.case, self.name, self.shift = case, settings["name"], settings["timestep_shift"]
        self.model, self.network = case.model, case.network
        start = f"{self.name}."
        self.given = {name.removeprefix(start): value for name, value in case.inputs.items() if name.startswith(start)}
        config = self.model.config
        self.patches = list[Tensor]()
        self.seen = list[Picture]()
        self.layout = pack(self.samples(), case.marks, config.seen_side, config.max_latent_size)
        none = torch.zeros(0, config.token_values)
        self.noise, self.clean, self.logits = self.given.get("noise", none), none, none[:, 0]
        if self.layout.latent_grids:
            self.clean, self.logits = self.latents(), self.times()

    def samples(self) -> list[list[Split]]:
        """Splits of every sample from raw pictures, texts, latents and draws, in the order of the README.

        A sample without a picture to draw has no draws, and its order is that of the recorded splits.
        """
        counts = self.given["splits_per_sample"].tolist()
        modes = self.given["attn_modes"].split(counts)
        starts = (self.given["split_lens"].cumsum(0) - self.given["split_lens"]).split(counts)
        grids = iter(self.given["patchified_vae_latent_shapes"].tolist() if "noise" in self.given else [])
        draws = iter(self.given["dropout_draws"].tolist())
        drawn = [MODES["noise"] in each for each in modes]
        # An edit draws for its pictures too, other samples for their texts only.
        texts = sum(len(self.named(f"text_ids.{number}.")) for number, each in enumerate(drawn) if each)
        editing = len(self.given["dropout_draws"]) > texts
        return [
            self.drawn(number, grids, draws, editing) if each else self.told(number, modes[number], starts[number])
            for number, each in enumerate(drawn)
        ]

    def told(self, number: int, modes: Tensor, starts: Tensor) -> list[Split]:
        """Understanding: pictures and texts; the scored ones are those whose opening mark is."""
        pictures = iter(self.named(f"vit_uint8.{number}."))
        texts = iter(self.named(f"text_ids.{number}."))
        scored = set(self.given["ce_loss_indexes"].tolist() if "ce_loss_indexes" in self.given else [])
        return [
            self.picture(self.given[next(pictures)])
            if mode == MODES["full"]
            else Text(self.given[next(texts)].tolist(), scored=start in scored)
            for mode, start in zip(modes.tolist(), starts.tolist(), strict=True)
        ]

    def drawn(self, number: int, grids: Iterator[list[int]], draws: Iterator[float], editing: bool) -> list[Split]:
        """Conditions as far as the draws leave them, and the picture to draw."""
        texts = [self.given[name].tolist() for name in self.named(f"text_ids.{number}.")]
        splits = list[Split]()
        if editing:
            splits.append(Dropped() if next(draws) < PICTURE_DROPOUT else Picture("clean", *next(grids)))
        for name in self.named(f"vit_uint8.{number}."):
            gone = editing and next(draws) < PICTURE_DROPOUT
            splits.append(Dropped() if gone else self.picture(self.given[name]))
        kept = [Text(ids) for ids in texts if next(draws) >= TEXT_DROPOUT]
        return [*splits, *kept, Picture("noised", *next(grids))]

    def picture(self, pixels: Tensor) -> Picture:
        side = self.model.config.vision.patch_size
        rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
        self.patches.append(vision.to_patches(normalised(pixels).permute(2, 0, 1)[None], side))
        self.seen.append(Picture("seen", rows, columns))
        return self.seen[-1]

    def named(self, start: str) -> list[str]:
        found = [name for name in self.given if name.startswith(start)]
        return sorted(found, key=lambda name: int(name.rpartition(".")[2]))

    def latents(self) -> Tensor:
        patch = self.model.config.latent_patch_size
        parts = zip(self.given["padded_latent"], self.layout.latent_grids, strict=True)
        cut = [latent[None, :, : rows * patch, : columns * patch] for latent, (rows, columns) in parts]
        return torch.cat([vision.to_patches(each, patch)[0] for each in cut])

    def times(self) -> Tensor:
        """Time logits of pictures of latent tokens: the next draw for noised ones, -inf for clean ones."""
        draws = iter(self.given["timestep_draws"].float())
        last = torch.tensor([rows * columns for rows, columns in self.layout.latent_grids]).cumsum(0) - 1
        noised = self.layout.scored[last].tolist()
        return torch.stack([next(draws) if each else torch.tensor(float("-inf")) for each in noised])

    def run(self) -> Iterator[Check]:
        """Layout, forward tensors, losses, gradients."""
        yield from self.layouts()
        self.case.prepare("all")
        with torch.no_grad():
            yield from self.forward()
        for mode in self.case.norms[self.name]:
            yield from self.gradients(mode)

    def layouts(self) -> Iterator[Check]:
        layout, given = self.layout, self.given
        lengths = {
            "sample_lens": layout.lengths,
            "split_lens": layout.split_lengths,
            "attn_modes": layout.split_modes,
            "splits_per_sample": layout.splits_per_sample,
            "vit_token_seqlens": layout.seen_lengths,
            "patchified_vae_latent_shapes": layout.latent_grids,
        }
        found = {name: torch.tensor(value) for name, value in lengths.items()}
        found |= {
            "packed_text_ids": layout.text_ids,
            "packed_text_indexes": layout.text_index,
            "packed_position_ids": layout.positions,
            "packed_vit_token_indexes": layout.seen_index,
            "packed_vit_position_ids": layout.seen_positions,
            "packed_vit_tokens": torch.cat([torch.zeros(0), *(patches[0] for patches in self.patches)]),
            "packed_vae_token_indexes": layout.latent_index,
            "packed_latent_position_ids": layout.latent_positions,
            "packed_timesteps": self.logits[layout.latent_picture],
            "mse_loss_indexes": layout.latent_index[layout.scored],
            "ce_loss_indexes": layout.text_index[layout.label_rows],
            "packed_label_ids": layout.labels,
            "ce_loss_weights": layout.label_weights,
        }
        starts = torch.tensor([0, *layout.lengths]).cumsum(0).tolist()
        for number, length in enumerate(layout.lengths):
            rows = slice(starts[number], starts[number] + length)
            found[f"mask.{number}"] = visible(layout.block[rows], layout.noised[rows])
        for name, value in found.items():
            if name in given:
                infinite = (value == given[name]) & value.isinf()
                expected = given[name].masked_fill(infinite, 0.0)
                yield compare(f"{self.name}.{name}", value.masked_fill(infinite, 0.0), expected, TABLE)

    def features(self) -> list[Tensor]:
        """Features [P, D] of each seen picture; every picture is run by itself."""
        side = self.model.config.seen_side
        pairs = zip(self.patches, self.seen, strict=True)
        return [
            self.network.vit_model(patches, grid_positions(grid.rows, grid.columns, side))[0] for patches, grid in pairs
        ]

    def in_sequence(self, und: Tensor, gen: Tensor) -> Tensor:
        """States [S, E] in sequence order."""
        both = torch.cat([und, gen])
        return torch.empty_like(both).index_copy(0, self.layout.expert_order, both)

    def predictions(self) -> Predictions:
        self.model.config = replace(self.model.config, timestep_shift=self.shift)
        features = torch.cat([torch.zeros(0, self.model.config.vision.hidden_size), *self.features()])
        return self.model.predict(self.layout, features, self.clean, self.noise, self.logits)

    def losses(self) -> dict[str, Tensor]:
        """Losses by recorded name, their parts and what they are made of."""
        found = self.predictions()
        values: dict[str, Tensor] = {}
        parts = list[Tensor]()
        if len(found.velocity):
            error = (found.velocity - found.target).square()
            values |= {"velocity_pred": found.velocity, "velocity_target": found.target, "mse_per_channel": error}
            values |= {"mse_per_token": error.mean(dim=1), "mse_loss": error.mean(dim=1).sum() / len(error)}
            parts.append(values["mse_loss"])
        if len(found.answers):
            each, weights = functional.cross_entropy(found.answers, self.layout.labels, reduction="none"), self.layout
            values |= {"ce_logits": found.answers, "ce_per_token": each, "ce_loss": each.sum() / len(each)}
            values["ce_loss_reweighted"] = (each * weights.label_weights).sum() / weights.label_weights.sum()
            parts.append(values["ce_loss"])
        return {**values, "total_loss": torch.stack(parts).sum()}

    def forward(self) -> Iterator[Check]:
        layers, model = list[Tensor](), self.network.language_model.model
        hooks = [
            layer.register_forward_hook(lambda _module, _inputs, found: layers.append(self.in_sequence(*found)))
            for layer in model.layers
        ]
        found = self.losses()
        for hook in hooks:
            hook.remove()
        found |= {f"hidden_after_layer.{number}": states for number, states in enumerate(layers)}
        found |= self.embedded()
        for name, value in found.items():
            if f"{self.name}.{name}" in self.case.outputs:
                yield self.check(f"{self.name}.{name}", value)

    def check(self, name: str, value: Tensor) -> Check:
        return self.case.relative(name, value, LOSS) if value.ndim == 0 else self.case.forward(name, value)

    def embedded(self) -> dict[str, Tensor]:
        """Everything between the inputs and the first layer, and the final states."""
        layout, network = self.layout, self.network
        hidden = torch.cat([torch.zeros(0, self.model.config.vision.hidden_size), *self.features()])
        times = flow.shifted(self.logits.sigmoid(), self.shift)
        by_token = times[layout.latent_picture]
        mixed = flow.noised(self.clean, self.noise, by_token[:, None])
        inputs = network.embed_packed(layout, hidden, mixed, times)
        return {
            "vit_hidden": hidden,
            "vit_connector": network.connector(hidden),
            "vit_embed": network.embed_seen(hidden, layout.seen_positions),
            "timesteps": by_token,
            "timestep_embed": network.time_embedder(by_token),
            "latent_tokens": self.clean,
            "noised_latent_tokens": mixed,
            "llm_input": self.in_sequence(*inputs),
            "last_hidden_state": self.in_sequence(*network.packed(layout, inputs)),
        }

    def gradients(self, mode: str) -> Iterator[Check]:
        parameters = self.case.prepare(mode)
        total = self.losses()["total_loss"]
        total.backward()
        yield self.case.relative(f"{self.name}.total_loss", total, LOSS)
        start, found = f"{self.name}.grad_{mode}.", {name: value.grad for name, value in parameters.items()}
        norm = nn.utils.get_total_norm([value for value in found.values() if value is not None])
        for name in [name.removeprefix(start) for name in self.case.outputs if name.startswith(start)]:
            kind, _, parameter = name.partition(".")
            if name == "total_norm":
                yield compare_norm(start + name, float(norm), float(self.case.outputs[start + name]), GRADIENT)
            elif kind == "norm":
                yield gradient_norm(start + name, found[parameter], float(self.case.outputs[start + name]))
            else:
                gradient, expected = found[parameter], self.case.outputs[start + name]
                yield self.case.relative(start + name, expected * 0 if gradient is None else gradient, GRADIENT)
        checks = list[Check]()
        for parameter, expected in self.case.norms[self.name][mode].items():
            check = gradient_norm(parameter, found.get(parameter), expected or 0.0)
            if expected and parameter.startswith("vit_model.") and parameter.endswith("k_proj.bias"):
                # A softmax does not see a vector added to all keys, so this gradient is 0 but for rounding.
                weight = self.case.norms[self.name][mode][parameter.removesuffix("bias") + "weight"]
                gradient = found[parameter]
                largest = max(expected, 0.0 if gradient is None else float(gradient.norm()))
                check = Check(parameter, largest / weight, GRADIENT, "of its weight's; 0 but for rounding")
            checks.append(check)
        yield worst(f"grad_norms.json {self.name}.{mode}", checks)


def worst(name: str, checks: Sequence[Check]) -> Check:
    """The worst of many checks under one name."""
    bad = max(checks, key=lambda check: (not check.ok, check.error / (check.limit or 1.0)))
    return replace(bad, quantity=name, note=f"{bad.note}; worst of {len(checks)}: {bad.quantity}")


def gradient_norm(name: str, found: Tensor | None, expected: float) -> Check:
    """Relative error of the norm of a gradient, float of any shape, or None for none; where `expected` is 0 there must
    be no gradient at all, or one of zeros.
    """
    size = 0.0 if found is None else float(found.double().norm())
    return compare_norm(name, size, expected, GRADIENT) if expected else Check(name, size, 0.0, "norm, must be 0")
