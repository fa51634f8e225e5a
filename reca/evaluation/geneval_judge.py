"""GenEval's judge: a detector sees objects, CLIP reads the colours that are asked for, both in batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from PIL import Image

from reca.evaluation.class_words import read_names
from reca.evaluation.colors import ColorReader, cutout
from reca.evaluation.detector import SCALE, Detector, Found
from reca.evaluation.geneval import Detection, Options, Prompt, keep
from reca.evaluation.geneval_benchmark import Seen, Sighting
from reca.evaluation.records import BenchmarkError

NOT_A_NUMBER = Sighting("nothing", (0.0, 0.0, 0.0, 0.0), float("nan"))
"""What stands in a record for a picture whose logits are not finite; the rules refuse it."""


@dataclass(frozen=True)
class GenEvalJudge:
    """Detector and colour classifier.

    Attributes:
        detector: finds objects.
        colors: reads colours.
        names: class words in the order of the detector's outputs.
        options: thresholds; they decide which objects need a colour.
    """

    detector: Detector
    colors: ColorReader
    names: tuple[str, ...]
    options: Options = field(default_factory=Options)

    @classmethod
    def load(
        cls,
        detector: str,
        clip: str,
        device: str = "cpu",
        names: str = "",
        scale: tuple[int, int] = SCALE,
    ) -> "GenEvalJudge":
        """Load both networks.

        Args:
            detector: folder or hub id.
            clip: folder or hub id.
            device: `cpu` or `cuda`.
            names: text file with the detector's classes in GenEval's words, one a line; empty takes COCO's.
            scale: longest and shortest side that the detector's pictures are resized to.

        Raises:
            BenchmarkError: when one cannot be read, or the detector has another number of classes than there are names.
        """
        words = read_names(names)
        found = Detector.load(detector, device, scale)
        if found.classes != len(words):
            raise BenchmarkError(
                f"{detector}: detects {found.classes} classes, but there are {len(words)} class words; give one word "
                "for each class, in the detector's order (object_names)"
            )
        return cls(found, ColorReader.load(clip, device), words)

    def see(self, asked: Sequence[Prompt], pictures: Sequence[Image.Image]) -> list[Seen]:
        """Sightings of each picture, best first. Colours are read where the rules look: the `count` most confident
        objects of each class that a prompt wants in a colour.

        Args:
            asked: prompt of each picture.
            pictures: of any size and mode.

        Returns:
            One entry for each picture; `NOT_A_NUMBER` alone where the detector's logits are not finite.
        """
        found = self.detector(pictures)
        rows = [self._sightings(item) for item in found]
        wanted = [
            (row, number)
            for row, prompt in enumerate(asked)
            if found[row].finite
            for number in sorted(to_color(prompt, rows[row], self.options))
        ]
        cutouts = [
            cutout(pictures[row].convert("RGB"), rows[row][number].box, found[row].masks[number])
            for row, number in wanted
        ]
        logits = self.colors(cutouts, [rows[row][number].name for row, number in wanted])
        for (row, number), values in zip(wanted, logits.tolist(), strict=True):
            rows[row][number] = msgspec.structs.replace(rows[row][number], logits=tuple(values))
        return [tuple(row) for row in rows]

    def _sightings(self, found: Found) -> list[Sighting]:
        if not found.finite:
            return [NOT_A_NUMBER]
        rows = zip(found.labels.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True)
        return [Sighting(self.names[label], tuple(box), score) for label, box, score in rows]


def to_color(prompt: Prompt, seen: Sequence[Sighting], options: Options) -> set[int]:
    """Numbers of the sightings whose colour the rules ask for.

    Args:
        prompt: what is asked of the picture.
        seen: everything that the detector saw in it.
        options: thresholds of the rules.
    """
    candidates = [Detection(s.name, s.box, s.score) for s in seen]
    numbers = {id(candidate): number for number, candidate in enumerate(candidates)}
    kept = keep(candidates, prompt.tag, options)
    return {
        numbers[id(item)]
        for entry in prompt.include
        if entry.color is not None
        for item in kept.get(entry.name, ())[: entry.count]
    }
