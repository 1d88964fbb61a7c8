"""`fasthmr search`: many recipes measured by any number of workers, on any machines, into one optuna study."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import optuna
import torch
from filelock import FileLock
from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from compress.atomic import alone, writing
from compress.context import Observer, silent
from compress.errors import BadInput, Taken
from compress.recipe import Recipe
from experiments.search.early import NoFurther
from experiments.search.lab import FAILURES, Lab
from experiments.search.machine import machine, one_device
from experiments.search.pareto import contributions, reference_point
from experiments.search.processes import supervised
from experiments.search.sampling import sampler, suggested
from experiments.search.storage import (
    ASKED,
    MADE_FOR,
    asked_for,
    connected,
    reaching,
    refuse_other,
    refuse_url,
    revive,
)
from experiments.search.study import Study
from experiments.search.trials import (
    BASELINE,
    BROKEN,
    CONSTRAINT,
    DRAWN,
    IMPOSSIBLE,
    REASON,
    RECIPE,
    RECIPE_ID,
    RECORD,
    SAME_AS,
    STOPPED,
    Later,
    Record,
    Trial,
    front_of,
    later,
    read,
    trials_of,
    written,
)
from hmr.evaluation.measure import body_for
from hmr.home import fasthmr_home

POLL = 0.5  # seconds between looks at what other workers do
FAR_MM = 1000.0  # how far from feasible an impossible recipe is
IN_VAIN = 100  # trials in a row that failed, after which a search gives up


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchJob:
    """A study, where its trials are kept, and how many of them there shall be."""

    spec: Study
    storage: str
    trials: int
    workers: int = 1
    label_free: bool = False
    masks: str | None = None


class FailedBefore(RuntimeError):
    """A recipe whose trial failed is not tried again."""


def search(job: SearchJob, observer: Observer = silent) -> list[Trial]:
    """Measure until `job.trials` trials of the study are complete, then the front on test; returns all trials.

    Goes on where an earlier search of the same study stopped. Raises BadInput for a study that was made for something
    else, a storage that cannot be reached or written, a recipe that does not fit the model, and where trials only fail.
    """
    if "latency_ms" in job.spec.objectives and job.workers > 1:
        raise BadInput("parallel workers disturb the measured latency: use --workers 1, or macs as objective")
    refuse_url(job.storage)
    with reaching(job.storage):
        lab = Lab(job.spec, job.label_free, job.masks, observer)
        lab.refuse(job.spec.recipe)
        for words in lab.space.left_out:
            log.warning("space: %s", words)
        with writing(fasthmr_home()):
            (fasthmr_home() / "searches").mkdir(parents=True, exist_ok=True)
        study = opened(job)
        record_purpose(study, job, lab)
        enqueue_baselines(study, job.spec, lab.budgeted)
        for values in lab.space.first:
            study.enqueue_trial(dict(values), skip_if_exists=True)
        if job.workers == 1:
            work(job, lab=lab)
        else:
            with TemporaryDirectory() as shared:
                each = partial(work, job, shared=Path(shared))
                supervised(each, job.workers, progress_of(job, study, observer), one_device)
        return trials_of(study, job.spec)


def opened(job: SearchJob) -> optuna.Study:
    """The study in its storage, made where there is none."""
    return optuna.create_study(
        storage=connected(job.storage),
        study_name=job.spec.name,
        directions=["minimize"] * len(job.spec.objectives),
        load_if_exists=True,
    )


def record_purpose(study: optuna.Study, job: SearchJob, lab: Lab) -> None:
    """Write what the study is made for into it; raises BadInput where it was made for something else."""
    mine = {
        **asked_for(job.spec),
        "model": lab.model.sha256,
        "data": str(lab.opened("val").spec),
        "body": body_for(lab.opened("val"), lab.model).sha256,
        "label_free": job.label_free,
    }
    if MADE_FOR in study.user_attrs or study.get_trials(deepcopy=False):
        refuse_other(study, mine, job.storage)
    else:
        study.set_metric_names(list(job.spec.objectives))
        study.set_user_attr(MADE_FOR, mine)
    study.set_user_attr(ASKED, {"label_free": job.label_free, "masks": job.masks})


def enqueue_baselines(study: optuna.Study, spec: Study, budgeted: Callable[[float], Recipe] | None = None) -> None:
    """Put what is made by hand or by a ranking before all that is drawn; what is there stays, unless it was stopped.

    budgeted: the recipe of a share of MACs, where budgets are ranked for. Raises BadInput for one that cannot be."""
    there = {t.user_attrs.get(BASELINE) for t in study.get_trials(deepcopy=False) if t.state != TrialState.FAIL}
    ranked = {f"budget {share:g}": share for share in spec.budgets if budgeted and f"budget {share:g}" not in there}
    made = spec.made_by_hand() | {name: budgeted(share) for name, share in ranked.items() if budgeted}
    for name, recipe in made.items():
        if name not in there:
            study.enqueue_trial({}, user_attrs={BASELINE: name, RECIPE: recipe.model_dump(mode="json")})


# ---- a worker


def work(job: SearchJob, worker: int = 0, lab: Lab | None = None, shared: Path | None = None) -> None:
    """Run trials until the study has as many as asked, then what this worker takes of what is measured of the front.

    shared: a folder of all workers on this machine, where the first that needs what all need leaves it. Each worker has
    one thread: so figures do not depend on how many workers there are.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with reaching(job.storage), machine(alone="latency_ms" in job.spec.objectives):
            lab = lab or Lab(job.spec, job.label_free, job.masks, shared=shared)
            study = opened(job)
            # each worker's has a seed of its own, and each start's
            study.sampler = sampler(lab.space, worker, len(study.get_trials(deepcopy=False)))
            run_trials(study, job, lab)
            run_rest(study, job, lab)
    finally:
        torch.set_num_threads(threads)


