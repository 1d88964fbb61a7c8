import typer

from experiments.cli.main import ended
from experiments.search.replay import main

ended(lambda: typer.run(main))
