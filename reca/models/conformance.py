"""Check that a model keeps the promises of `reca.models.base`: `python -m reca.models.conformance DIR --family NAME`.

For any tiny checkpoint of any family: shapes, determinism given draws, losses that fall when one batch is over-fitted,
frozen parts that stay bit for bit, files that come back bit for bit, sampling with and without guidance, sums that do
not depend on how a batch is split over workers, and NaN that is refused. Texts are RecA's own template prompts, which
every checkpoint that RecA can train has to be able to read; pictures are coloured noise.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from reca.config import SamplingConfig
from reca.models import FAMILIES, family_class
from reca.models.base import Batch, Draws, Editor, Example, LossTerm, Task, UnifiedModel
from reca.models.checkpoint import read_tensors
from reca.models.errors import CheckpointError
from reca.models.finite import NonFiniteOutputError
from reca.models.overfitting import FALLEN, Overfitting, train_only_trainable
from reca.models.parity import Check, compare, table
from reca.models.sources import local_checkpoint
from reca.objectives import templates

TASKS: tuple[Task, ...] = get_args(Task)
SEEDS = (11, 12, 13)
SHARED_SEED = 14

SAME_PICTURE = 2.0
"""Largest difference, in 1/255, of a picture drawn alone and in a batch: matrix products of another shape round
otherwise."""

SAME_SUM = 1e-5
"""Largest relative difference of a sum over a batch and over its parts, in float32."""

STRONG = 7.5
"""Guidance strong enough to show in the pictures of an untrained model."""


class Conformance:
    """The checks of one model.

    Args:
        build: makes the model, with the same weights each time.
        tasks: tasks to check; by default those that train the model (`UnifiedModel.tasks`).
        texts: three texts for each task (see `Example.text`); templates by default.
        updates: over-fitting stops after so many, or when every loss has fallen.
        source: folder the model is from; what an untouched model writes must be the tensors in there.
    """

    def __init__(
        self,
        build: Callable[[], UnifiedModel],
        tasks: Sequence[Task] | None = None,
        texts: Mapping[Task, Sequence[str]] | None = None,
        updates: int = 100,
        source: Path | None = None,
    ) -> None:
        self.build = build
        self.texts = texts or default_texts()
        self.updates = updates
        self.source = source
        self.model = build().eval()
        self.tasks = self.model.tasks if tasks is None else tasks

    def run(self) -> Iterator[Check]:
        """All checks. One that raises counts as failed, and the rest still run."""
        groups = (
            self.shapes,
            self.determinism,
            self.workers,
            self.sampling,
            self.editing,
            self.refusal,
            self.learning,
            self.files,
        )
        for group in groups:
            try:
                yield from group()
            except Exception as error:  # noqa: BLE001 - whatever an adapter raises is what its author needs to see
                yield Check(group.__name__, float("inf"), 0.0, f"raised {type(error).__name__}: {error}")

    # What the checks work on

    @cached_property
    def pixels(self) -> Tensor:
        """Coloured noise, coarse and fine, uint8 [3, 3, S, S]."""
        side, random = self.model.geometry.size, np.random.default_rng(0)
        coarse = random.integers(0, 200, (3, 3, 4, 4)).repeat(-(-side // 4), 2).repeat(-(-side // 4), 3)
        fine = random.integers(0, 56, (3, 3, side, side))
        return torch.from_numpy((coarse[:, :, :side, :side] + fine).astype(np.uint8))

    @cached_property
    def encoded(self) -> dict[str, Tensor]:
        """What `encode` gives for the three pictures."""
        return self.model.encode(self.pixels)

    def batch(self, model: UnifiedModel, task: Task, rows: Sequence[int] = (0, 1, 2)) -> dict[str, Tensor]:
        """Batch of some of the three examples, as the family's `collate` makes it."""
        examples = [
            Example(f"row {row}", self.texts[task][row], {name: v[row].numpy() for name, v in self.encoded.items()})
            for row in rows
        ]
        return model.collate(task, examples)

    def term(self, model: UnifiedModel, task: Task, rows: Sequence[int] = (0, 1, 2)) -> LossTerm:
        """Loss of some of the three examples, each with its own seed."""
        batch = self.batch(model, task, rows)
        return model.loss(task, batch, _all_draws(model, task, batch, [SEEDS[row] for row in rows]))

    def generate(self, rows: Sequence[int] = (0, 1, 2), seeds: Sequence[int] = SEEDS, guidance: float = 0.0) -> Tensor:
        """Pictures uint8 [B, 3, S, S] of some of the captions, one seed for each of them."""
        prompts = [self.texts["text_to_image"][row] for row in rows]
        return self.model.generate(prompts, seeds, SamplingConfig(guidance=guidance, steps=4))

    def reconstruct(
        self, rows: Sequence[int] = (0, 1, 2), seeds: Sequence[int] = SEEDS, guidance: float = 0.0
    ) -> Tensor:
        """Some of the three pictures drawn again, uint8 [B, 3, S, S], one seed for each of them."""
        prompts = [self.texts["reconstruction"][row] for row in rows]
        encoded = {name: value[list(rows)] for name, value in self.encoded.items()}
        return self.model.reconstruct(encoded, prompts, seeds, SamplingConfig(guidance=guidance, steps=4))

    def answers(self, rows: Sequence[int]) -> list[str]:
        """Answers about some of the pictures."""
        questions = [self.texts["image_to_text"][row].split("\n")[0] for row in rows]
        return self.model.answer({name: value[list(rows)] for name, value in self.encoded.items()}, questions, 4)

    @cached_property
    def training(self) -> UnifiedModel:
        """The model in training mode, where a family may have dropout."""
        return self.build().train()

    @cached_property
    def trained(self) -> Overfitting:
        """The model over-fitted to one batch of every task."""
        model = self.build().train()
        work: dict[Task, tuple[Batch, Draws]] = {}
        for task in self.tasks:
            batch = self.batch(model, task)
            work[task] = (batch, _all_draws(model, task, batch, SEEDS))
        return Overfitting(model, work, self.updates)

    # Checks

    def shapes(self) -> Iterator[Check]:
        """Encodings, draws, losses, pictures and answers have the stated form."""
        side = self.model.geometry.size
        for name, value in self.encoded.items():
            yield _holds(f"encode {name}: one finite row per picture", value.shape[0] == 3 and _finite(value))
        for task in self.tasks:
            batch = self.batch(self.model, task)
            draws = self.model.draw(task, batch, SEEDS)
            rows = all(value.shape[0] == 3 for value in (*batch.values(), *draws.values()))
            yield _holds(f"{task}: batch and draws have one row per example", rows)
            term = self.model.loss(task, batch, _all_draws(self.model, task, batch, SEEDS))
            scalars = all(value.dtype == torch.float32 and value.ndim == 0 for value in (term.total, term.count))
            yield _holds(f"{task}: loss is two float32 scalars", scalars)
            yield _holds(f"{task}: loss is finite and counts something", _finite(term.total) and bool(term.count > 0))
            known = self.model.count(task, batch, _all_draws(self.model, task, batch, SEEDS))
            if known is not None:
                yield compare(f"{task}: count without the network", known, term.count, 0.0)
        for name, found in (("generate", self.generate()), ("reconstruct", self.reconstruct())):
            yield _holds(f"{name}: uint8 [3, 3, {side}, {side}]", _is_picture(found, side))
        yield _holds("answer: one text per question", [type(answer) for answer in self.answers([0, 1, 2])] == [str] * 3)
        own = {id(parameter) for parameter in self.model.parameters()}
        strangers = sum(id(parameter) not in own for parameter in self.model.trainable().values())
        yield Check("trainable: its own parameters", float(strangers), 0.0, "others")

    def determinism(self) -> Iterator[Check]:
        """Same weights, batch and draws give the same numbers; draws and pictures follow their own seed only."""
        for name, value in self.model.encode(self.pixels).items():
            yield compare(f"encode {name}: twice", value, self.encoded[name], 0.0)
        for task in self.tasks:
            for model, mode in ((self.model, ""), (self.training, ", in training")):
                terms = [self.term(model, task) for _ in range(2)]
                yield compare(f"{task}: loss twice{mode}", terms[0].total, terms[1].total, 0.0)
            yield _holds(f"{task}: draws follow the example's seed only", self._own_draws(task))
        for name, draw in (("generate", self.generate), ("reconstruct", self.reconstruct)):
            together = draw()
            yield compare(f"{name}: twice", draw(), together, 0.0)
            difference = (draw([1], SEEDS[1:2]).int() - together[1:2].int()).abs().max()
            yield Check(f"{name}: alone as in a batch", float(difference), SAME_PICTURE, "in 1/255")
            others = draw(seeds=[seed + 100 for seed in SEEDS])
            yield _holds(f"{name}: other seeds give other pictures", not torch.equal(others, together))
        yield _holds("answer: alone as in a batch", self.answers([1]) == self.answers([0, 1, 2])[1:2])

    def _own_draws(self, task: Task) -> bool:
        """Whether the second example draws the same alone as with two others."""
        whole = self.model.draw(task, self.batch(self.model, task), SEEDS)
        alone = self.model.draw(task, self.batch(self.model, task, [1]), SEEDS[1:2])
        return _same_tensors({name: value[1:2] for name, value in whole.items()}, alone)

    def workers(self) -> Iterator[Check]:
        """Two workers with one and two of three examples have the sums and gradients of one worker with all, dropout
        and recomputed activations included.
        """
        for task in self.tasks:
            model = self.build().train()
            parameters = train_only_trainable(model)
            sums: list[tuple[Tensor, Tensor, list[Tensor]]] = []
            for split in (((0, 1, 2),), ((0,), (1, 2))):
                terms = [self.term(model, task, rows) for rows in split]
                total = torch.stack([term.total for term in terms]).sum()
                count = torch.stack([term.count for term in terms]).sum()
                gradients = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
                sums.append((total.detach(), count, list(gradients)))
            (total, count, whole), (parts, part_count, pieces) = sums
            yield Check(f"{task}: loss sum of 1 and 2 workers", _relative(parts, total), SAME_SUM, "relative")
            yield compare(f"{task}: count of 1 and 2 workers", part_count, count, 0.0)
            flat = [torch.cat([gradient.flatten() for gradient in each]) for each in (pieces, whole)]
            yield Check(f"{task}: gradient of 1 and 2 workers", _relative(*flat), 10 * SAME_SUM, "relative norm")

    def sampling(self) -> Iterator[Check]:
        """Both ways of drawing work with and without guidance, and guidance shows."""
        side = self.model.geometry.size
        for name, plain, guided in (
            ("generate", self.generate(), self.generate(guidance=STRONG)),
            ("reconstruct", self.reconstruct(), self.reconstruct(guidance=STRONG)),
        ):
            yield _holds(f"{name}: pictures with guidance", _is_picture(guided, side))
            yield _holds(f"{name}: guidance changes pictures", not torch.equal(plain, guided))

    def editing(self) -> Iterator[Check]:
        """A family that edits: uint8 pictures, the same twice and alone, which follow source, instruction and seed."""
        model = self.model
        if not isinstance(model, Editor):
            return
        texts = list(self.texts["text_to_image"])

        def edit(rows: Sequence[int], sources: Tensor, words: Sequence[str], seeds: Sequence[int]) -> Tensor:
            told, noise = [words[row] for row in rows], [seeds[row] for row in rows]
            return model.edit(sources[list(rows)], told, noise, SamplingConfig(guidance=1.0, steps=4))

        together = edit((0, 1, 2), self.pixels, texts, SEEDS)
        form = together.dtype == torch.uint8 and together.ndim == 4 and together.shape[:2] == (3, 3)
        yield _holds("edit: uint8 [3, 3, H, W]", form)
        yield compare("edit: twice", edit((0, 1, 2), self.pixels, texts, SEEDS), together, 0.0)
        difference = (edit((1,), self.pixels, texts, SEEDS).int() - together[1:2].int()).abs().max()
        yield Check("edit: alone as in a batch", float(difference), SAME_PICTURE, "in 1/255")
        # Only what belongs to the second picture changes, so the second result changes and the others do not.
        words, seeds = (texts[0], texts[2], texts[2]), (SEEDS[0], SEEDS[1] + 100, SEEDS[2])
        sources = torch.stack([self.pixels[0], 255 - self.pixels[1], self.pixels[2]])
        for name, changed in (
            ("source", edit((0, 1, 2), sources, texts, SEEDS)),
            ("instruction", edit((0, 1, 2), self.pixels, words, SEEDS)),
            ("seed", edit((0, 1, 2), self.pixels, texts, seeds)),
        ):
            moved = (changed.int() - together.int()).abs().amax(dim=(1, 2, 3)).tolist()
            yield _holds(f"edit: another {name} gives another picture", moved[1] > SAME_PICTURE)
            yield Check(
                f"edit: another {name} leaves other pictures", max(moved[0], moved[2]), SAME_PICTURE, "in 1/255"
            )

    def refusal(self) -> Iterator[Check]:
        """Weights that are NaN give no picture, no answer and no codes: every row is refused.

        Only what trains is NaN for pictures, so that a decoder of codes is sound and cannot be what refuses them.
        """
        model, few = self.build().eval(), SamplingConfig(guidance=1.0, steps=2)
        texts = self.texts["text_to_image"]
        questions = [text.split("\n")[0] for text in self.texts["image_to_text"]]
        _spoil(model.trainable().values())
        yield _refuses("generate", lambda: model.generate(texts, SEEDS, few))
        yield _refuses("reconstruct", lambda: model.reconstruct(self.encoded, texts, SEEDS, few))
        if isinstance(model, Editor):
            yield _refuses("edit", lambda: model.edit(self.pixels, texts, SEEDS, few))
        _spoil(model.parameters())
        yield _refuses("answer", lambda: model.answer(self.encoded, questions, 4))
        yield _refuses("encode", lambda: model.encode(self.pixels))

    def learning(self) -> Iterator[Check]:
        """One batch can be over-fitted, and only what is trainable changes meanwhile."""
        trained = self.trained
        for task in self.tasks:
            ratio = trained.last[task] / trained.first[task]
            note = f"last / first loss of {trained.updates} updates"
            yield Check(f"{task}: loss falls on one batch", ratio, FALLEN, note)
        moved = [name for name, (before, now) in trained.frozen.items() if not torch.equal(before, now)]
        note = f"tensors that changed{f': {moved[0]}' if moved else ''}"
        yield Check(f"frozen parts, {len(trained.frozen)} tensors, unchanged", float(len(moved)), 0.0, note)
        yield _holds("trained parts change", trained.changed)

    def files(self) -> Iterator[Check]:
        """A trained model comes back from its files bit for bit, and writes the same files again."""
        model = self.trained.model.eval()
        with tempfile.TemporaryDirectory() as place:
            first, second, third = (Path(place, name) for name in ("first", "second", "third"))
            model.save(first)
            loaded = type(model).load(first).eval()
            yield _holds("load: weights bit for bit", _same_tensors(model.state_dict(), loaded.state_dict()))
            for task in self.tasks:
                found, expected = self.term(loaded, task).total, self.term(model, task).total
                yield compare(f"{task}: loss after save and load", found, expected, 0.0)
            loaded.save(second)
            yield _holds("save: the same tensors again", _same_tensors(_stored(first), _stored(second)))
            # transformers notes in a tokenizer's file that it was read from a folder, so the second and third are equal
            type(model).load(second).save(third)
            yield _holds("save: the same files again", _files(second) == _files(third))
            if self.source:
                untouched = self.build()
                untouched.save(Path(place, "untouched"))
                yield _as_it_came(self.source, untouched.stored, _stored(Path(place, "untouched")))