def run_trials(study: optuna.Study, job: SearchJob, lab: Lab) -> None:
    """Trial after trial until enough are complete and none is running."""
    digest = hashlib.sha256(f"{job.storage} {job.spec.name}".encode()).hexdigest()
    path = fasthmr_home() / "searches" / f"{digest[:32]}.lock"
    gate, progress = ExitStack(), progress_of(job, study, lab.observer)

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        gate.close()  # this trial is running, so the others can count it
        return measured(study, trial, lab)

    while True:
        with gate:
            gate.enter_context(FileLock(path))
            turn = turn_of(study, job.trials)
            if turn:
                # optuna raises where this worker was silent for so long that another one has run its trial again
                with suppress(UpdateFinishedTrialError):
                    study.optimize(objective, n_trials=1)
        parent = multiprocessing.parent_process()
        if turn is None or (parent is not None and not parent.is_alive()):
            return
        if not turn:
            time.sleep(POLL)
        progress()


def progress_of(job: SearchJob, study: optuna.Study, observer: Observer) -> Callable[[], int]:
    """What tells the observer how many trials are complete, and returns it."""

    def report_complete() -> int:
        complete = sum(map(looked_at, study.get_trials(deepcopy=False)))
        observer(f"trials of {job.spec.name}", "", min(complete, job.trials), job.trials)
        return complete

    return report_complete


def looked_at(trial: FrozenTrial) -> bool:
    """Whether a trial was measured, on all recordings or on as many as it took."""
    return trial.state == TrialState.COMPLETE or STOPPED in trial.user_attrs


def turn_of(study: optuna.Study, wanted: int) -> bool | None:
    """True: there is a trial to run. False: others run all that are left. None: there are enough.

    Raises BadInput where of the last trials none could be measured.
    """
    revive(study)
    trials = study.get_trials(deepcopy=False)
    complete, running = sum(map(looked_at, trials)), sum(t.state == TrialState.RUNNING for t in trials)
    if complete >= wanted:
        return False if running else None
    last = max((t.number for t in trials if looked_at(t)), default=-1)
    reasons = [t.user_attrs[REASON] for t in trials[last + 1 :] if REASON in t.user_attrs]
    if len(reasons) >= IN_VAIN:
        raise BadInput(f"of the last {len(reasons)} recipes none could be measured: narrow the space ({reasons[-1]})")
    return complete + running < wanted


def measured(study: optuna.Study, trial: optuna.Trial, lab: Lab) -> tuple[float, ...]:
    """The values of a trial. A recipe that any worker has measured or measures now is not measured again.

    Raises TrialPruned where the recipe cannot be done or fails: optuna's samplers learn nothing from trials of state
    FAIL, and TPE would draw such recipes again and again; of a pruned one that is infeasible it keeps clear. Which of
    both it was stands in BROKEN. What the system refuses, as on a full disk, is no trial's fault and ends the worker.
    """
    spec = lab.study
    try:
        recipe = suggested(trial, lab.space, lab.after)
        trial.set_user_attr(DRAWN, recipe.model_dump(mode="json"))
        trial.set_user_attr(RECIPE_ID, recipe.id)
        earlier = known(study, trial.number, recipe.id)
        record = earlier[1] if earlier else lab.measure(recipe, incumbents(study, spec))
    except NoFurther as stopped:
        trial.set_user_attr(STOPPED, True)
        trial.set_user_attr(REASON, str(stopped))
        trial.set_constraint(IMPOSSIBLE, stopped.why.least_mm)
        raise TrialPruned from stopped
    except FAILURES as error:
        if not isinstance(error, BadInput):
            trial.set_user_attr(BROKEN, True)
        trial.set_user_attr(REASON, str(error) if isinstance(error, BadInput | FailedBefore) else repr(error))
        trial.set_constraint(IMPOSSIBLE, FAR_MM)
        raise TrialPruned from error
    trial.set_user_attr(RECORD, written(record))
    if earlier:
        trial.set_user_attr(SAME_AS, earlier[0])
    if spec.max_error_mm is not None:
        # optuna 5 has this in the place of samplers' constraints_func; no other way stops a trial of many objectives
        trial.set_constraint(CONSTRAINT, record.mpjpe_mm.mean - spec.max_error_mm)
    return record.values(spec.objectives)


