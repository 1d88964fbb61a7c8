"""`fasthmr export` and `bench`: a model as a file for another runtime, and how fast each way to run it is here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from compress.errors import BadInput
from experiments.cli.options import AdapterFile, AsJson, Model
from experiments.cli.output import print_result, progress_bar, progress_callback, refuse_existing, result_table


def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="The folder to write: the file, and how far its joints are off.")],
    format: Annotated[str, typer.Option(help="onnx, openvino or torch.")] = "onnx",
    batch: Annotated[str, typer.Option(help="Frames that go in at once: a number, or dynamic.")] = "dynamic",
    precision: Annotated[str, typer.Option(help="float32, float16 or int8.")] = "float32",
    vertices: Annotated[bool, typer.Option("--vertices", help="Vertices come out beside joints.")] = False,
    adapter: AdapterFile = None,
    as_json: AsJson = False,
) -> None:
    """Write MODEL as a file for ONNX Runtime, OpenVINO or torch; fails where its joints differ from MODEL's."""
    refuse_existing(out)
    asked = {"form": format, "batch": frames_at_once(batch), "precision": precision, "vertices": vertices}
    with progress_bar() as bar:
        result = exported(model, out, asked, progress_callback(bar), adapter)
    print_result(result, as_json, parity_table)


def frames_at_once(batch: str) -> int | None:
    """What --batch says; None: any number. Raises BadInput for what is neither a number above 0 nor `dynamic`."""
    if batch == "dynamic":
        return None
    if not batch.isdecimal() or not int(batch):
        raise BadInput(f"--batch {batch}: name a number of frames, or dynamic")
    return int(batch)


def exported(model: str, out: Path, asked: dict[str, Any], observer: Any, adapter: str | None = None) -> dict[str, Any]:
    """What `export --json` prints."""
    import hmr
    from compress.provenance import provenance
    from hmr.deploy.export import export
    from hmr.deploy.parity import FRAMES

    found = hmr.load(model, adapter=adapter)
    size, data = found.encoder.crop_size, "synth-video" if found.takes_clips else "synth"
    frames = hmr.frames(f"{data}:test", FRAMES, size=size)
    rounded = asked["precision"] == "int8"
    calib = list(hmr.frames("synth:calib", FRAMES, size=size).drawn(observer)) if rounded else []
    result = export(found, out, list(frames.drawn(observer)), **asked, calib=calib, observer=observer)
    source = provenance("export", found, next(found.parameters()).device)
    return {**result, "provenance": {**source, "data": frames.described(), "precision": asked["precision"]}}


def parity_table(result: dict[str, Any]) -> Table:
    """How far the file is off, for people."""
    from compress.card import formatted

    parity, data, rounding = result["parity"], result["provenance"]["data"], result["rounding"]
    files = [result, *([result["decoder"]] if result["decoder"] else [])]
    rows = [
        (one["file"], str(b["batch"]), f"{b['worst_mm']:.2g}", b["worst_frame"], f"{b['mean_mm']:.2g}", flips(b))
        for one in files
        for b in one["parity"]["batches"]
    ]
    bound = f"at most {parity['bound_mm']:g} mm" if parity["bound_mm"] is not None else "no bound"
    says = [f"joints of {parity['frames']} frames of {data['name']}:{data['split']} against the model's: {bound}"]
    if result["rise_mm"]:
        says.append(f"MPJPE minus the model's, on the same frames: {formatted(result['rise_mm'], '+.2f')} mm")
    if rounding:
        says.append(
            f"held to the model's rounded weights in float32; the model itself rounds on the way too, which moves its "
            f"joints by {rounding['mean_mm']:.2g} mm, {rounding['worst_mm']:.2g} at worst"
        )
    columns = ("file", "batch", "worst joint mm", "in frame", "mean mm", "frames where other tokens merge")
    return result_table(result["path"], "\n".join(says), columns, rows)


def flips(row: dict[str, Any]) -> str:
    """In how many frames other tokens merged, and the first of them."""
    names = row["flipped"]
    return f"{len(names)}: {names[0]}{' ...' * (len(names) > 1)}" if names else "0"


def bench(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Models and exported files; the first counts.")
    ],
    batch: Annotated[list[int], typer.Option(min=1, help="Frames at a time; may be given more than once.")] = [1, 8],  # noqa: B006  # typer reads it, nobody changes it
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each of which runs everything once.")] = 9,
    compile: Annotated[
        bool, typer.Option("--compile", help="torch.compile models of torch too; takes minutes.")
    ] = False,
    adapter: AdapterFile = None,
    as_json: AsJson = False,
) -> None:
    """Time of each MODEL, side by side: torch, files in their runtimes, precisions, batches, and every part."""
    print_result(benched(models, batch, rounds, compile, adapter), as_json, bench_table)


def benched(
    names: list[str], batches: list[int], rounds: int, compiled: bool, adapter: str | None = None
) -> dict[str, Any]:
    """What `bench --json` prints."""
    import hmr
    from compress.provenance import provenance
    from experiments.side_by_side import side_by_side
    from hmr.models.device import best_device

    device, models = best_device(), [hmr.load(name, adapter=adapter) for name in names]
    source = provenance("bench", models[0], device)
    return {**side_by_side(models, batches, rounds, compiled, device), "rounds": rounds, "provenance": source}


def bench_table(result: dict[str, Any]) -> Table:
    """The times of everything, for people; below it what is slower here, and the parts of torch's models."""
    from compress.card import machine

    rows = [
        (
            case["name"],
            case["runtime"],
            case["precision"],
            str(case["batch"]),
            f"{1000 * case['median_s'] / case['batch']:.1f}",
            f"{case['time_ratio']:.2f}",
            f"{case['mac_ratio']:.2f}",
        )
        for case in result["cases"]
    ]
    parts = [
        f"{stage['name']}, {stage['precision']}, batch {stage['batch']}: {stage['part']} {stage['share']:.1%}"
        for stage in result["stages"]
    ]
    source = result["provenance"]
    return result_table(
        "side by side",
        "\n".join([f"medians of {result['rounds']} rounds; {machine(source)}", *result["slower"], *parts]),
        ("model", "runtime", "precision", "batch", "ms/frame", "times as fast", "times fewer MACs"),
        rows,
    )
