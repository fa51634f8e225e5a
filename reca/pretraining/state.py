"""State of a pre-training loop, so that a killed run continues where it was."""

import io
from collections.abc import Callable
from typing import Any

import fsspec
import torch
from torch import nn


class LoopState:
    """Saves and restores a model with its optimizer and the number of updates done.

    Data, draws and learning rate are functions of the update number, so this is all that an exact continuation needs.

    Args:
        work_uri: folder (path or fsspec URI) that outlives the process; one file `state.pt` in it.
        every: updates between saves.
    """

    def __init__(self, work_uri: str, every: int = 200) -> None:
        self.uri = f"{work_uri.rstrip('/')}/state.pt"
        self.every = every

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, report: Callable[[str], None]) -> int:
        """Load the last save, if there is one.

        Args:
            model: gets its weights.
            optimizer: gets its moments.
            report: takes a line where there is a save.

        Returns:
            Number of updates done; 0 without a save.
        """
        fs, path = fsspec.url_to_fs(self.uri)
        if not fs.exists(path):
            return 0
        state: dict[str, Any] = torch.load(io.BytesIO(fs.cat_file(path)), weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        report(f"continues after update {state['updates']}")
        return int(state["updates"])

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, updates: int) -> None:
        """Save after `updates` updates, when one is due; the file is replaced in one move."""
        if updates % self.every:
            return
        buffer = io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "updates": updates}, buffer)
        fs, path = fsspec.url_to_fs(self.uri)
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        fs.pipe_file(path + ".new", buffer.getvalue())
        fs.mv(path + ".new", path)
