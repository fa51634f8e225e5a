"""Where checkpoints come from: a local folder, an fsspec URL, or a repository of the Hugging Face hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from reca.models.errors import CheckpointError

HUB = "hf://"
_NAME = r"[A-Za-z0-9][\w.-]*"
_REPOSITORY = re.compile(rf"({_NAME}/{_NAME})(?:@([\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubSnapshot:
    """A repository of the hub at one commit: the same name always means the same files.

    Attributes:
        repository: `ORG/NAME`.
        commit: 40 hexadecimal digits.
    """

    repository: str
    commit: str

    @property
    def uri(self) -> str:
        """`hf://ORG/NAME@COMMIT`."""
        return f"{HUB}{self.repository}@{self.commit}"

    def local(self) -> Path:
        """Folder with the files, in the hub's own cache (`HF_HOME`), downloaded once.

        Raises:
            CheckpointError: they are not in the cache and cannot be downloaded.
        """
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError

        try:
            return Path(snapshot_download(self.repository, revision=self.commit))
        except GatedRepoError as error:
            raise _gated(self.uri) from error
        except Exception as error:  # errors of http, of the hub and of the disk have no common class
            raise _unreachable(self.uri, error) from error


def hub_name(place: str) -> tuple[str, str] | None:
    """Repository and revision (empty: the newest) of `ORG/NAME`, `ORG/NAME@REVISION`, or either after `hf://`.

    None for everything else: other URLs, and paths. A path that exists on this machine is a path, whatever it looks
    like.

    Raises:
        CheckpointError: `hf://` is followed by something else.
    """
    explicit = place.startswith(HUB)
    found = _REPOSITORY.fullmatch(place.removeprefix(HUB).rstrip("/") if explicit else place)
    if explicit and found is None:
        raise CheckpointError(f"{place}: expected hf://ORG/NAME or hf://ORG/NAME@REVISION")
    if found is None or (not explicit and Path(place).exists()):
        return None
    return found[1], found[2] or ""


def snapshot(repository: str, revision: str = "") -> HubSnapshot:
    """Pin a repository to the commit that a branch or tag means now.

    The hub is asked; where it does not answer, the hub's cache on this machine is. A whole commit needs neither.

    Raises:
        CheckpointError: there is no such repository or revision, or neither hub nor cache has it.
    """
    if _COMMIT.fullmatch(revision):
        return HubSnapshot(repository, revision)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    place = f"{repository}@{revision}" if revision else repository
    try:
        # The smallest file: what is wanted is the commit in the folder's name, which the cache then remembers.
        folder = snapshot_download(repository, revision=revision or None, allow_patterns="config.json")
    except GatedRepoError as error:
        raise _gated(place) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise CheckpointError(
            f"{place}: neither a folder here nor a repository or revision of the hub; check the spelling, or log in "
            "(`hf auth login`) if it is private"
        ) from error
    except Exception as error:  # errors of http, of the hub and of the disk have no common class
        raise _unreachable(place, error) from error
    return HubSnapshot(repository, Path(folder).name)


def local_checkpoint(place: str) -> Path:
    """A local folder with the files of a path, fsspec URL or hub id; what is remote is downloaded once per machine.

    Raises:
        CheckpointError: there is nothing at the place, or it cannot be read.
    """
    from reca.training.storage import local_copy

    if name := hub_name(place):
        return snapshot(*name).local()
    try:
        folder = local_copy(place)
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(f"{place}: {error}; give a folder, an fsspec URL or a hub id") from error
    if not folder.is_dir():
        raise CheckpointError(f"{place}: no such folder; give a folder, an fsspec URL or a hub id (ORG/NAME@REVISION)")
    return folder


def _gated(place: str) -> CheckpointError:
    return CheckpointError(
        f"{place}: the repository is gated: ask its owners for access on its page of the hub, then log in "
        "(`hf auth login`)"
    )


def _unreachable(place: str, error: Exception) -> CheckpointError:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return CheckpointError(
        f"{place}: neither a folder here, nor in the hub's cache, nor to be had from the hub ({reason}); check the "
        "spelling and the connection, or give a folder"
    )
