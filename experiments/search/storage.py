"""Where the trials of a study lie: an optuna storage of this machine, or one that many machines reach."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages._rdb.models import BaseModel
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from compress.choices import nearest
from compress.errors import BadInput
from experiments.search.study import Study
from experiments.search.trials import RECIPE_ID
from hmr.home import fasthmr_home

KINDS = ("sqlite", "postgresql")
BESIDE = {"alembic_version", "sqlite_sequence"}  # tables of what optuna stands on
LOCKED, WRITES = 10, 60  # seconds to wait at the start for whoever has a file, and later for another worker's write
HEARTBEAT, GRACE = 5, 20  # seconds: how often a worker says that it is alive, and when it counts as dead
MADE_FOR, ASKED = "made_for", "asked"  # attributes of a study


def default_storage(name: str) -> str:
    """A database for each study, in $FASTHMR_HOME, whose folder a search makes."""
    return f"sqlite:///{(fasthmr_home() / 'searches' / f'{name}.sqlite3').absolute()}"


def refuse_url(url: str, study: str = "") -> None:
    """Raise BadInput, before any file is made, for what is no storage that workers can share and that lasts; where a
    `study` should be in it already, also for a file that is not there."""
    try:
        found = sqlalchemy.make_url(url)
    except SQLAlchemyError as error:
        raise unreachable(url, error) from error
    if (kind := found.get_backend_name()) not in KINDS:
        raise BadInput(f"--storage {shown(url)}: there is no storage '{kind}': {nearest(kind, KINDS)}")
    if kind == "postgresql":
        return
    if found.host or found.database in (None, "", ":memory:") or found.database.startswith("file:") or found.query:
        raise BadInput(
            f"--storage {shown(url)}: names no file, and a study in memory ends with its process: write sqlite:///PATH"
        )
    path = Path(found.database)
    if not path.exists():
        if study:
            raise BadInput(f"--storage {shown(url)}: no such file, so there is no study '{study}' yet: search first")
        return
    if path.is_dir() or (path.stat().st_size and not of_studies(path, url)):
        raise BadInput(f"--storage {shown(url)}: this is not a database of studies; name another file")


def of_studies(path: Path, url: str) -> bool:
    """Whether a file is a database of optuna's, or the beginning of one. It stays as it is. Raises BadInput where
    another process has locked it."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=LOCKED)) as database:
            database.execute("begin immediate" if os.access(path, os.W_OK) else "begin")
            columns = {*database.execute("select m.name, c.name from sqlite_master m, pragma_table_info(m.name) c "
                                         "where m.type = 'table'")}  # fmt: skip
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise BadInput(f"--storage {shown(url)}: another process has locked it; wait for that one") from error
        return False
    made = {(table.name, column.name) for table in BaseModel.metadata.tables.values() for column in table.columns}
    return made <= columns or {name for name, _ in columns} - BESIDE <= {name for name, _ in columns & made}


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


class Storage(RDBStorage):
    """optuna's, whose heartbeats, in a thread of their own, say nothing where they cannot be written: the trial's next
    write says why."""

    def record_heartbeat(self, trial_id: int) -> None:
        with suppress(StorageInternalError, SQLAlchemyError):
            super().record_heartbeat(trial_id)


def connected(url: str, again: bool = True) -> RDBStorage:
    """The storage; workers that fell silent have their trials run again. Raises as `refuse_url`, and as SQLAlchemy, see
    `reaching`."""
    quiet()
    refuse_url(url)
    waiting = {"timeout": WRITES} if url.startswith("sqlite") else {}
    try:
        return Storage(
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
    refuse_url(url, spec.name)
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
