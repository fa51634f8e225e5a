"""What a run would do: for each stage run, reuse or check, and why. Reads manifests only; runs and writes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.dsl.canonical import flatten
from pipelines.dsl.errors import AlteredError
from pipelines.dsl.fingerprint import Fingerprint, Fingerprinter, code_changes, code_digest
from pipelines.dsl.graph import Graph, Node, content_key
from pipelines.dsl.manifest import Manifest
from pipelines.dsl.runview import Decision, NodeView
from pipelines.dsl.store import Store

Policy = Literal["rerun", "accept", "pin"]
"""When only code changed: run again; reuse and record the new code; or reuse and leave the record."""

SHOWN = 4
"""Differences named in one reason."""


@dataclass(frozen=True)
class Verdict:
    """What is to be done with a node.

    Attributes:
        decision: run, reuse or check.
        reason: why.
        manifest: the artifact to reuse (also for `check`).
        adopt: the manifest stands under another key and has to be written under this one.
        accept: the manifest has to be written again with the new code.
    """

    decision: Decision
    reason: str
    manifest: Manifest | None = None
    adopt: bool = False
    accept: bool = False


@dataclass(frozen=True)
class Planner:
    """Decides node by node; also used while a run goes on, when the contents of inputs have become known.

    Attributes:
        store: where artifacts are looked for.
        policy: what to do when only code changed.
        fingerprints: stage name to code fingerprint.
    """

    store: Store
    policy: Policy
    fingerprints: Mapping[str, Fingerprint]

    def code(self, node: Node) -> str:
        """Return the digest of the code that a node's stage reaches."""
        return code_digest(self.fingerprints[node.stage.name])

    def decide(self, node: Node, contents: Mapping[str, str], making: frozenset[str]) -> Verdict:
        """Decide about one node.

        Args:
            node: the node.
            contents: display name to content digest, for the inputs whose artifact is there and stays.
            making: display names of stages that run or may run before this one.
        """
        waiting = [name for name in node.upstream if name in making]
        try:
            found = self.store.manifest(node.stage.name, node.key)
        except AlteredError as error:
            return Verdict("run", f"{error}; made again")
        if found is None or (not waiting and self._inputs_changed(found, contents)):
            adopted = None if waiting else self._by_content(node, contents)
            if adopted is None:
                return Verdict("run", self._why_new(node) if found is None else self._inputs_changed(found, contents))
            found, adopt = adopted, True
        else:
            adopt = False
        return self._judge(node, found, adopt, waiting)

    def _judge(self, node: Node, found: Manifest, adopt: bool, waiting: list[str]) -> Verdict:
        reason = "same parameters, inputs and code"
        if adopt and found.key != node.key:
            reason = "inputs came out identical to those of an earlier artifact"
        changes = self._code_changes(node, found)
        if changes and self.policy == "rerun":
            return Verdict("run", f"code changed: {_some(changes)}")
        if problems := self.store.problems(found):
            return Verdict("run", f"{_some(problems)}; made again")
        if changes:
            did = "new code recorded" if self.policy == "accept" else "record left"
            reason = f"code changed ({_some(changes)}), but --on-code-change {self.policy}: {did}"
        accept = bool(changes) and self.policy == "accept"
        if waiting:
            return Verdict("check", f"reused if {_some(waiting)} comes out the same again", found, adopt, accept)
        return Verdict("reuse", reason, found, adopt, accept)

    def _code_changes(self, node: Node, found: Manifest) -> list[str]:
        now = self.fingerprints[node.stage.name]
        if found.code == code_digest(now):
            return []
        old = self.store.read_code(found.code)
        return code_changes(old, now) if old else ["the record of the code it was made with is gone"]

    def _inputs_changed(self, found: Manifest, contents: Mapping[str, str]) -> str:
        changed = [f"{i.parameter} ({i.name})" for i in found.inputs if contents.get(i.name, i.content) != i.content]
        return f"input has other content: {_some(changed)}" if changed else ""

    def _by_content(self, node: Node, contents: Mapping[str, str]) -> Manifest | None:
        return self.store.by_content(node.stage.name, content_key(node, lambda upstream: contents[upstream.name]))

    def _why_new(self, node: Node) -> str:
        """Name what differs from the earlier artifact of this stage that differs least."""
        earlier = self.store.nearest(node.stage.name)
        namesakes = [manifest for manifest in earlier if manifest.name == node.name]
        others = [found for manifest in namesakes or earlier if (found := _differences(node, manifest))]
        if not others:
            return "no artifact of this stage yet"
        return _some(min(others, key=len))


