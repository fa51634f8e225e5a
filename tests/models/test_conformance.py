"""The suite passes a healthy model, and every check of it fails for a model that is broken in just that way."""

import shutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from janus_tiny import tiny_model
from safetensors.torch import load_file
from torch import Tensor, nn

from reca.config import SamplingConfig
from reca.models.base import Batch, Draws, LossTerm, Task
from reca.models.conformance import TASKS, Conformance, default_texts, main
from reca.models.finite import NonFiniteOutputError
from reca.models.janus.model import JanusProModel
from reca.objectives import templates


def healthy() -> JanusProModel:
    return tiny_model(words=templates(), max_position_embeddings=128)


class Broken(JanusProModel):
    """A tiny Janus in which something goes wrong: a subclass overrides one method."""

    def also(self, term: LossTerm, batch: Batch) -> LossTerm:
        return term

    def loss(self, task: Task, batch: Batch, draws: Draws) -> LossTerm:
        return self.also(super().loss(task, batch, draws), batch)


class EncodesNaN(Broken):
    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        encoded = super().encode(pixels)
        return {**encoded, "features": encoded["features"] / 0}


class DrawsTooFew(Broken):
    def draw(self, task: Task, batch: Batch, seeds: Sequence[int]) -> dict[str, Tensor]:
        return {name: value[:1] for name, value in super().draw(task, batch, seeds).items()}


class LossInDouble(Broken):
    def also(self, term: LossTerm, batch: Batch) -> LossTerm:
        return LossTerm(term.total.double(), term.count)


class CountsNothing(Broken):
    def also(self, term: LossTerm, batch: Batch) -> LossTerm:
        return LossTerm(term.total, torch.zeros(()))


class MiscountsBeforehand(Broken):
    def count(self, task: Task, batch: Batch, draws: Draws) -> Tensor:
        return super().count(task, batch, draws) + 1


class DrawsFloats(Broken):
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        return super().generate(prompts, seeds, sampling) / 255


