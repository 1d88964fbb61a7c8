"""Where the trials of a study lie: an optuna storage of this machine, or one that many machines reach."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from compress.errors import BadInput
from experiments.search.study import Study
from experiments.search.trials import RECIPE_ID
from hmr.home import fasthmr_home

HEARTBEAT, GRACE = 5, 20  # seconds: how often a worker says that it is alive, and when it counts as dead
MADE_FOR, ASKED = "made_for", "asked"  # attributes of a study


def default_storage(name: str) -> str:
    """A database for each study, in $FASTHMR_HOME."""
    folder = fasthmr_home() / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{(folder / f'{name}.sqlite3').absolute()}"


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn what goes wrong with a storage into a sentence. The URL is told without its password."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, json.JSONDecodeError) as error:
        raise unreachable(url, error) from error


def unreachable(url: str, error: Exception) -> BadInput:
    """What is wrong with a storage, in a sentence."""
    cause = error.__cause__ or error
    what = str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
    hint = "" if "://" in url else "; write sqlite:///PATH or postgresql://USER@HOST/NAME"
    return BadInput(f"--storage {shown(url)}: {what}{hint}")


def shown(url: str) -> str:
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return url


def connected(url: str, again: bool = True) -> RDBStorage:
    """The storage; workers that fell silent have their trials run again. Raises as SQLAlchemy, see `reaching`."""
    quiet()
    waiting = {"timeout": 60} if url.startswith("sqlite") else {}  # seconds for another worker's write
    try:
        return RDBStorage(
            url,
            engine_kwargs={"pool_pre_ping": True, "connect_args": waiting},
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
        )
    except (IntegrityError, ProgrammingError, OperationalError) as error:
        if again and any(word in str(error) for word in ("already exists", "duplicate key")):
            time.sleep(1)  # another machine has made the tables just now
            return connected(url, again=False)
        raise
    except (RuntimeError, ValueError, ImportError) as error:  # tables of another version of optuna; a driver is missing
        raise unreachable(url, error) from error


def quiet() -> None:
    """optuna tells of each trial, and that heartbeats and constraints are new."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)


def asked_for(spec: Study) -> dict[str, Any]:
    """What of a study file its trials depend on, as JSON values; space, sampler and baselines may change."""
    parts = {"frames": spec.frames.model_dump(), "objectives": list(spec.objectives)}
    return {**parts, "steps": spec.recipe.id, "max_error_mm": spec.max_error_mm}


def refuse_other(study: optuna.Study, mine: dict[str, Any], url: str) -> None:
    """Raise BadInput where a study was made for something else than `mine`."""
    theirs: dict[str, Any] = study.user_attrs.get(MADE_FOR, {})
    unlike = [name for name in mine if theirs.get(name) != mine[name]]
    if unlike:
        raise BadInput(
            f"the study '{study.study_name}' in {shown(url)} was made for other {', '.join(unlike)}: give this one "
            "another name, or another --storage"
        )


def loaded(spec: Study, url: str) -> optuna.Study:
    """The study as an earlier search left it; raises BadInput where there is none or it is another one."""
    with reaching(url):
        try:
            study = optuna.load_study(study_name=spec.name, storage=connected(url))
            refuse_other(study, asked_for(spec), url)
            return study
        except KeyError as error:
            raise BadInput(f"--storage {shown(url)}: there is no study '{spec.name}' yet: search first") from error


def revive(study: optuna.Study) -> None:
    """Have trials of dead workers run again.

    optuna sees to those that have a heartbeat; a worker that was killed before its trial's first one left none. What a
    worker does first is to name the recipe.
    """
    fail_stale_trials(study)
    for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        silent = time.time() - t.datetime_start.timestamp() if t.datetime_start else 0.0
        if RECIPE_ID not in t.user_attrs and silent > 3 * GRACE:
            with suppress(ValueError):  # another worker was faster
                study.tell(t.number, state=TrialState.FAIL)
                RetryHeartbeatStaleTrialCallback()(study, t)