def incumbents(study: optuna.Study, spec: Study) -> list[Record]:
    """What recipes are compared with while they are measured: under the sampler `budgets`, all that were measured, if
    MACs and error alone decide."""
    if spec.sampler != "budgets" or {*spec.objectives} != {"macs", "mpjpe_mm"}:
        return []
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [record for t in complete if (record := read(t.user_attrs.get(RECORD)))]


def known(study: optuna.Study, number: int, recipe_id: str) -> tuple[int, Record] | None:
    """(trial, record) of a recipe that was measured already; waits where an earlier trial measures it just now.

    Each trial names its recipe before it looks for others, and waits for earlier ones that have not named theirs: so
    that of two at once one sees the other (Lamport's bakery). Raises BadInput with the reason why it could not be
    measured before, FailedBefore where it failed.
    """
    while True:
        others = [t for t in study.get_trials(deepcopy=False) if t.number != number]
        same = [t for t in others if t.user_attrs.get(RECIPE_ID) == recipe_id]
        for t in same:
            record = read(t.user_attrs.get(RECORD))
            if record:
                return t.user_attrs.get(SAME_AS, t.number), record
            if REASON in t.user_attrs:
                raise (FailedBefore if BROKEN in t.user_attrs else BadInput)(t.user_attrs[REASON])
        running = [t for t in others if t.number < number and t.state == TrialState.RUNNING]
        if not any(t.user_attrs.get(RECIPE_ID, recipe_id) == recipe_id for t in running):
            return None
        time.sleep(POLL)
        revive(study)


# ---- after the trials


def run_rest(study: optuna.Study, job: SearchJob, lab: Lab) -> None:
    """Measure what is left of the rest and no other worker of this machine has in hand, and write it into the study."""
    items = rest(trials_of(study, job.spec), job.spec, lab)
    for i, (kind, name, measure) in enumerate(items):
        with ExitStack() as held:
            try:
                held.enter_context(alone(lab.shared / f"item-{i}") if lab.shared else nullcontext())
            except Taken:
                continue
            if later(kind, "test", name) not in study.user_attrs:
                lab.observer(f"front of {job.spec.name}", "", i, len(items))
                for split, record in measure().items():  # test comes last
                    study.set_user_attr(later(kind, split, name), written(record))


def rest(trials: Sequence[Trial], spec: Study, lab: Lab) -> list[tuple[Later, str, Callable[[], dict[str, Record]]]]:
    """(kind, recipe id or model, what measures it): the original, recovery of the best, rivals, front and baselines on
    test."""
    front = front_of(trials, spec.objectives)
    shown = [t for t in trials if t in front or (t.name and t.same_as is None)]
    records = [t.record for t in shown if t.record]
    originals = [record for record in records if not record.plans]
    return [
        *(("front", record.recipe_id, partial(lab.again, record)) for record in originals),  # all others wait for it
        *(("recovered", record.recipe_id, partial(lab.recovered, record)) for record in best(front, trials, spec)),
        *(("rival", name, partial(lab.rival, name)) for name in spec.rivals),
        *(("front", record.recipe_id, partial(lab.again, record)) for record in records if record not in originals),
    ]


def best(front: Sequence[Trial], trials: Sequence[Trial], spec: Study) -> list[Record]:
    """The records of the front's points that changed the model and whose loss would cost most hypervolume."""
    if spec.recover is None:
        return []
    records = [t.record for t in front if t.record]
    every = [t.record.values(spec.objectives) for t in trials if t.state == "complete" and t.record]
    lost = contributions([record.values(spec.objectives) for record in records], reference_point(every))
    changed = [i for i, record in enumerate(records) if not all(plan.empty for plan in record.plans)]
    return [records[i] for i in sorted(changed, key=lambda i: -lost[i])[: spec.recover.points]]
