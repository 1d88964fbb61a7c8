"""`fasthmr adapter check`: a network of a user's own, before anything is done with it."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from experiments.cli.options import AsJson
from experiments.cli.output import print_result, result_table

adapter_app = typer.Typer(help="Networks of your own, as MODEL.", no_args_is_help=True)


@adapter_app.command("check")
def check(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="FILE.py or package:Class; its code is run.")],
    as_json: AsJson = False,
) -> None:
    """Prove that the network of ADAPTER can be compressed; says what does not hold and how to mend it."""
    print_result(check_of(adapter), as_json, check_table)


def check_of(adapter: str) -> dict[str, Any]:
    """What `adapter check --json` prints. Raises BadInput for what is no adapter, and where something does not hold."""
    import torch

    from compress.provenance import provenance
    from hmr.adapters.adapter import named
    from hmr.adapters.check import checked

    found = named(adapter)
    source = provenance("adapter-check", None, torch.device("cpu"))
    facts = {"adapter": found.name, "sha256": found.sha256, "licence": found.adapter.licence}
    return {**facts, "proved": checked(found), "provenance": source}


def check_table(result: dict[str, Any]) -> Table:
    """What was proved, for people."""
    caption = f"licence of the weights: {result['licence']}; sha256 {result['sha256'][:12]}"
    return result_table(result["adapter"], caption, ("holds", ""), result["proved"].items())
