"""From a source to canonical shards: load, decode, filter, quarantine, and count every row.

Ray Data loads and checks blocks of rows in tasks, in kept order; this process writes. Listing and pipeline run in
windows, so memory does not grow with the data set. Pictures are stored as they came (never encoded again); decoding is
a check here.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, cast

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from ray.data import Dataset

from reca.config import DataConfig, ExecutionConfig
from reca.data.decode import DecodeError, check
from reca.data.files import Manifest, record
from reca.data.pipeline import quiet, require_cpu, tables
from reca.data.sets import Row
from reca.data.shards import QUARANTINE, SCHEMA, ShardWriter
from reca.data.sources import Fault, Kind, Source, open_source

WINDOW_BLOCKS = 256
"""Listing blocks handed to Ray Data at a time: 32,768 rows."""

YIELD_BYTES = 16 << 20
"""A task hands its rows on whenever they hold this many image bytes."""

QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "source", "reason", "detail")])
_CHECKED = pa.schema(
    [
        *(column.with_nullable(True) for column in SCHEMA),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)


class QuarantineError(ValueError):
    """More rows were unusable than the budget allows, or all of them."""


@dataclass(frozen=True)
class PrepareReport:
    """Where every row went; `rows_in == rows + quarantined` always.

    Attributes:
        rows_in: rows the source listed.
        rows: rows in the shards.
        quarantined: rows in `quarantine.parquet`.
        reasons: quarantined rows by reason.
        shards: number of shards.
        bytes: size of all shards.
        digest: digest of the whole set.
    """

    rows_in: int
    rows: int
    quarantined: int
    reasons: dict[str, int]
    shards: int
    bytes: int
    digest: str


@dataclass
class _Count:
    rows_in: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


def prepare(
    source: str,
    output: Path,
    data: DataConfig,
    kind: Kind,
    execution: ExecutionConfig | None = None,
    work_uri: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> PrepareReport:
    """Write canonical shards, quarantine and manifest of a source. Ray must be initialized.

    Args:
        source: `twemoji`, or a folder (path or any fsspec URI).
        output: local folder to write into; made when missing.
        data: counts, filters, budget.
        kind: what the rows hold.
        execution: how many tasks may run side by side; never changes a byte of the result.
        work_uri: folder where the quarantine file is kept when the budget is passed; default `output`.
        progress: called with one line now and then.

    Returns:
        Where every row went.

    Raises:
        SourceError: the source is missing or empty.
        QuarantineError: the budget is passed, or no row was usable.
        DatasetError: the source's keys are not unique and increasing.
        RuntimeError: the cluster has no CPU, or rows were lost on the way.
    """
    quiet()
    require_cpu(1, "preparing data")
    opened = open_source(source, data, kind)
    tasks = (execution or ExecutionConfig()).data_tasks
    output.mkdir(parents=True, exist_ok=True)
    count = _Count()
    with (
        ShardWriter(output, data.rows_per_shard) as writer,
        pq.ParquetWriter(output / QUARANTINE, QUARANTINE_SCHEMA) as quarantine,
    ):
        for table in _checked(opened, data, tasks, count):
            faulty = table.column("reason").is_valid()
            good = table.filter(pc.call_function("invert", [faulty]))
            writer.add(good)
            count.kept += good.num_rows
            _quarantine(table.filter(faulty), quarantine, count)
            if progress:
                bad = count.reasons.total()
                progress(f"{source}: {count.rows_in:,} rows listed, {count.kept:,} kept, {bad} quarantined")
        quarantine.close()
        _enforce(count, source, data.max_quarantined, output / QUARANTINE, work_uri)
        about = {"kind": kind, "source": source, "rows_in": count.rows_in, "reasons": dict(count.reasons)}
        manifest = writer.close([record(output / QUARANTINE, count.reasons.total())], about)
    return _report(manifest, count, source)


def _checked(source: Source, data: DataConfig, tasks: int, count: _Count) -> Iterator[pa.Table]:
    """Checked rows in key order; adds the rows listed to `count` as they are handed to the tasks."""
    blocks = source.blocks()
    body = partial(_check_block, source=source, max_pixels=data.max_pixels, min_side=data.min_side)
    while window := list(islice(blocks, WINDOW_BLOCKS)):
        count.rows_in += sum(block.num_rows for block in window)
        listing = cast("Dataset", ray.data.from_arrow(window))
        side_by_side = min(tasks, len(window))
        checked = listing.map_batches(
            body, batch_size=None, batch_format="pyarrow", num_cpus=1, concurrency=side_by_side
        )
        yield from tables(checked)


def _check_block(block: pa.Table, source: Source, max_pixels: int, min_side: int) -> Iterator[pa.Table]:
    rows: list[dict[str, Any]] = []
    held = 0
    for loaded in source.load(block):
        rows.append(_check_row(loaded, max_pixels, min_side))
        held += len(rows[-1]["image"] or b"")
        if held >= YIELD_BYTES:
            yield pa.Table.from_pylist(rows, schema=_CHECKED)
            rows, held = [], 0
    if rows:
        yield pa.Table.from_pylist(rows, schema=_CHECKED)


def _check_row(loaded: Row | Fault, max_pixels: int, min_side: int) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_CHECKED.names)
    row |= {"key": loaded.key, "source": loaded.source}
    if isinstance(loaded, Fault):
        return row | {"reason": loaded.reason, "detail": loaded.detail}
    try:
        width, height = check(loaded.image, max_pixels, min_side)
    except DecodeError as error:
        return row | {"reason": error.reason, "detail": error.detail}
    digest = blake2b(loaded.image, digest_size=16).hexdigest()
    found = {"image": loaded.image, "width": width, "height": height, "digest": digest, "caption": loaded.caption}
    return row | found


def _quarantine(bad: pa.Table, writer: pq.ParquetWriter, count: _Count) -> None:
    if bad.num_rows == 0:
        return
    bad = bad.select(QUARANTINE_SCHEMA.names)
    writer.write_table(bad)
    for row in bad.to_pylist():
        count.reasons[row["reason"]] += 1
        if len(count.examples) < 3:
            count.examples.append(f"{row['key']} ({row['reason']}: {row['detail']})")


def _enforce(count: _Count, source: str, budget: float, path: Path, work_uri: str | None) -> None:
    bad = count.reasons.total()
    if count.kept > 0 and bad <= budget * count.rows_in:
        return
    kept_at = str(path)
    if work_uri:
        kept_at = f"{work_uri.rstrip('/')}/{QUARANTINE}"
        with fsspec.open(kept_at, "wb", auto_mkdir=True) as target:
            cast("Any", target).write(path.read_bytes())
    reasons = ", ".join(f"{number} {reason}" for reason, number in count.reasons.most_common())
    what = (
        f"{bad / max(1, count.rows_in):.2%} is above data.max_quarantined={budget:g}" if count.kept else "all of them"
    )
    raise QuarantineError(
        f"source {source}: {bad} of {count.rows_in} rows quarantined ({reasons}): {what}. For example "
        f"{'; '.join(count.examples)}. All are listed in {kept_at}. Mend or remove those files, or raise "
        "data.max_quarantined (data.min_side and data.max_pixels are the filters)"
    )


def _report(manifest: Manifest, count: _Count, source: str) -> PrepareReport:
    bad = count.reasons.total()
    if count.rows_in != manifest.rows + bad:
        raise RuntimeError(
            f"{source}: {count.rows_in} rows in, but {manifest.rows} kept and {bad} quarantined: rows were lost"
        )
    return PrepareReport(
        rows_in=count.rows_in,
        rows=manifest.rows,
        quarantined=bad,
        reasons=dict(count.reasons),
        shards=len(manifest.shards),
        bytes=sum(shard.bytes for shard in manifest.shards),
        digest=manifest.digest,
    )