def _all_draws(model: UnifiedModel, task: Task, batch: Batch, seeds: Sequence[int]) -> dict[str, Tensor]:
    """What training gives to `loss`: the draws of each example, and those of the whole global batch."""
    return {**model.draw(task, batch, seeds), **model.draw_shared(task, SHARED_SEED)}


def default_texts() -> dict[Task, list[str]]:
    """The three shortest template prompts, as prompt, as caption, and as question with its first word as answer."""
    short = sorted(templates(), key=len)[:3]
    return {
        "reconstruction": short,
        "text_to_image": short,
        "image_to_text": [f"{text}\n{text.split()[0]}" for text in short],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one table. Returns 0 when every check holds, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m reca.models.conformance", description=__doc__)
    parser.add_argument("place", metavar="DIR", help="checkpoint of a tiny model: folder, fsspec URL or hub id")
    parser.add_argument("--family", required=True, help=f"{', '.join(FAMILIES)}, or module:Class of your own")
    parser.add_argument(
        "--tasks", nargs="+", choices=TASKS, help="tasks to check; by default those that train the model"
    )
    chosen = parser.parse_args(arguments)
    console = Console()
    try:
        family, folder = family_class(chosen.family), local_checkpoint(chosen.place)
        suite = Conformance(lambda: family.load(folder), chosen.tasks, source=folder)
    except (CheckpointError, ValueError, OSError) as error:
        console.print(f"[red]{chosen.place}: {error}[/]", soft_wrap=True)
        return 1
    checks = list(suite.run())
    console.print(table(f"{chosen.place} as {chosen.family}", checks))
    bad = sum(not check.ok for check in checks)
    console.print(f"{len(checks) - bad} of {len(checks)} checks hold" + (f", {bad} do not" if bad else ""))
    return 1 if bad else 0


def _holds(quantity: str, holds: bool) -> Check:
    return Check(quantity, 0.0 if holds else 1.0, 0.0, "as it must be" if holds else "not so")


@torch.no_grad()
def _spoil(parameters: Iterable[Tensor]) -> None:
    for parameter in parameters:
        parameter.fill_(torch.nan)


def _refuses(name: str, call: Callable[[], object]) -> Check:
    try:
        call()
        refused: set[int] = set()
    except NonFiniteOutputError as error:
        refused = set(error.faults)
    return _holds(f"{name}: rows of NaN are refused", refused == {0, 1, 2})


def _finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())


