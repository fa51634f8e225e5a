"""What is done so far in a run: artifacts, their contents, and the manifests that make them visible."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from pipelines.dsl import environment
from pipelines.dsl.artifact import Artifact, External
from pipelines.dsl.canonical import digest
from pipelines.dsl.graph import Node, content_key, resolve
from pipelines.dsl.manifest import InputRecord, Manifest, content_of
from pipelines.dsl.plan import Planner, Verdict, view
from pipelines.dsl.runview import NodeView
from pipelines.dsl.store import Store
from pipelines.dsl.worker import Success, restore


@dataclass
class Books:
    """The state of a run that is also in the store.

    Attributes:
        store: where artifacts lie.
        planner: what decides, with the code fingerprints of this run.
        artifacts: display name to artifact, for the stages that are done.
        contents: display name to content digest.
        views: display name to view.
    """

    store: Store
    planner: Planner
    artifacts: dict[str, Artifact] = field(default_factory=dict[str, Artifact])
    contents: dict[str, str] = field(default_factory=dict[str, str])
    views: dict[str, NodeView] = field(default_factory=dict[str, NodeView])

    def ready(self, node: Node) -> bool:
        """Tell whether everything that a node takes is there."""
        return all(name in self.artifacts for name in node.upstream)

    def decide(self, node: Node) -> Verdict:
        """Decide about a node that is ready."""
        return self.planner.decide(node, self.contents, frozenset())

    def arguments(self, node: Node) -> dict[str, object]:
        """Return a node's arguments as its body gets them."""
        resolved = resolve(node, lambda upstream: self.artifacts[upstream.name])
        return {name: value.bound() if isinstance(value, External) else value for name, value in resolved.items()}

    def reuse(self, node: Node, verdict: Verdict) -> None:
        """Take the artifact of a verdict; write its manifest anew where it is adopted or its new code accepted.

        Raises:
            StoreError: the store cannot be written.
        """
        manifest = verdict.manifest
        assert manifest is not None
        if verdict.adopt and manifest.key != node.key:
            note = f"adopted from {manifest.key}"
            identity, inputs = dict(node.identity), self._inputs(node)
            changes = {"name": node.name, "key": node.key, "identity": identity, "inputs": inputs, "note": note}
            manifest = msgspec.structs.replace(manifest, **changes)
        if verdict.accept:
            code = self.store.write_code(self.planner.fingerprints[node.stage.name])
            manifest = msgspec.structs.replace(manifest, code=code, note=f"code accepted, made with {manifest.code}")
        if manifest is not verdict.manifest:
            self.store.commit(manifest)
        again = [name for name in node.upstream if self.views[name].decision == "run"]
        if again and not verdict.adopt:
            verdict = replace(verdict, reason=f"{', '.join(again)} ran again and came out the same")
        self._settle(node, replace(verdict, manifest=manifest))

    def commit(self, node: Node, done: Success, path: str, attempts: int, reason: str) -> None:
        """Make a finished attempt the node's artifact, and forget the checkpoints that led to it.

        Raises:
            StoreError: the store cannot be written.
        """
        manifest = Manifest(
            stage=node.stage.name,
            name=node.name,
            key=node.key,
            content_key=content_key(node, lambda upstream: self.contents[upstream.name]),
            identity=dict(node.identity),
            inputs=self._inputs(node),
            path=path,
            files=done.files,
            fields=done.fields,
            content=content_of(done.files, done.fields, node.name),
            code=self.store.write_code(self.planner.fingerprints[node.stage.name]),
            environment=done.environment | environment.commit(Path.cwd()),
            started=done.started,
            wall_s=done.wall_s,
            core_s=done.core_s,
            core_source=done.core_source,
            gpu_s=done.gpu_s,
            attempts=attempts,
            host=done.host,
        )
        self.store.commit(manifest)
        self._settle(node, Verdict("run", reason, manifest))
        self.store.files.delete(work_folder(node))

    def work_path(self, node: Node) -> tuple[str, bool]:
        """Return where a node's checkpoints go, and whether others lie beside it that cannot be continued.

        Checkpoints count only for the code and inputs that made them, unless the policy says that code does not matter.
        """
        folder = work_folder(node)
        inputs = digest("".join(self.contents[name] for name in node.upstream).encode())[:20]
        name = f"{inputs}-{self.planner.code(node)[:20]}"
        present = self.store.files.names(folder)
        others = [found for found in present if found.startswith(inputs)]
        if name in present or not others:
            return f"{folder}/{name}", False
        if self.planner.policy == "rerun":
            return f"{folder}/{name}", True
        return f"{folder}/{others[-1]}", False

    def seen(self, nodes: Iterable[Node]) -> tuple[NodeView, ...]:
        """Return the views of those nodes that are done."""
        return tuple(self.views[node.name] for node in nodes if node.name in self.views)

    def _settle(self, node: Node, verdict: Verdict) -> None:
        manifest = verdict.manifest
        assert manifest is not None
        uri = self.store.files.join(manifest.path)
        self.artifacts[node.name] = restore(node.stage.output, manifest.fields, uri, node.key)
        self.contents[node.name] = manifest.content
        self.views[node.name] = view(node, verdict, self.store.uri)

    def _inputs(self, node: Node) -> tuple[InputRecord, ...]:
        return tuple(InputRecord(p, up.name, up.key, self.contents[up.name]) for p, up in node.inputs)


def work_folder(node: Node) -> str:
    """Return the folder below the store that holds a node's checkpoints until it is done."""
    return f"work/{node.stage.name}/{node.key}"
