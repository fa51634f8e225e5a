"""Ray Tune around an objective: OptunaSearch proposes, ASHA stops what falls behind, every event is committed."""

import os
import posixpath
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from tuning.records import FINISHED, Report, SweepFolder, TrialRecord
from tuning.space import Range, distributions

if TYPE_CHECKING:
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter

Objective = Callable[[Mapping[str, float], int], float]
"""`(value by field, optimizer updates) -> score` in 0 to 1, higher is better. Picklable; called on a worker."""

Say = Callable[[str], None]

REDUCTION = 3
"""ASHA keeps the best 1 of this many at each rung."""

WORST_SCORE = 0.0
PROGRESS_S = 5.0
METRIC, TIME = "score", "updates"


class DivergedError(RuntimeError):
    """Raised by an objective whose training went to NaN: the values are bad, the trial counts as the worst score."""


class SweepError(RuntimeError):
    """The sweep could not finish its trials; the message says which and the mend."""


@dataclass(frozen=True)
class SearchSettings:
    """How a sweep runs.

    Attributes:
        trials: trials in total, those of earlier starts of the same sweep included.
        rungs: growing numbers of updates at which a trial is scored; the last is the full length.
        concurrent: trials that run side by side.
        seed: seed of the sampler.
    """

    trials: int
    rungs: tuple[int, ...]
    concurrent: int = 1
    seed: int = 0


