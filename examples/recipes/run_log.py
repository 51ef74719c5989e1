"""The log of a run: every logged value with the hours of training so far, also across interruptions."""

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from josie.conversion.files import write_file

LOG_FILE = "log.jsonl"


class RunLog(TrainerCallback):
    """Adds `hours` of training, those before an interruption included, to the logs, and keeps all in a file.

    The file `log.jsonl` is beside the checkpoints and can be watched while the run goes on.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock at the checkpoint's hours, and forget logs that are newer than the checkpoint."""
        self._before = max((entry.get("hours", 0.0) for entry in state.log_history), default=0.0)
        self._start = time.perf_counter()
        if state.is_world_process_zero:
            path = Path(str(args.output_dir), LOG_FILE)
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(entry) + "\n" for entry in state.log_history)
            write_file(path, "".join(lines))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line."""
        if not hasattr(self, "_start") or not state.log_history:
            return
        hours = round(self._before + (time.perf_counter() - self._start) / 3600, 5)
        state.log_history[-1]["hours"] = hours
        if logs is not None:
            logs["hours"] = hours
        if state.is_world_process_zero:
            with Path(str(args.output_dir), LOG_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(state.log_history[-1]) + "\n")