@dataclass(frozen=True)
class Plan:
    """Verdicts by display name, in graph order."""

    graph: Graph
    verdicts: Mapping[str, Verdict]

    def to_run(self) -> list[Node]:
        """Return the nodes that run or may run."""
        return [node for node in self.graph.nodes if self.verdicts[node.name].decision != "reuse"]

    def views(self, uri: str) -> tuple[NodeView, ...]:
        """Return the plan as views."""
        return tuple(view(node, self.verdicts[node.name], uri) for node in self.graph.nodes)


def planner(graph: Graph, store: Store, policy: Policy) -> Planner:
    """Fingerprint the code of every stage once, and return what decides.

    Raises:
        FingerprintError: the code of a stage cannot be followed.
    """
    reader = Fingerprinter()
    stages = {node.stage.name: node.stage.function for node in graph.nodes}
    fingerprints = {name: reader.of(function) for name, function in stages.items()}
    reader.save()
    return Planner(store, policy, fingerprints)


def make_plan(graph: Graph, decider: Planner) -> Plan:
    """Decide about every node as far as can be told before anything runs."""
    verdicts: dict[str, Verdict] = {}
    contents: dict[str, str] = {}
    making: set[str] = set()
    for node in graph.nodes:
        verdict = verdicts[node.name] = decider.decide(node, contents, frozenset(making))
        if verdict.decision == "reuse" and verdict.manifest is not None:
            contents[node.name] = verdict.manifest.content
        else:
            making.add(node.name)
    return Plan(graph, verdicts)


def view(node: Node, verdict: Verdict, store: str) -> NodeView:
    """Return one node as a view; costs are those of the artifact's making."""
    made = verdict.manifest
    base = NodeView(node.name, node.stage.name, node.key, node.upstream, verdict.decision, verdict.reason)
    if made is None:
        return base
    return NodeView(
        *(base.name, base.stage, base.key, base.upstream, base.decision, base.reason),
        wall_s=made.wall_s,
        core_s=made.core_s,
        core_source=made.core_source,
        gpu_s=made.gpu_s,
        started=made.started,
        uri=f"{store}/{made.path}",
        fields=made.fields,
    )


def _differences(node: Node, manifest: Manifest) -> list[str]:
    """Field by field, then input by input."""
    new, old = flatten(dict(node.identity)), flatten(manifest.identity)
    taken = {record.parameter: record.key for record in manifest.inputs}
    parts: list[str] = []
    for name in dict.fromkeys([*new, *old]):
        is_input = name in taken or any(parameter.partition("[")[0] == name for parameter, _ in node.inputs)
        if not is_input and (name not in old or name not in new or not _same(old[name], new[name])):
            parts.append(f"{name} {_show(old.get(name, '(none)'))} -> {_show(new.get(name, '(none)'))}")
    for parameter, upstream in node.inputs:
        if taken.get(parameter) != upstream.key:
            parts.append(f"input {parameter} is another artifact of {upstream.name}")
    return parts


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def _show(value: object) -> str:
    text = repr(value) if isinstance(value, str) and value != "(none)" else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _some(parts: list[str]) -> str:
    more = f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
    return ", ".join(parts[:SHOWN]) + more
