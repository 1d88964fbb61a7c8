"""`make search-postgres`: a search by two workers on a real PostgreSQL server, of Debian's package `postgresql`.

python -m experiments.search.postgresql STUDY [--trials N] [--workers N]
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import sqlalchemy
import typer

from compress.errors import BadInput
from experiments.cli.main import ended
from experiments.cli.options import StudyFile
from experiments.search.storage import loaded
from experiments.search.study import read_study
from experiments.search.trials import trials_of

PROGRAMS = Path("/usr/lib/postgresql")  # where Debian has them, by version


@contextmanager
def server() -> Iterator[str]:
    """The URL of a server of its own, on this machine alone, which is gone when the block ends. It refuses to run as
    root, so there it runs as nobody. Raises BadInput where it is not installed, CalledProcessError where it fails."""
    folders = sorted(PROGRAMS.glob("*/bin"))
    found = shutil.which("initdb") or (folders and folders[-1] / "initdb")
    if not found:
        raise BadInput("PostgreSQL's initdb is not installed: apt-get install postgresql")
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp())
    if user:
        shutil.chown(folder, user)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def do(program: str, *words: object) -> None:
        command = [str(Path(found).with_name(program)), "-D", str(folder / "data"), *map(str, words)]
        subprocess.run(command, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)

    do("initdb", "-A", "trust", "-U", "fasthmr", "--no-sync")
    do("pg_ctl", "-w", "-l", folder / "log", "-o", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1", "start")
    try:
        yield f"postgresql://fasthmr@127.0.0.1:{port}/postgres"
    finally:
        do("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def main(
    study: StudyFile,
    trials: Annotated[int, typer.Option(min=1, help="Number of completed trials.")] = 12,
    workers: Annotated[int, typer.Option(min=1, help="Processes, with one thread each.")] = 2,
) -> None:
    """Search on a server that is started for it, and say what lies in its tables."""
    spec = read_study(study)
    with server() as url:
        command = [sys.executable, "-m", "experiments.cli", "search", study, "--storage", url]
        subprocess.run([*command, "--trials", str(trials), "--workers", str(workers)], check=True)
        found = trials_of(loaded(spec, url), spec)
        engine = sqlalchemy.create_engine(url)
        with engine.connect() as database:
            version = database.execute(sqlalchemy.text("show server_version")).scalar_one()
        engine.dispose()
    complete = sum(trial.state == "complete" for trial in found)
    typer.echo(f"PostgreSQL {version}: {len(found)} trials by {workers} workers, {complete} of them complete")


if __name__ == "__main__":
    ended(lambda: typer.run(main))
