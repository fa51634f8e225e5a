"""Stages and a pipeline for tests that make artifacts without Ray."""

from dataclasses import dataclass, field
from pathlib import Path

from pipelines.dsl import Artifact, Graph, Resources, RunView, StageContext, Store, pipeline, stage
from pipelines.dsl.graph import Node, content_key, resolve
from pipelines.dsl.manifest import InputRecord, Manifest, content_of
from pipelines.dsl.plan import Planner
from pipelines.dsl.worker import Success, Work, perform, restore


@dataclass(frozen=True)
class Data:
    count: int = 4
    seed: int = 1


@dataclass(frozen=True)
class Recipe:
    data: Data = field(default_factory=Data)
    factor: float = 2.0


@dataclass(frozen=True)
class Text(Artifact):
    length: int


@stage()
def write(ctx: StageContext, data: Data) -> Text:
    (ctx.output / "part.txt").write_text("x" * data.count)
    (ctx.output / "more").mkdir()
    (ctx.output / "more" / "other.txt").write_text("constant")
    return Text.of(length=data.count)


@stage()
def measure(ctx: StageContext, text: Text, factor: float) -> Text:
    return Text.of(length=int(len((text.local() / "part.txt").read_text()) * factor))


@pipeline
def small(recipe: Recipe) -> Text:
    return measure(write(recipe.data), recipe.factor)


def make(graph: Graph, store: Store, planner: Planner, only: str = "") -> dict[str, Manifest]:
    """Make every artifact of a graph in this process and commit it, as the executor does through Ray."""
    made: dict[str, Manifest] = {}
    for node in graph.nodes:
        if not only or node.name == only:
            made[node.name] = make_one(node, store, planner, made)
    return made


def make_one(node: Node, store: Store, planner: Planner, made: dict[str, Manifest]) -> Manifest:
    def artifact(upstream: Node) -> Artifact:
        manifest = made[upstream.name]
        return restore(upstream.stage.output, manifest.fields, store.files.join(manifest.path), upstream.key)

    path = store.new_attempt(node.stage.name, node.key)
    view = RunView("test", "small")
    work = Work(
        node.stage,
        resolve(node, artifact),
        node.name,
        store.uri,
        path,
        "work/x",
        None,
        view,
        Resources(),
        lambda _: None,
    )
    done = perform(work)
    assert isinstance(done, Success), done
    manifest = Manifest(
        stage=node.stage.name,
        name=node.name,
        key=node.key,
        content_key=content_key(node, lambda upstream: made[upstream.name].content),
        identity=dict(node.identity),
        inputs=tuple(InputRecord(p, up.name, up.key, made[up.name].content) for p, up in node.inputs),
        path=path,
        files=done.files,
        fields=done.fields,
        content=content_of(done.files, done.fields, node.name),
        code=store.write_code(planner.fingerprints[node.stage.name]),
        environment=done.environment,
        started=done.started,
        wall_s=done.wall_s,
        core_s=done.core_s,
        core_source=done.core_source,
        gpu_s=done.gpu_s,
        attempts=1,
        host=done.host,
    )
    store.commit(manifest)
    return manifest


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
