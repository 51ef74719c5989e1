"""Runs a recipe whose model is sharded over CPUs: what `test_several_machines.py` launches in two processes.

accelerate launch --config_file examples/accelerate/fsdp2.yaml --num_processes 2 tests/sharded_recipe.py RECIPE CONFIG
"""

import importlib
import sys

from distributed_training import let_cpus_shard
from recipes import runs
from torch.distributed.fsdp import FSDPModule

if __name__ == "__main__":
    let_cpus_shard()
    train = runs.train

    def train_sharded(trainer, mode):
        """Train, and make sure that the model is sharded."""
        is_done = train(trainer, mode)
        if not isinstance(trainer.model, FSDPModule):
            raise RuntimeError("The model was not sharded.")
        return is_done

    recipe = importlib.import_module(sys.argv[1])
    recipe.train = train_sharded
    recipe.main(sys.argv[2:])