class ReconstructsSmall(Broken):
    def reconstruct(
        self, encoded: Mapping[str, Tensor], prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        return super().reconstruct(encoded, prompts, seeds, sampling)[..., :-1]


class AnswersOnce(Broken):
    def answer(self, encoded: Mapping[str, Tensor], questions: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        return super().answer(encoded, questions, max_new_tokens)[:1]


class TrainsCopies(Broken):
    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: nn.Parameter(value.clone()) for name, value in super().trainable().items()}


class EncodesNoise(Broken):
    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        encoded = super().encode(pixels)
        return {**encoded, "features": encoded["features"] + torch.randn(()) / 100}


class HiddenRandomness(Broken):
    def also(self, term: LossTerm, batch: Batch) -> LossTerm:
        return LossTerm(term.total + torch.rand(()), term.count)


class DropsAtRandom(Broken):
    """Dropout that is no part of the draws."""

    def also(self, term: LossTerm, batch: Batch) -> LossTerm:
        return LossTerm(term.total + torch.rand(()) * self.training, term.count)


class DrawsByPosition(Broken):
    def draw(self, task: Task, batch: Batch, seeds: Sequence[int]) -> dict[str, Tensor]:
        noise = torch.rand(len(seeds), generator=torch.Generator().manual_seed(seeds[0]))
        return {**super().draw(task, batch, seeds), "noise": noise}


class ChangesSeeds(Broken):
    """Draws with seeds that a subclass makes up."""

    @abstractmethod
    def other(self, seeds: Sequence[int]) -> list[int]: ...

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        return super().generate(prompts, self.other(seeds), sampling)


class DrawsAtRandom(ChangesSeeds):
    def other(self, seeds: Sequence[int]) -> list[int]:
        return [int(torch.randint(1 << 30, ())) for _ in seeds]


class DrawsByBatch(ChangesSeeds):
    def other(self, seeds: Sequence[int]) -> list[int]:
        return [seed + len(seeds) for seed in seeds]


class IgnoresSeeds(ChangesSeeds):
    def other(self, seeds: Sequence[int]) -> list[int]:
        return list(range(len(seeds)))


class ReconstructsByBatch(Broken):
    """Every row is drawn from the first picture."""

    def reconstruct(
        self, encoded: Mapping[str, Tensor], prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        first = {name: value[:1].expand_as(value) for name, value in encoded.items()}
        return super().reconstruct(first, prompts, seeds, sampling)


class AnswersByBatch(Broken):
    def answer(self, encoded: Mapping[str, Tensor], questions: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        return [f"{len(questions)} {text}" for text in super().answer(encoded, questions, max_new_tokens)]


class SumsMeans(Broken):
    def also(self, term: LossTerm, batch: Batch) -> LossTerm:
        return LossTerm(term.total / len(batch["ids"]), term.count)


class CountsBatches(Broken):
    def also(self, term: LossTerm, batch: Batch) -> LossTerm:
        return LossTerm(term.total, torch.ones(()))


class ScalesGradients(Broken):
    def also(self, term: LossTerm, batch: Batch) -> LossTerm:
        extra = term.total - term.total.detach()
        return LossTerm(term.total + len(batch["ids"]) * extra, term.count)


class GuidedFloats(Broken):
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        pictures = super().generate(prompts, seeds, sampling)
        return pictures.float() if sampling.guidance else pictures


class IgnoresGuidance(Broken):
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        return super().generate(prompts, seeds, SamplingConfig(0.0, sampling.steps, sampling.temperature))


class DrawsNaN(Broken):
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        try:
            return super().generate(prompts, seeds, sampling)
        except NonFiniteOutputError as error:
            return error.result


class AnswersNaN(Broken):
    def answer(self, encoded: Mapping[str, Tensor], questions: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        try:
            return super().answer(encoded, questions, max_new_tokens)
        except NonFiniteOutputError as error:
            raise NonFiniteOutputError({0: error.faults[0]}, error.rows, error.result) from error


class CodesOfNaN(Broken):
    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        try:
            return super().encode(pixels)
        except NonFiniteOutputError as error:
            return error.result


class LearnsNothing(Broken):
    def also(self, term: LossTerm, batch: Batch) -> LossTerm:
        return LossTerm(term.total.detach() + 0 * self.janus.lm_head.weight.sum(), term.count)


class FrozenDrifts(Broken):
    def also(self, term: LossTerm, batch: Batch) -> LossTerm:
        with torch.no_grad():
            self.janus.model.vqmodel.quantize.embedding.weight.mul_(1.001)
        return term


class ForgetsUpdates(Broken):
    """Puts the first weights back at every step."""

    def forward(self, work: Mapping[Task, tuple[Batch, Draws]]) -> dict[Task, LossTerm]:
        if not hasattr(self, "kept"):
            self.kept = {name: value.detach().clone() for name, value in self.trainable().items()}
        with torch.no_grad():
            for name, value in self.trainable().items():
                value.copy_(self.kept[name])
        return super().forward(work)


class SavesRounded(Broken):
    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        super().save(folder, torch.bfloat16)


class LoadsAnother(Broken):
    """Keeps a setting that the files do not tell."""

    scale = 1.0

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        model = super().load(folder, device)
        model.scale = 2.0
        return model

    def also(self, term: LossTerm, batch: Batch) -> LossTerm:
        return LossTerm(self.scale * term.total, term.count)


class CountsSaves(Broken):
    saves: ClassVar[list[Path]] = []

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        super().save(folder, dtype)
        self.saves.append(folder)
        (folder / "saves.txt").write_text(str(len(self.saves)))


class SavesOnceInFull(LoadsAnother):
    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        super().save(folder, torch.float64 if self.scale == 1.0 else torch.float32)

    def also(self, term: LossTerm, batch: Batch) -> LossTerm:
        return term


class Raises(Broken):
    def answer(self, encoded: Mapping[str, Tensor], questions: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        raise RuntimeError("no words today")


CASES: dict[type[Broken], tuple[str, str]] = {
    EncodesNaN: ("shapes", "encode features: one finite row per picture"),
    DrawsTooFew: ("shapes", "text_to_image: batch and draws have one row per example"),
    LossInDouble: ("shapes", "reconstruction: loss is two float32 scalars"),
    CountsNothing: ("shapes", "image_to_text: loss is finite and counts something"),
    MiscountsBeforehand: ("shapes", "reconstruction: count without the network"),
    DrawsFloats: ("shapes", "generate: uint8 [3, 3, 16, 16]"),
    ReconstructsSmall: ("shapes", "reconstruct: uint8 [3, 3, 16, 16]"),
    AnswersOnce: ("shapes", "answer: one text per question"),
    TrainsCopies: ("shapes", "trainable: its own parameters"),
    EncodesNoise: ("determinism", "encode features: twice"),
    HiddenRandomness: ("determinism", "reconstruction: loss twice"),
    DropsAtRandom: ("determinism", "reconstruction: loss twice, in training"),
    DrawsByPosition: ("determinism", "reconstruction: draws follow the example's seed only"),
    DrawsAtRandom: ("determinism", "generate: twice"),
    DrawsByBatch: ("determinism", "generate: alone as in a batch"),
    IgnoresSeeds: ("determinism", "generate: other seeds give other pictures"),
    ReconstructsByBatch: ("determinism", "reconstruct: alone as in a batch"),
    AnswersByBatch: ("determinism", "answer: alone as in a batch"),
    SumsMeans: ("workers", "reconstruction: loss sum of 1 and 2 workers"),
    CountsBatches: ("workers", "image_to_text: count of 1 and 2 workers"),
    ScalesGradients: ("workers", "text_to_image: gradient of 1 and 2 workers"),
    GuidedFloats: ("sampling", "generate: pictures with guidance"),
    IgnoresGuidance: ("sampling", "generate: guidance changes pictures"),
    DrawsNaN: ("refusal", "generate: rows of NaN are refused"),
    AnswersNaN: ("refusal", "answer: rows of NaN are refused"),
    CodesOfNaN: ("refusal", "encode: rows of NaN are refused"),
    LearnsNothing: ("learning", "reconstruction: loss falls on one batch"),
    FrozenDrifts: ("learning", "frozen parts, 219 tensors, unchanged"),
    ForgetsUpdates: ("learning", "trained parts change"),
    SavesRounded: ("files", "load: weights bit for bit"),
    LoadsAnother: ("files", "image_to_text: loss after save and load"),
    CountsSaves: ("files", "save: the same files again"),
    SavesOnceInFull: ("files", "save: the same tensors again"),
}


def broken(kind: type[Broken]) -> Broken:
    model = healthy()
    other = kind(model.config, model.collator.tokenizer, model.processing)  # pyright: ignore[reportOptionalMemberAccess]
    other.load_state_dict(model.state_dict())
    return other.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tiny")
    healthy().save(place)
    return place


@pytest.fixture(scope="module")
def names(folder: Path) -> list[str]:
    checks = list(Conformance(healthy, source=folder).run())
    assert [check for check in checks if not check.ok] == []
    return [check.quantity for check in checks]


@pytest.mark.parametrize("kind", list(CASES), ids=lambda kind: kind.__name__)
def test_a_broken_model_fails_its_check(kind: type[Broken], names: list[str]) -> None:
    group, quantity = CASES[kind]
    suite = Conformance(lambda: broken(kind), updates=4)
    assert any(check.quantity == quantity and not check.ok for check in getattr(suite, group)())
    assert quantity in names


def test_every_check_has_a_broken_model(names: list[str]) -> None:
    def kind(quantity: str) -> str:
        for task in TASKS:
            quantity = quantity.removeprefix(f"{task}: ")
        return quantity.replace("reconstruct:", "generate:").replace("codes", "features")

    covered = {kind(quantity) for _, quantity in CASES.values()}
    assert {kind(name) for name in names} - covered == {"save: an untouched checkpoint as it came"}


def test_an_untouched_checkpoint_that_comes_out_otherwise_fails(folder: Path) -> None:
    suite = Conformance(lambda: broken(SavesRounded), source=folder, updates=0)
    failed = [check.quantity for check in suite.files() if not check.ok]
    assert "save: an untouched checkpoint as it came" in failed


@pytest.mark.parametrize(("kind", "same"), [(Broken, True), (SavesRounded, False)])
def test_a_pickle_is_compared_too(kind: type[Broken], same: bool, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    torch.save({"lr": 1e-3}, tmp_path / "training_args.bin")
    (tmp_path / "model.safetensors").unlink()

    def build() -> Broken:
        model = broken(kind)
        model.stored = kind.load(tmp_path).stored
        return model

    suite = Conformance(build, source=tmp_path, updates=0)
    assert [check.ok for check in suite.files() if "untouched" in check.quantity] == [same]


def test_a_model_that_raises_fails_and_the_other_checks_still_run() -> None:
    checks = list(Conformance(lambda: broken(Raises), updates=1).run())
    raised = {check.quantity: check.note for check in checks if check.error == float("inf")}
    assert raised == dict.fromkeys(["shapes", "determinism", "refusal"], "raised RuntimeError: no words today")
    assert any(check.quantity.startswith("save:") and check.ok for check in checks)


def test_tasks_that_do_not_train_can_be_left_out() -> None:
    checks = list(Conformance(healthy, tasks=["reconstruction"], updates=1).run())
    assert not any(check.quantity.startswith(("text_to_image", "image_to_text")) for check in checks)
    assert any(check.quantity.startswith("reconstruction") for check in checks)


def test_texts_are_templates() -> None:
    texts: Any = default_texts()
    assert set(texts) == set(TASKS)
    assert all(text.split("\n")[0] in templates() for rows in texts.values() for text in rows)
    assert all(len(rows) == 3 for rows in texts.values())


def test_the_command_succeeds_only_if_everything_holds(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), "--family", "janus"]) == 0
    assert "65 of 65 checks hold" in capsys.readouterr().out
    kind = f"{SavesRounded.__module__}:{SavesRounded.__name__}"
    assert main([str(folder), "--family", kind, "--tasks", "reconstruction"]) == 1
    assert "do not" in capsys.readouterr().out
    for arguments, message in (
        ([str(tmp_path), "--family", "janus"], "config.json: file is missing"),
        ([str(folder), "--family", "janis"], "nearest: 'janus'"),
        ([str(folder), "--family", "showo"], "family 'janus', expected 'showo'"),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().out