def rungs_of(updates: int) -> tuple[int, ...]:
    """Lengths at which trials are compared: `updates` divided by `REDUCTION`, rounded up, and `updates`."""
    return tuple(sorted({-(-updates // REDUCTION), updates}))


def search(
    objective: Objective,
    space: tuple[Range, ...],
    start: Mapping[str, float],
    settings: SearchSettings,
    folder: SweepFolder,
    say: Say = print,
    progress: Callable[[], str] | None = None,
) -> list[TrialRecord]:
    """Run the trials that are still missing and return all of them.

    Trials that the folder knows as finished are told to the sampler and to ASHA and not run again; trials that were cut
    off are run again first, with the same values.

    Args:
        objective: what is maximized.
        space: ranges by field.
        start: values of the very first trial.
        settings: lengths and counts.
        folder: where trials are committed.
        say: takes one line about what happened.
        progress: gives the latest line from inside a running trial, empty if there is none.

    Raises:
        SweepError: trials broke for reasons other than their values; the finished ones are kept.
        KeyboardInterrupt: interrupted; likewise.
    """
    known = folder.load()
    finished = [record for record in known if record.state in FINISHED]
    missing = settings.trials - len(finished)
    if known:
        say(f"continuing: {len(finished)} of {settings.trials} trials are done already")
    if missing <= 0:
        return known
    cut_off = [record for record in known if record.state not in FINISHED]
    first = [record.params for record in cut_off] or ([dict(start)] if not known else [])
    log = _TrialLog(folder, known, settings, say, progress or (lambda: ""))
    searcher = _searcher(space, first, finished, settings)
    _run(objective, searcher, _asha(finished, settings), missing, settings, folder, log)
    broken = [record for record in log.records.values() if record.state == "broken"]
    if broken:
        raise SweepError(
            f"{len(broken)} trial(s) broke: trial {broken[0].number}: {broken[0].error}. The finished ones are kept in "
            f"{folder.uri}; mend the cause and run the same command again"
        )
    if any(record.state not in FINISHED for record in log.records.values()) or len(log.records) < settings.trials:
        # Tune takes Ctrl-C as a wish to end early and returns as if all were well.
        raise KeyboardInterrupt
    return folder.load()


def _run(
    objective: Objective,
    searcher: "ConcurrencyLimiter",
    scheduler: "ASHAScheduler",
    missing: int,
    settings: SearchSettings,
    folder: SweepFolder,
    log: "_TrialLog",
) -> None:
    # CSV, JSON and Tensorboard files of every trial would repeat the records, Tune's tables the lines of progress.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    from ray import tune

    class Commit(tune.Callback):
        """Hands Tune's events to the log, in the driver: one writer, so records never conflict."""

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            log.started(trial.trial_id, trial.config)

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
            log.reported(trial.trial_id, result)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            log.completed(trial.trial_id)

        def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
            log.tick()

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            log.broke(trial.trial_id, str(trial.get_error() or "the trial ended without an error of its own"))

    trainable = tune.with_parameters(_trial, objective=objective, rungs=settings.rungs)
    # A trial only waits for its stages, which reserve what they need themselves. Tune refuses a trial that reserves
    # nothing at all, and .01 CPU here leaves .99 of 2 beside two train workers of .5: the data task of 1 never starts.
    trainable = tune.with_resources(trainable, {"CPU": 0, "memory": 1})
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(search_alg=searcher, scheduler=scheduler, num_samples=missing),
        run_config=tune.RunConfig(
            name="tune", storage_path=posixpath.join(folder.uri, "ray"), verbose=0, callbacks=[Commit()]
        ),
    )
    tuner.fit()


def _trial(config: dict[str, float], objective: Objective, rungs: Sequence[int]) -> None:
    import ray
    from ray import tune

    # Everything a trial starts is otherwise confined to the trial's own placement group and waits for ever.
    outside = ray.remote(_score).options(num_cpus=0, max_retries=0, scheduling_strategy="DEFAULT")
    for updates in rungs:
        score, failure = ray.get(outside.remote(objective, config, updates))
        length = rungs[-1] if failure else updates
        tune.report({METRIC: score, TIME: length, "failure": failure})
        if failure:
            return


def _score(objective: Objective, config: Mapping[str, float], updates: int) -> tuple[float, str]:
    try:
        return objective(config, updates), ""
    except DivergedError as error:
        return WORST_SCORE, str(error)


def _searcher(
    space: tuple[Range, ...],
    first: list[dict[str, float]],
    finished: Sequence[TrialRecord],
    settings: SearchSettings,
) -> "ConcurrencyLimiter":
    import optuna
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Half of a short sweep explores at random (Optuna's default of 10 would be all of it). A continued sweep needs
    # other random numbers than the ones it has used up.
    sampler = optuna.samplers.TPESampler(
        seed=settings.seed + len(finished), n_startup_trials=min(10, max(2, settings.trials // 2))
    )
    searcher = OptunaSearch(
        cast(Any, distributions(space)), metric=METRIC, mode="max", points_to_evaluate=first, sampler=sampler
    )
    for record in finished:
        searcher.add_evaluated_point(record.params, record.score)
    return ConcurrencyLimiter(searcher, max_concurrent=settings.concurrent)


def _asha(finished: Sequence[TrialRecord], settings: SearchSettings) -> "ASHAScheduler":
    """ASHA that has seen the reports of earlier starts, so that a continued sweep stops trials by the same bar."""
    from ray.tune.schedulers import ASHAScheduler

    scheduler = ASHAScheduler(
        time_attr=TIME,
        metric=METRIC,
        mode="max",
        max_t=settings.rungs[-1],
        grace_period=settings.rungs[0],
        reduction_factor=REDUCTION,
    )
    for record in finished:
        trial = cast(Any, SimpleNamespace(trial_id=f"finished-{record.number}"))
        scheduler.on_trial_add(cast(Any, None), trial)
        for report in record.reports:
            scheduler.on_trial_result(cast(Any, None), trial, {METRIC: report.score, TIME: report.updates})
    return scheduler


class _TrialLog:
    """Turns Tune's events into committed records and lines of progress."""

    def __init__(
        self,
        folder: SweepFolder,
        known: Sequence[TrialRecord],
        settings: SearchSettings,
        say: Say,
        progress: Callable[[], str],
    ) -> None:
        self.folder, self.settings, self.say, self.progress = folder, settings, say, progress
        self.last_line, self.last_time = "", 0.0
        self.records = {record.number: record for record in known}
        self.waiting = [record for record in known if record.state not in FINISHED]
        self.number_of: dict[str, int] = {}
        self.clock: dict[str, float] = {}

    def tick(self) -> None:
        """Pass on the newest line from inside the trials, at most every `PROGRESS_S` seconds."""
        now = time.monotonic()
        if now - self.last_time < PROGRESS_S:
            return
        self.last_time = now
        line = self.progress()
        if line not in ("", self.last_line):
            self.last_line = line
            self.say(f"  {line}")

    def started(self, trial: str, params: Mapping[str, float]) -> None:
        values = {name: float(value) for name, value in params.items()}
        again = next((record for record in self.waiting if record.params == values), None)
        if again is not None:
            self.waiting.remove(again)
        number = again.number if again is not None else max(self.records, default=-1) + 1
        self.number_of[trial], self.clock[trial] = number, time.monotonic()
        self._commit(TrialRecord(number, values))
        shown = ", ".join(f"{name} {value:.3g}" for name, value in sorted(values.items()))
        self.say(f"trial {number + 1}/{self.settings.trials}: {shown}")

    def reported(self, trial: str, result: Mapping[str, Any]) -> None:
        record = self._current(trial)
        report = Report(int(result[TIME]), float(result[METRIC]))
        failure = str(result["failure"])
        self._commit(replace(record, reports=(*record.reports, report), error=failure))
        if not failure:
            best = max((r.score for r in self.records.values() if r.state == "done"), default=None)
            beside = "" if best is None else f" (best so far {best:.3f})"
            length = f"{report.updates} of {self.settings.rungs[-1]} updates"
            self.say(
                f"trial {record.number + 1}/{self.settings.trials}: score {report.score:.3f} after {length}{beside}"
            )

    def completed(self, trial: str) -> None:
        record = self._current(trial)
        if not record.reports:
            return
        full = record.reports[-1].updates >= self.settings.rungs[-1]
        state = "failed" if record.error else "done" if full else "stopped"
        self._commit(replace(record, state=state))
        if state != "done":
            self.say(f"trial {record.number + 1}/{self.settings.trials}: {state} {record.error}".rstrip())

    def broke(self, trial: str, error: str) -> None:
        record = replace(self._current(trial), state="broken", error=error.strip().splitlines()[-1])
        self._commit(record)
        self.say(f"trial {record.number + 1}/{self.settings.trials}: broke: {record.error}")

    def _current(self, trial: str) -> TrialRecord:
        seconds = time.monotonic() - self.clock[trial]
        return replace(self.records[self.number_of[trial]], seconds=seconds)

    def _commit(self, record: TrialRecord) -> None:
        self.records[record.number] = record
        self.folder.save(record)
