"""What a base must be able to do before RecA starts. Pure comparison; the thresholds are `reca.config.GateConfig`."""

from collections.abc import Sequence

import msgspec

from reca.config import GateConfig
from reca.evaluation.suite import Evaluation


class Gate(msgspec.Struct, frozen=True):
    """One requirement.

    Attributes:
        name: field of `GateConfig`.
        value: measured on the base.
        limit: least value.
    """

    name: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the value reaches the limit; a value that is not a number does not."""
        return self.value >= self.limit


class GateError(RuntimeError):
    """The base is not ready for RecA."""


def check_gates(base: Evaluation, config: GateConfig) -> list[Gate]:
    """Compare a base's scores with the gates; gates with limit 0 are off and left out."""
    values = {
        "single_object": base.minigeneval.scores["single_object"].value,
        "colors": base.minigeneval.scores["colors"].value,
        "understanding": base.understanding.accuracy.value,
        "class_recall": base.reconstruction.recall["class"].value,
    }
    gates = [Gate(name, value, getattr(config, name)) for name, value in values.items()]
    return [gate for gate in gates if gate.limit > 0]


def require(gates: Sequence[Gate]) -> None:
    """Stop when a gate fails.

    Raises:
        GateError: naming every failed gate with its value and limit.
    """
    failed = [f"{gate.name} is {gate.value:.3f}, needs {gate.limit:.3f}" for gate in gates if not gate.passed]
    if failed:
        raise GateError(
            f"the base is not ready for RecA: {'; '.join(failed)}. Train the base further, "
            "or lower the gate with --set gates.NAME=VALUE (0 switches it off)"
        )
