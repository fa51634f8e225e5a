"""GenEval scoring on a CPU: our judge against a plain loop over the same weights in the library's networks.

The plain loop does what the official scripts do: every mask is brought to the picture's size, every object goes through
CLIP by itself. Networks have the published sizes and random weights; the "nothing" class is biased so that about ten
pairs of query and class are candidates, as on real pictures. Goal: 1.3.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import harness
import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate
from transformers import CLIPConfig, CLIPModel, Mask2FormerConfig, SwinConfig

from reca.evaluation.class_words import read_names
from reca.evaluation.colors import ColorReader, cutout
from reca.evaluation.deformable import LibraryAttention
from reca.evaluation.detector import Detector, DetectorNetwork, Found, fitted, padded, tight_boxes
from reca.evaluation.geneval import Options, Prompt, Requirement
from reca.evaluation.geneval import judge as verdict
from reca.evaluation.geneval_benchmark import Sighting, detections
from reca.evaluation.geneval_judge import GenEvalJudge, to_color

SIDE = 512
REPEATS = 5
PAIRS = 10
"""Candidates of a picture that the bias is set for."""

PROMPTS = (
    Prompt("single_object", "", (Requirement("person", 1),)),
    Prompt("counting", "", (Requirement("person", 2),), (Requirement("person", 3),)),
    Prompt("two_object", "", (Requirement("person", 1), Requirement("car", 1))),
    Prompt("colors", "", (Requirement("person", 1, color="red"),)),
)


def library_network(network: DetectorNetwork) -> DetectorNetwork:
    """The same weights with every module as transformers writes it."""
    plain = copy.deepcopy(network)
    for layer in plain.model.pixel_level_module.decoder.encoder.layers:
        ours = cast("Any", layer).self_attn
        layer.self_attn = LibraryAttention(ours.d_model, ours.n_heads, ours.n_levels, ours.n_points)
        layer.self_attn.load_state_dict(ours.state_dict())
    return plain.eval()


class Words:
    """Token ids of the right length; which ones does not matter for the time."""

    def __call__(self, texts: Sequence[str], **_: object) -> dict[str, torch.Tensor]:
        """Ids and mask, int64 [B, 12]."""
        ids = torch.full((len(texts), 12), 5)
        ids[:, -1] = 49407
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def build_judge() -> GenEvalJudge:
    """Mask2Former Swin-S and CLIP ViT-L/14 with random weights."""
    torch.manual_seed(0)
    swin = cast("Any", SwinConfig)(
        embed_dim=96,
        depths=[2, 2, 18, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    detector = Detector(DetectorNetwork(cast("Any", Mask2FormerConfig)(backbone_config=swin, num_labels=80)))
    clip = CLIPConfig(
        text_config={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 14,
        },
        projection_dim=768,
    )
    return GenEvalJudge(detector, ColorReader(CLIPModel(clip), Words()), read_names())


@torch.no_grad()
def set_bias(judge: GenEvalJudge, picture: Image.Image) -> None:
    """Make about `PAIRS` queries see the first class, with probabilities from 0.7 up, and most others nothing.

    Args:
        judge: its detector's class head is changed in place.
        picture: RGB; the bias fits this one alone.
    """
    head, pixels = judge.detector.network.class_predictor, padded(fitted(picture)[None])
    head.weight[-1] = 0
    head.weight[0] *= 8 / float(judge.detector.network(pixels)[0][0, :, 0].std())
    head.bias[0] -= judge.detector.network(pixels)[0][0, :, 0].sort(descending=True).values[PAIRS] - 20
    head.bias[-1] = 19


@torch.inference_mode()
def plain_loop(
    judge: GenEvalJudge, network: DetectorNetwork, prompts: Sequence[Prompt], pictures: Sequence[Image.Image]
) -> list[list[Sighting]]:
    """What the judge sees, found one picture, one mask stack, one object at a time.

    Args:
        judge: class words and colour reader.
        network: detector with the library's modules.
        prompts: one for each picture.
        pictures: RGB.
    """
    seen: list[list[Sighting]] = []
    for prompt, picture in zip(prompts, pictures, strict=True):
        pixels = fitted(picture)
        batch = padded(pixels[None])
        classes, masks = network(batch)
        probabilities = classes[0].softmax(dim=-1)[:, :-1]
        best, places = probabilities.flatten().topk(100)
        whole = interpolate(masks, size=batch.shape[-2:], mode="bilinear", align_corners=False)
        inside = whole[..., : pixels.shape[1], : pixels.shape[2]]
        own = interpolate(inside, size=picture.size[::-1], mode="bilinear", align_corners=False)[0]
        own = own[places // probabilities.shape[1]]
        binary = own > 0
        means = (own.sigmoid() * binary).flatten(1).sum(1) / (binary.flatten(1).sum(1) + 1e-6)
        found = Found(places % probabilities.shape[1], best * means, tight_boxes(binary), binary)
        rows = [
            Sighting(judge.names[label], (box[0], box[1], box[2], box[3]), score)
            for label, box, score in zip(
                found.labels.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True
            )
        ]
        for number in to_color(prompt, rows, Options()):
            logits = judge.colors([cutout(picture, rows[number].box, found.masks[number])], [rows[number].name])
            rows[number] = Sighting(rows[number].name, rows[number].box, rows[number].score, tuple(logits[0].tolist()))
        seen.append(rows)
    return seen


def main() -> None:
    """Measure both judges in turn, compare their verdicts, and write the table.

    Raises:
        SystemExit: the verdicts differ.
    """
    torch.set_num_threads(1)
    where = harness.machine(("torch", "transformers", "numpy", "Pillow"))
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    # One picture for all prompts: the bias fits this one, and random networks see something else in any other.
    pictures = [Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC)] * len(PROMPTS)
    judge = build_judge()
    set_bias(judge, pictures[0])
    network = library_network(judge.detector.network)

    def timed(work: Callable[[], Sequence[Sequence[Sighting]]]) -> float:
        begin = harness.cpu_seconds()
        rows = work()
        print([sum(s.score > Options().threshold for s in row) for row in rows], flush=True)
        spent = harness.cpu_seconds() - begin
        verdicts.append([verdict(prompt, detections(row)).correct for prompt, row in zip(PROMPTS, rows, strict=True)])
        return len(pictures) / spent

    verdicts: list[list[bool]] = []
    comparison = harness.interleave(
        {
            "plain loop": lambda: timed(lambda: plain_loop(judge, network, PROMPTS, pictures)),
            "our judge": lambda: timed(lambda: judge.see(PROMPTS, pictures)),
        },
        REPEATS,
        "pictures per CPU-second",
    )
    if any(rows != verdicts[0] for rows in verdicts):
        raise SystemExit(f"the two sides decide differently: {verdicts}")
    harness.write_results(
        "geneval_judge",
        "GenEval scoring: our judge against a plain loop over the library's networks",
        comparison,
        [("our judge", "plain loop", "at least 1.3")],
        where,
        f"One picture of {SIDE} px under {len(PROMPTS)} prompts, one of them with a colour to read, one torch thread. "
        "Both sides have the same weights and reach the same verdicts; the plain loop runs transformers' modules as "
        "they are, our judge another form of the pixel decoder's attention. Mask2Former Swin-S at mmdet's scale and "
        "CLIP ViT-L/14, float32, random weights. "
        "Figures are per CPU-second, which other work on the machine hardly moves.",
    )


if __name__ == "__main__":
    main()
