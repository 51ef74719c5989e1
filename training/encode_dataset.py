"""A data set encoded ahead of training, in shards that several processes and machines share.

The rows are cut into shards of equal size. Rank `r` of `n` encodes each shard whose number is `r` modulo `n`, on as
many processes as it is told. A shard appears under its name only when it is complete, and complete ones are left alone:
a run that was stopped goes on, with other numbers of ranks and processes too. No rank waits for another one.

    FOLDER/data/train-00003-of-00120.parquet     rows, which `datasets.load_dataset("FOLDER")` reads
    FOLDER/shards/00003.json                     their number, their frames, and the rows that are broken
    FOLDER/encoding.json                         what is encoded, and by which weights
    FOLDER/broken.jsonl                          all broken rows, when all shards are there
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Json, disable_progress_bars
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel
from transformers.utils import logging

from ..configuration_josie import JosieConfig
from ..conversion.files import new_file, write_file
from ..modeling_josie import JosieForConditionalGeneration
from ..modeling_josie.codecs.inference import prepare_codec
from .dataset_rows import Rows, open_rows
from .encode_shards import PLAN_FILE, is_complete, read_plan, record_file, require_no_others, shard_files
from .row_encoder import ROW_ERRORS, RowEncoder, describe_row_error

BROKEN_FILE = "broken.jsonl"
_ROWS_AT_ONCE = 16
_MOST_SHARDS = 99_999  # five digits: datasets finds the shards by their names
# Without `configs`: of files that these name, datasets would keep in its cache what a folder had before.
_CARD = """---
tags:
- josie
---
# Encoded by `josie encode`

