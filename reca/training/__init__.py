"""Post-training on Ray Train: `train(TrainingJob(...))` runs the joint objective to its last update and survives any
kill.

Importing this package loads neither torch nor ray; `train` does.
"""

from reca.training.job import (
    CapacityError,
    NonFiniteError,
    StalledError,
    StorageError,
    TrainingError,
    TrainingJob,
    TrainingOutcome,
)
from reca.training.supervisor import train

__all__ = [
    "CapacityError",
    "NonFiniteError",
    "StalledError",
    "StorageError",
    "TrainingError",
    "TrainingJob",
    "TrainingOutcome",
    "train",
]
