"""Workers of data loaders that outlive a SIGTERM to their whole process group, and batches that stay whole.

Whoever stops a run by a signal to all its processes (systemd, Slurm, `kill -- -PGID`) also stops the workers that load
data, and a run without them cannot finish its step and save a checkpoint.

Of a stream, accelerate by itself lets one process make the batches of all, joins them and cuts each tensor into as many
pieces: those of two processes are rarely of one size, and clips and images are no rows. With one process too, it cuts
all tensors to the length of the first.
"""

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.utils.data import DataLoader
from transformers import Trainer


class LastingWorkersTrainer(Trainer):
    """A `Trainer` whose data workers end on a SIGTERM of their parent alone; each process makes its own batches."""

    def create_accelerator_and_postprocess(self) -> None:
        """Make each process make its batches of a stream, of its share of rows, unless arguments say otherwise."""
        super().create_accelerator_and_postprocess()
        settings = self.accelerator.dataloader_config
        if settings.dispatch_batches is None:
            settings.dispatch_batches = False

    def get_train_dataloader(self) -> DataLoader:
        """Return the training batches."""
        return keep_workers_alive(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Return the evaluation batches."""
        return keep_workers_alive(super().get_eval_dataloader(eval_dataset))


def keep_workers_alive(loader: Any) -> DataLoader:
    """Make the workers of a data loader end on a SIGTERM of their parent alone.

    Args:
        loader (`DataLoader`): Bare, or prepared by accelerate; not yet iterated.

    Returns:
        The data loader.
    """
    bare = getattr(loader, "base_dataloader", loader)
    if getattr(bare, "num_workers", 0) and hasattr(signal, "sigwaitinfo"):
        bare.worker_init_fn = partial(_start_worker, then=bare.worker_init_fn)
    return loader


def _start_worker(worker_id: int, then: Callable[[int], None] | None) -> None:
    # Blocked in all threads, so that the signal waits for the one that asks who sent it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    if then is not None:
        then(worker_id)


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