`encoding.json` names the data set and the model, `broken.jsonl` lists the rows that were left out.
"""


@dataclass(frozen=True)
class EncodeArguments:
    """The data, the model, and how rows are encoded.

    Args:
        dataset, split (`str`): As of [`open_rows`].
        model (`str`): The folder or Hub name of a JOSIE or of an audio codec.
        num_quantizers (`int`, *optional*): Use the first ones only; those that the Talker predicts when `None`.
        features (`bool`): Also keep the audio encoder's states.
        shard_rows (`int`): Rows of a shard.
        device (`str`): Where the model computes.
        num_threads (`int`, *optional*): Of torch, in each process; a fair share of all when `None`.
    """

    dataset: str
    model: str
    split: str = "train"
    num_quantizers: int | None = None
    features: bool = False
    shard_rows: int = 256
    device: str = "cpu"
    num_threads: int | None = None


@dataclass(frozen=True)
class Encoded:
    """The shards that are complete.

    Args:
        num_shards, num_complete (`int`): All of them, and those that are complete.
        num_rows, num_broken (`int`): Rows of the complete shards: encoded ones, and those that are listed as broken.
        seconds (`float`): Of encoded audio.
    """

    num_shards: int
    num_complete: int
    num_rows: int
    num_broken: int
    seconds: float


def encode_dataset(
    arguments: EncodeArguments,
    folder: Path,
    num_processes: int = 1,
    rank: int = 0,
    num_ranks: int = 1,
    on_rows: Callable[[int, int], None] | None = None,
) -> Encoded:
    """Encode a rank's share of a data set.

    Args:
        arguments ([`EncodeArguments`]): The data, the model, and how rows are encoded.
        folder (`Path`): The place of the shards; new, or with some of the same encoding.
        num_processes (`int`): Processes of this rank.
        rank, num_ranks (`int`): The share.
        on_rows (`Callable`, *optional*): Called now and then with the rows of this rank that are done, and all of them.

    Returns:
        [`Encoded`], shards of all ranks so far.

    Raises:
        `ValueError`: The folder has another encoding, the data or the model cannot be used, a process ended before its
            work, or all rows are broken.
    """
    worker = ShardWorker(arguments, folder)
    worker.write_plan()
    own = range(rank, worker.num_shards, num_ranks)
    missing = [shard for shard in own if not worker.is_complete(shard)]
    total = sum(len(worker.rows_of(shard)) for shard in own)
    before = total - sum(len(worker.rows_of(shard)) for shard in missing)
    report = on_rows if on_rows is not None else lambda done, total: None
    report(before, total)
    if num_processes <= 1 or len(missing) <= 1:
        done = before
        for shard in missing:
            for count in worker.encode_shard(shard):
                done += count
                report(done, total)
    else:
        _encode_in_parallel(worker, missing, num_processes, lambda done: report(before + done, total))
    return worker.summarize()


def share_threads(arguments: EncodeArguments, num_processes: int) -> EncodeArguments:
    """Return the arguments of each of several processes: with all threads each, they would wait for each other."""
    if arguments.num_threads is not None:
        return arguments
    return replace(arguments, num_threads=max(torch.get_num_threads() // num_processes, 1))


def _encode_in_parallel(
    worker: "ShardWorker", shards: list[int], num_processes: int, report: Callable[[int], None]
) -> None:
    context = multiprocessing.get_context("spawn")  # what torch has started does not survive a fork
    num_processes = min(num_processes, len(shards))
    # In memory without a lock, which a process that is killed could keep: a place for each shard, and a flag.
    counts, is_over = context.RawArray("q", len(shards)), context.RawValue("b", 0)
    options = (share_threads(worker.arguments, num_processes), worker.folder, counts, is_over)
    pool = ProcessPoolExecutor(num_processes, context, _start_process, options)
    try:
        waiting = {pool.submit(_encode_shard, shard, place) for place, shard in enumerate(shards)}
        while waiting:
            done, waiting = wait(waiting, 0.5, FIRST_EXCEPTION)
            for future in done:
                future.result()
            report(sum(counts))
    except BrokenProcessPool as error:
        pool.shutdown()
        worker.drop_unfinished(shards)
        raise ValueError(
            "`--num-proc` must be a number of processes that this machine has memory for, got "
            f"{num_processes}, of which one ended in the middle of its work: with fewer, the same command goes on."
        ) from error
    finally:
        is_over.value = 1  # other shards end where they are, with nothing written
        pool.shutdown(cancel_futures=True)  # ended by themselves, processes leave nothing behind


_PROCESS: dict[str, Any] = {}  # of a process of the pool


def _start_process(arguments: EncodeArguments, folder: Path, counts: Any, is_over: Any) -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the parent's, which ends all
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    disable_progress_bars()  # of loading and writing: the parent's is for all
    logging.disable_progress_bar()
    _PROCESS.update(arguments=arguments, folder=folder, counts=counts, is_over=is_over)


def _end_with_parent() -> None:
    """End this process with its parent: one that is killed cannot tell its pool, which would wait forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode_shard(shard: int, place: int) -> None:
    if _PROCESS["is_over"].value:
        return  # of those that a pool hands out ahead
    if "worker" not in _PROCESS:  # not at the start of the process, where the pool would not say what is wrong
        _PROCESS["worker"] = ShardWorker(_PROCESS["arguments"], _PROCESS["folder"])
    for count in _PROCESS["worker"].encode_shard(shard):
        _PROCESS["counts"][place] += count
        if _PROCESS["is_over"].value:
            return


