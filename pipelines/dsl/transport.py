"""How a piece of work travels to a Ray worker: by reference wherever a worker can import the module.

Ray pickles what a script defines (`__main__`) by value. That loses identity (a class would differ from the same class
imported elsewhere) and fails for dataclasses that msgspec has seen. Here such names travel as the module that the
script would be when imported, together with the folder that has to be on the worker's `sys.path`.
"""

import importlib
import io
import pickle
import sys
from pathlib import Path
from types import FunctionType
from typing import Any, cast

from pipelines.dsl.canonical import dotted_name, module_name
from pipelines.dsl.errors import BuildError
from pipelines.dsl.worker import Failure, Success, Work, perform


def pack(work: Work) -> tuple[bytes, str]:
    """Return a piece of work as bytes, and the folder from which its stage's module is imported.

    Raises:
        BuildError: an argument cannot be pickled.
    """
    from ray import cloudpickle

    base = cast(type[pickle.Pickler], vars(cloudpickle)["CloudPickler"])

    class Pickler(base):
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, type | FunctionType) and obj.__module__ == "__main__" and _importable(obj.__qualname__):
                return import_name, (module_name("__main__"), obj.__qualname__)
            return super().reducer_override(obj)

    buffer = io.BytesIO()
    try:
        Pickler(buffer).dump(work)
    except Exception as error:
        raise BuildError(
            f"stage {work.name}: its arguments cannot travel to a worker ({error}); use plain data"
        ) from error
    file = getattr(sys.modules[work.stage.__module__], "__file__", None)
    return buffer.getvalue(), str(dotted_name(Path(file).resolve())[1]) if file else ""


def perform_packed(data: bytes, folder: str) -> Success | Failure:
    """Unpack and run one attempt (worker side)."""
    from ray import cloudpickle

    if folder and folder not in sys.path and Path(folder).is_dir():
        sys.path.append(folder)
    try:
        work = cast(Work, cloudpickle.loads(data))
    except ImportError as error:
        mend = "start Ray where the project's files are, or submit a job with --working-dir"
        return Failure(type(error).__name__, f"the worker cannot import the stage's code ({error}); {mend}", "", True)
    return perform(work)


def import_name(module: str, qualname: str) -> Any:
    """Return what a module defines under a name."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def _importable(qualname: str) -> bool:
    return "<locals>" not in qualname and hasattr(sys.modules["__main__"], qualname.partition(".")[0])
