"""The command `josie encode`: a data set to codes of speech ahead of training, in shards."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from .devices import choose_device
from .options import (
    Device,
    Threads,
    at_least_one,
    checked,
    checked_text,
    dataset_source,
    folder_name,
    model_source,
    words,
)
from .progress import waiting
from .shared import is_terminal, quieten, report, writing_out

_SECONDS_BETWEEN_LINES = 15.0  # in a log


def encode_command(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="A JSONL file of conversations, a folder of recordings or of a data set, or a name of the Hub.",
            callback=checked(dataset_source),
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="A JOSIE, or an audio codec: a folder, a name of the Hub, or nano.", callback=checked(model_source)
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="The folder of the shards; one that is begun goes on.", callback=checked(folder_name)
        ),
    ],
    split: Annotated[str, typer.Option(help="The split of the data set.", callback=checked_text(words))] = "train",
    features: Annotated[bool, typer.Option("--features", help="Keep the audio encoder's states too.")] = False,
    num_quantizers: Annotated[
        int | None,
        typer.Option(
            help="Use only the first ones; those that the Talker predicts if not given.", callback=checked(at_least_one)
        ),
    ] = None,
    num_proc: Annotated[int, typer.Option(help="Processes on this machine.", callback=checked(at_least_one))] = 1,
    shard_rows: Annotated[int, typer.Option(help="Rows of a shard.", callback=checked(at_least_one))] = 256,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Encode the recordings of a data set ahead of training.

    Ranks of `accelerate launch`, on one machine or several with the same disk, share the shards. A run that was stopped
    goes on with the same command. Broken rows are counted and listed in `broken.jsonl`.
    """
    from ..nano import find_model

    with waiting(f"Preparing to encode {dataset}"):
        from datasets import disable_progress_bars
        from tqdm.auto import tqdm

        from ..training.encode_dataset import EncodeArguments, encode_dataset

    quieten()
    disable_progress_bars()
    rank, num_ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    chosen = choose_device(device, threads)
    if chosen.type != "cpu" and chosen.index is None:
        chosen = f"{chosen.type}:{os.environ.get('LOCAL_RANK', '0')}"
    name = str(find_model(model))
    arguments = EncodeArguments(dataset, name, split, num_quantizers, features, shard_rows, str(chosen), threads)
    start, busy = time.perf_counter(), sum(os.times()[:4])  # of this process and of those that it has waited for
    task = f"Rows of rank {rank}" if num_ranks > 1 else "Rows"
    folder = Path(os.path.realpath(out)) if out.is_symlink() else out  # one that is to be made too
    interval = 0.1 if is_terminal(sys.stderr) else _SECONDS_BETWEEN_LINES
    with writing_out(folder), tqdm(desc=task, unit=" rows", mininterval=interval, disable=sys.stderr is None) as bar:

        def on_rows(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        found = encode_dataset(arguments, folder, num_proc, rank, num_ranks, on_rows)
    report(
        f"{out}: {found.num_complete} of {found.num_shards} shards, {found.num_rows} rows, {found.num_broken} broken, "
        f"{found.seconds / 3600:.3f} h of speech, {time.perf_counter() - start:.0f} s, "
        f"{sum(os.times()[:4]) - busy:.0f} s of processor time"
    )