class ShardWorker:
    """A process's data and model.

    Args:
        arguments ([`EncodeArguments`]): The data, the model, and how rows are encoded.
        folder (`Path`): The place of the shards.
    """

    def __init__(self, arguments: EncodeArguments, folder: Path):
        self.arguments, self.folder = arguments, folder
        if arguments.num_threads is not None:
            torch.set_num_threads(arguments.num_threads)
        self.rows: Rows = open_rows(arguments.dataset, arguments.split)
        model, processor = load_encoder(arguments.model)
        self.encoder = RowEncoder.of_model(model, processor, arguments.num_quantizers, arguments.features)
        self.fingerprint = _hash_weights(self.encoder.codec)
        self.audio_encoder = hash_audio_encoder(model) if arguments.features else None
        model.to(arguments.device)  # type: ignore[arg-type]
        prepare_codec(self.encoder.codec)
        self.num_shards = -(-len(self.rows) // arguments.shard_rows)
        if self.num_shards > _MOST_SHARDS:
            least = -(-len(self.rows) // _MOST_SHARDS)
            raise ValueError(
                f"`--shard-rows` must be at least {least} for {len(self.rows)} rows, got {arguments.shard_rows}."
            )

    def rows_of(self, shard: int) -> range:
        """Return the numbers of a shard's rows."""
        start = shard * self.arguments.shard_rows
        return range(start, min(start + self.arguments.shard_rows, len(self.rows)))

    def is_complete(self, shard: int) -> bool:
        """Return whether a shard is there as it was written."""
        return is_complete(self.folder, shard, self.num_shards)

    def drop_unfinished(self, shards: Iterable[int]) -> None:
        """Remove what processes that were ended wrote of shards, and did not complete."""
        files = [file for shard in shards for file in shard_files(self.folder, shard, self.num_shards)]
        names = {f".{file.name}" for file in files}
        for entry in [*(self.folder / "data").iterdir(), *(self.folder / "shards").iterdir()]:
            if entry.name.rpartition(".")[0] in names:  # as `new_file` names them
                shutil.rmtree(entry)

    def write_plan(self) -> None:
        """Write what is encoded, or compare with what the folder has.

        Raises:
            `ValueError`: It has something else.
        """
        encoded = {
            name: value for name, value in asdict(self.arguments).items() if name not in ("device", "num_threads")
        }
        plan = {**encoded, "num_rows": len(self.rows), "rows": self.rows.fingerprint, "weights": self.fingerprint}
        plan |= {"audio_encoder": self.audio_encoder, "end_of_speech": self.encoder.end_of_speech}
        plan["num_quantizers"] = self.encoder.num_quantizers  # the Talker's where none were asked for
        path = self.folder / PLAN_FILE
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            # Another rank may be writing the same plan just now, which comes before all else.
            others = [entry for entry in self.folder.iterdir() if not entry.name.startswith(f".{PLAN_FILE}.")]
            if others and not path.is_file():
                raise ValueError(f"`--out` must be new or have an encoding, got {str(self.folder)!r}.")
            write_file(path, json.dumps(plan, indent=1) + "\n")
        found = read_plan(self.folder)
        names = ("num_quantizers", "features", "shard_rows", "num_rows", "rows", "weights", "audio_encoder")
        differing = [name for name in (*names, "end_of_speech") if found.get(name) != plan[name]]
        if differing:
            what = ": `rows` are what they say, and size and time of each file that they name" * ("rows" in differing)
            raise ValueError(
                f"`--out` must be new or have the same encoding, got {str(self.folder)!r}, "
                f"which differs in {differing}{what}."
            )
        for name in ("data", "shards"):
            (self.folder / name).mkdir(exist_ok=True)
        require_no_others(self.folder, self.num_shards, "`--out`")
        write_file(self.folder / "README.md", _CARD)

    def encode_shard(self, shard: int) -> Any:
        """Encode a shard; yield the number of rows just done."""
        encoded, broken = [], []
        path, mark = shard_files(self.folder, shard, self.num_shards)
        numbers = self.rows_of(shard)
        for start in range(0, len(numbers), _ROWS_AT_ONCE):
            chosen = numbers[start : start + _ROWS_AT_ONCE]
            read: dict[int, dict[str, Any]] = {}
            for number in chosen:
                try:
                    read[number] = self.rows[number]
                except ROW_ERRORS as error:
                    broken.append({"row": number, "error": describe_row_error(error)})
            for number, result in zip(read, self.encoder(list(read.values())) if read else (), strict=True):
                if isinstance(result, str):
                    broken.append({"row": number, "error": result})
                else:
                    encoded.append(result)
            yield len(chosen)
        if encoded:
            features = self.encoder.extend_features(self.rows.features)
            columns = {name: [_as_cell(row.get(name), kind) for row in encoded] for name, kind in features.items()}
            with new_file(path) as unfinished:
                Dataset.from_dict(columns, features=features).to_parquet(unfinished)
        else:
            path.unlink(missing_ok=True)  # of another shard
        state: dict[str, Any] = {
            "num_rows": len(encoded),
            "num_frames": sum(row["length"] for row in encoded),
            "broken": broken,
        }
        state |= record_file(path) if encoded else {}
        write_file(mark, json.dumps(state) + "\n")

    def summarize(self) -> Encoded:
        """Return the complete shards of all ranks; when all are, list the broken rows in a file.

        Raises:
            `ValueError`: All rows are broken.
        """
        complete = [shard for shard in range(self.num_shards) if self.is_complete(shard)]
        marks = (shard_files(self.folder, shard, self.num_shards)[1] for shard in complete)
        states = [json.loads(mark.read_text(encoding="utf-8")) for mark in marks]
        broken = [row for state in states for row in state["broken"]]
        num_rows = sum(state["num_rows"] for state in states)
        if len(complete) == self.num_shards:
            write_file(self.folder / BROKEN_FILE, "".join(json.dumps(row) + "\n" for row in broken))
            if not num_rows:
                raise ValueError(f"`DATASET` must have rows that can be encoded, got none: {broken[0]['error']}")
        seconds = sum(state["num_frames"] for state in states) / self.encoder.frame_rate
        return Encoded(self.num_shards, len(complete), num_rows, len(broken), seconds)


def _as_cell(value: Any, kind: Any) -> Any:
    """Return a value of a column, a string of a column of JSON as JSON: "12" would be read as a number."""
    return json.dumps(value) if isinstance(kind, Json) and isinstance(value, str) else value


def load_encoder(name: str) -> tuple[PreTrainedModel, Any]:
    """Return a JOSIE with its processor, or an audio codec with `None`, in eval mode."""
    try:
        config = AutoConfig.from_pretrained(name)
    except OSError as error:
        raise ValueError(f"`--model` must be a folder or Hub name of a model, got {name!r}: {error}") from error
    if isinstance(config, JosieConfig):
        return JosieForConditionalGeneration.from_pretrained(name).eval(), AutoProcessor.from_pretrained(name)
    return AutoModel.from_pretrained(name).eval(), None


def hash_audio_encoder(model: Any) -> str:
    """Return the fingerprint of a JOSIE's audio encoder: equal for equal weights."""
    return _hash_weights(getattr(model, "thinker", model).model.audio_front_end.encoder)


def require_own_codes(folder: Path, codec: PreTrainedModel, end_of_speech: bool) -> None:
    """Raise a `ValueError` unless a folder has codes of a model's audio codec, ended as its Talker learns them.

    Args:
        folder (`Path`): As `josie encode` makes it.
        codec (`PreTrainedModel`): Of the model that reads them.
        end_of_speech (`bool`): Whether its Talker learns to stop.
    """
    plan = read_plan(folder)
    if plan.get("weights") != _hash_weights(codec):
        raise ValueError(
            f"`speech_codes` must be of the model's own audio codec, got {str(folder)!r}, which another one wrote."
        )
    if plan.get("end_of_speech", end_of_speech) != end_of_speech:
        raise ValueError(
            f"`speech_codes` must be made for a Talker whose `end_of_speech` is {end_of_speech}, got {str(folder)!r} "
            f"with {plan['end_of_speech']}."
        )


def require_own_features(folder: Path, model: Any) -> None:
    """Raise a `ValueError` unless a folder has features of the audio encoder of a model.

    Args:
        folder (`Path`): As `josie encode --features` makes it.
        model ([`JosieForConditionalGeneration`] or its Thinker): The model that reads them.
    """
    plan = read_plan(folder)
    if not plan.get("features"):
        raise ValueError(f"`audio_features` must come from a folder of `josie encode --features`, got {str(folder)!r}.")
    front_end = getattr(model, "thinker", model).model.audio_front_end
    if getattr(front_end, "encoder", None) is None:
        raise ValueError("`audio_features` must be false for a model without an audio encoder, got true.")
    if plan["audio_encoder"] != hash_audio_encoder(model):
        raise ValueError(
            f"`audio_features` must be of the model's own audio encoder, got {str(folder)!r}, which another one wrote."
        )


def _hash_weights(model: PreTrainedModel) -> str:
    """Return a hash that is equal for equal weights, in whatever dtype: recipes cast those of a checkpoint."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        value = value.float() if value.is_floating_point() else value
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