def _is_picture(found: Tensor, side: int) -> bool:
    return found.dtype == torch.uint8 and tuple(found.shape) == (3, 3, side, side)


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


def _as_it_came(source: Path, stored: Collection[str], written: Mapping[str, Tensor]) -> Check:
    """Whether a model that was not trained is written key for key and bit for bit as it came.

    A folder may hold more files, or other ones, than are written (a base model's weights, without the prefix that its
    part has in the whole). So a tensor's bits may have come under the end of its name, and the names that have to be
    there are those that the model took from its files.

    Args:
        source: folder that the model came from.
        stored: names in `UnifiedModel.stored`; where there are none, all of the folder must be written.
        written: what `_stored` gives of the folder that was written.
    """
    came: dict[str, list[Tensor]] = {}
    for name, value in _weights(source):
        came.setdefault(name, []).append(value)
    names = {key.rpartition("/")[2]: value for key, value in written.items()}
    wrong = sorted(names.keys() ^ set(stored or came))
    for name, value in names.items():
        parts = name.split(".")
        ends = (".".join(parts[start:]) for start in range(len(parts)))
        if not any(_same_bits(value, other) for end in ends for other in came.get(end, ())):
            wrong.append(name)
    note = f"tensors that differ{f': {wrong[0]}' if wrong else ''}"
    return Check("save: an untouched checkpoint as it came", float(len(wrong)), 0.0, note)


def _weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of every weight file under a folder, pickles included; other pickles are passed over."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".safetensors", ".bin", ".pth", ".ckpt"):
            with contextlib.suppress(CheckpointError):
                yield from read_tensors(path)


def _same_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Same names, types and bits."""
    return first.keys() == second.keys() and all(_same_bits(value, second[name]) for name, value in first.items())


def _same_bits(first: Tensor, second: Tensor) -> bool:
    """Same type, shape and bits: 0 and -0 are not the same, a NaN is itself."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    # A fresh copy: an axis of length 1 may have any stride, which `view` minds.
    copies = (value.detach().clone(memory_format=torch.contiguous_format) for value in (first, second))
    return torch.equal(*(copy.flatten().view(torch.uint8) for copy in copies))


def _files(folder: Path) -> dict[str, bytes]:
    """Every file but weights, by its path in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _stored(folder: Path) -> dict[str, Tensor]:
    """Tensors of every safetensors file, by sub-folder, slash and name, however they are spread over shards."""
    return {
        f"{path.parent.relative_to(folder)}/{name}": value
        for path in sorted(folder.rglob("*.safetensors"))
        for name, value in read_tensors(path)
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
