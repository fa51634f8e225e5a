"""GenEval's judge: cut-outs, colours, which objects get a colour, NaN, class words; on tiny networks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_judges import save_clip, save_detector, save_names

from reca.evaluation.class_words import check_names, read_names
from reca.evaluation.colors import CAPTIONS, ColorReader, clip_pixels, cutout
from reca.evaluation.geneval import COLORS, Options, Prompt, Requirement
from reca.evaluation.geneval_benchmark import GenEval, Sighting
from reca.evaluation.geneval_judge import GenEvalJudge, to_color
from reca.evaluation.records import BenchmarkError, Item

NAMES = ("cat", "dog", "bus")


def red_cats(count: int, tag: str = "colors") -> Prompt:
    return Prompt(tag, "red cats", (Requirement("cat", count, color="red"), Requirement("dog", 1)))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> GenEvalJudge:
    folder = tmp_path_factory.mktemp("judge")
    detector, clip = save_detector(folder / "detector", classes=3), save_clip(folder / "clip")
    names = save_names(folder / "names.txt", NAMES)
    loaded = GenEvalJudge.load(str(detector), str(clip), names=str(names), scale=(96, 64))
    with torch.no_grad():
        loaded.detector.network.class_predictor.bias[0] += 3  # sees cats, with scores above GenEval's threshold
    return loaded


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)) for _ in range(count)]


def test_a_cutout_is_grey_outside_the_mask() -> None:
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[1:4, 2:7] = True
    mask[1, 2] = False
    cut = np.asarray(cutout(Image.new("RGB", (8, 6), (255, 0, 0)), (2.0, 1.0, 7.0, 4.0), mask))
    assert cut.shape == (3, 5, 3)
    assert cut[0, 0].tolist() == [0x99] * 3
    assert (cut.reshape(-1, 3)[1:] == (255, 0, 0)).all()


def test_clip_pixels_take_the_centre_of_the_shorter_side() -> None:
    picture = np.zeros((32, 96, 3), np.uint8)
    picture[:, 32:64] = 255
    pixels = clip_pixels(Image.fromarray(picture), 32)
    white = (1 - np.array((0.48145466, 0.4578275, 0.40821073))) / np.array((0.26862954, 0.26130258, 0.27577711))
    np.testing.assert_allclose(pixels[:, 16, 16].numpy(), white, rtol=1e-5)
    np.testing.assert_allclose(pixels.numpy(), np.broadcast_to(white[:, None, None], (3, 32, 32)), rtol=1e-5)


def test_colour_logits_are_a_hundred_cosines_with_the_mean_caption(judge: GenEvalJudge) -> None:
    colors, (picture,) = judge.colors, pictures(1)
    found = colors([picture, picture], ["cat", "computer mouse"])
    assert found.shape == (2, 10)
    clip, side = colors.clip, 32
    with torch.no_grad():
        image = clip.get_image_features(pixel_values=clip_pixels(picture, side)[None]).pooler_output[0]
        for color in (0, 9):
            one_by_one = []
            for caption in CAPTIONS:
                ids = colors.tokenizer(caption.format(color=COLORS[color], name="computer mouse"), return_tensors="pt")
                text = clip.get_text_features(input_ids=ids["input_ids"]).pooler_output[0]
                one_by_one.append(text / text.norm())
            mean = torch.stack(one_by_one).mean(dim=0)
            cosine = image @ mean / image.norm() / mean.norm()
            assert float(found[1, color]) == pytest.approx(100 * float(cosine), rel=1e-4)
    assert not torch.allclose(found[0], found[1])


def test_only_objects_that_the_rules_look_at_get_a_colour() -> None:
    seen = [Sighting("dog", (0, 0, 1, 1), 0.99)] + [
        Sighting("cat", (0, 0, 1, 1), score) for score in (0.4, 0.95, 0.2, 0.8)
    ]
    assert to_color(red_cats(2), seen, Options()) == {2, 4}
    assert to_color(red_cats(4), seen, Options()) == {1, 2, 4}
    assert to_color(red_cats(4, "counting"), seen, Options()) == {2}
    assert to_color(Prompt("two_object", "", (Requirement("cat", 1),)), seen, Options()) == set()


def test_a_batch_gives_sightings_that_the_rules_can_decide(judge: GenEvalJudge) -> None:
    drawn = pictures(3)
    asked = [red_cats(1), Prompt("single_object", "a bus", (Requirement("bus", 1),)), red_cats(2)]
    seen = judge.see(asked, drawn)
    alone = [judge.see([prompt], [picture])[0] for prompt, picture in zip(asked, drawn, strict=True)]
    bench = GenEval(tuple(Item(str(n), p.tag, p.prompt, p, (f"{n}.png",)) for n, p in enumerate(asked)))
    for item, row, single in zip(bench.items, seen, alone, strict=True):
        assert max(sighting.score for sighting in row) > 0.3
        assert [s.name for s in row] == [s.name for s in single]
        assert [s.logits is None for s in row] == [s.logits is None for s in single]
        assert bench.decide(item, 0, row).unscored is None
    assert any(sighting.logits is not None for sighting in seen[0])
    assert all(sighting.logits is None for sighting in seen[1])


def test_nan_logits_leave_the_picture_unscored_and_are_counted(judge: GenEvalJudge) -> None:
    prompt = red_cats(1)
    bench = GenEval((Item("0", "colors", "red cats", prompt, ("0.png", "1.png")),))
    right = judge.see([prompt], pictures(1))[0]
    weight = judge.detector.network.class_predictor.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[0, 0] = float("nan")
        broken = judge.see([prompt], pictures(1))[0]
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    totals = bench.totals([bench.decide(bench.items[0], n, row) for n, row in enumerate((right, broken))], "tiny", 10)
    assert (totals.pictures, totals.unscored, totals.complete) == (2, 1, False)


def test_nan_colours_leave_the_picture_unscored(judge: GenEvalJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ColorReader, "__call__", lambda self, cutouts, names: torch.full((len(names), 10), torch.nan))
    prompt = red_cats(1)
    bench = GenEval((Item("0", "colors", "red cats", prompt, ("0.png",)),))
    record = bench.decide(bench.items[0], 0, judge.see([prompt], pictures(1))[0])
    assert record.unscored is not None


def test_class_words(tmp_path: Path) -> None:
    words = read_names()
    assert len(words) == 80
    assert (words[0], words[64], words[65], words[66], words[79]) == (
        "person",
        "computer mouse",
        "tv remote",
        "computer keyboard",
        "toothbrush",
    )
    check_names([red_cats(1)], NAMES)
    with pytest.raises(BenchmarkError, match="asks for 'dog', which is no class of the detector"):
        check_names([red_cats(1)], ("cat", "bus"))
    detector, clip = save_detector(tmp_path / "detector", classes=3), save_clip(tmp_path / "clip")
    with pytest.raises(BenchmarkError, match="detects 3 classes, but there are 80 class words"):
        GenEvalJudge.load(str(detector), str(clip))
    with pytest.raises(BenchmarkError, match="no readable CLIP checkpoint"):
        ColorReader.load(str(tmp_path / "absent"))
