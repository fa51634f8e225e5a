"""The detector: reading raw logits against plain loops, scales, batches, NaN, and what loading refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_judges import save_detector
from torch import Tensor
from torch.nn import functional

from reca.evaluation.detector import Detector, DetectorNetwork, fitted, padded, read_logits, tight_boxes
from reca.evaluation.records import BenchmarkError

SIZES = ((64, 96), (60, 90), (20, 30))


def logits(seed: int, queries: int = 7, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, queries, 4, 6, generator=generator) * 3
    masks = functional.interpolate(coarse, size=(16, 24), mode="bilinear")[0]
    return torch.randn(queries, classes + 1, generator=generator) * 2, masks


def plain_reading(class_logits: Tensor, mask_logits: Tensor) -> list[tuple[int, float, list[float]]]:
    """Every pair of query and class by itself, in mmdet's words; boxes by looking at every pixel."""
    rows: list[tuple[int, float, list[float]]] = []
    whole = functional.interpolate(mask_logits[None], size=SIZES[0], mode="bilinear", align_corners=False)
    own = functional.interpolate(
        whole[:, :, : SIZES[1][0], : SIZES[1][1]], size=SIZES[2], mode="bilinear", align_corners=False
    )[0]
    for query in range(len(class_logits)):
        probabilities = torch.exp(class_logits[query]) / torch.exp(class_logits[query]).sum()
        inside = [(x, y) for y in range(SIZES[2][0]) for x in range(SIZES[2][1]) if own[query, y, x] > 0]
        mean = sum(float(torch.sigmoid(own[query, y, x])) for x, y in inside) / (len(inside) + 1e-6)
        xs, ys = [x for x, _ in inside] or [0], [y for _, y in inside] or [0]
        past = 1.0 if inside else 0.0
        box = [float(min(xs)), float(min(ys)), max(xs) + past, max(ys) + past]
        rows += [(label, float(probabilities[label]) * mean, box) for label in range(class_logits.shape[1] - 1)]
    return sorted(rows, key=lambda row: -row[1])


@pytest.mark.parametrize("seed", range(4))
def test_raw_logits_are_read_as_by_plain_loops(seed: int) -> None:
    class_logits, mask_logits = logits(seed)
    found = read_logits(class_logits, mask_logits, SIZES, floor=0.02)
    expected = [row for row in plain_reading(class_logits, mask_logits) if row[1] > 0.02]
    assert len(expected) > 5
    assert found.labels.tolist() == [label for label, _, _ in expected]
    torch.testing.assert_close(found.scores, torch.tensor([score for _, score, _ in expected]), rtol=1e-5, atol=1e-6)
    assert found.boxes.tolist() == [box for _, _, box in expected]
    assert [tight_boxes(mask[None])[0].tolist() for mask in found.masks] == found.boxes.tolist()


def test_only_the_best_hundred_pairs_count() -> None:
    class_logits, mask_logits = logits(0, queries=30, classes=20)
    found = read_logits(class_logits, mask_logits + 10, SIZES, floor=0.0)
    assert len(found.labels) == 100
    assert (found.scores.diff() <= 0).all()


@pytest.mark.parametrize("broken", ["class", "mask"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_give_nothing(broken: str, value: float) -> None:
    class_logits, mask_logits = logits(1)
    (class_logits if broken == "class" else mask_logits).view(-1)[3] = value
    found = read_logits(class_logits, mask_logits, SIZES, floor=0.1)
    assert not found.finite
    assert len(found.scores) == 0


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 512), (800, 800)), ((1024, 512), (667, 1333)), ((300, 1000), (1333, 400)), ((640, 480), (800, 1067))],
)
def test_pictures_are_resized_to_mmdets_scale(size: tuple[int, int], expected: tuple[int, int]) -> None:
    pixels = fitted(Image.new("RGB", size, (124, 116, 104)))
    assert pixels.shape == (3, *expected)
    assert pixels.abs().max() < 0.02
    shape = padded(pixels[None]).shape[-2:]
    assert all(side % 32 == 0 and 0 <= side - inner < 32 for side, inner in zip(shape, expected, strict=True))


def noise_pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def test_a_batch_of_mixed_sizes_equals_one_by_one(tmp_path: Path) -> None:
    detector = Detector.load(str(save_detector(tmp_path, classes=3)), scale=(96, 64))
    pictures = noise_pictures((40, 40), (64, 64), (50, 30), (25, 25))
    together = detector(pictures)
    for picture, found in zip(pictures, together, strict=True):
        (alone,) = detector([picture])
        assert len(found.scores) > 0
        assert found.masks.shape[1:] == picture.size[::-1]
        assert found.labels.tolist() == alone.labels.tolist()
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.boxes, alone.boxes)


def test_a_network_with_broken_weights_is_noticed(tmp_path: Path) -> None:
    detector = Detector.load(str(save_detector(tmp_path, classes=3)), scale=(96, 64))
    with torch.no_grad():
        detector.network.class_predictor.weight[0, 0] = float("nan")
    assert [found.finite for found in detector(noise_pictures((40, 40), (50, 30)))] == [False, False]


def test_loading_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no readable Mask2Former checkpoint"):
        Detector.load(str(tmp_path / "absent"))
    folder = save_detector(tmp_path / "detector", classes=3)
    network = DetectorNetwork.from_pretrained(folder)
    state = {name: value for name, value in network.state_dict().items() if not name.startswith("class_predictor")}
    network.save_pretrained(folder, state_dict=state)
    with pytest.raises(BenchmarkError, match=r"2 weights of Mask2Former are missing, such as class_predictor\.bias"):
        Detector.load(str(folder))
