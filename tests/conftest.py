"""Fixtures of all tests: this tree, no network, one seed, and uninitialised memory that shows."""

import gc
import os
import sys

import this_tree  # from here on, josie is this tree's

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each; set before torch reads it
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from exports import try_exports
from tiny import JODIO, JOVIO, MEL_CODEC, TALKER, TEXT, THINKER, build, josie_config
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

import josie

# The root of the repository is a package, which pytest imports under the name of its folder. A second copy would put
# its own classes in the place of josie's in the Auto classes.
sys.modules.setdefault(this_tree.ROOT.name, josie)


gc.set_threshold(100_000, 50, 100)  # tests make many objects, and few of them hold each other


# Files that take longest begin first, so that at the end no worker waits for one of them.
SLOWEST = ("distributed", "compile", "several_machines", "docs", "encode_dataset", "serve_safety", "on_gpu", "wheel")


def pytest_collection_modifyitems(items):
    """Put the slowest files first."""
    names = [f"test_{name}.py" for name in SLOWEST]
    items.sort(key=lambda item: names.index(item.path.name) if item.path.name in names else len(names))


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """Freeze what is there before a file, as each training begins with a full collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded():
    """Start every test from the same random state, and fill what `torch.empty` returns with NaN."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)  # which also fills uninitialised memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def talkative():
    """Restore what libraries may say after a test: commands make them quiet for a whole process."""
    verbosity = logging.get_verbosity()
    yield
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()


@pytest.fixture(scope="session")
def save_checkpoint():
    """A function that writes a tiny model that reads and makes everything, and its processor, into a folder."""

    def save(path, **overrides):
        torch.manual_seed(0)
        thinker = dict(THINKER, text_config=dict(TEXT, vocab_size=301, max_position_embeddings=256))
        config = josie_config(**(dict(thinker_config=thinker) | overrides))
        josie.JosieForConditionalGeneration(config).save_pretrained(path)
        josie.JosieProcessor.from_config(config, josie.load_default_tokenizer(301)).save_pretrained(path)
        return path

    return save


@pytest.fixture(scope="session")
def speaking_folder(save_checkpoint, tmp_path_factory):
    """A checkpoint of a tiny model that speaks while it writes: its codec streams, and its Talker learns durations."""
    talker = dict(TALKER, reads_thinker_states=False, learns_durations=True, frames_per_token=3, end_of_speech=False)
    folder = tmp_path_factory.mktemp("speaking") / "model"
    return save_checkpoint(folder, audio_codec_config=JODIO, talker_config=talker)


@pytest.fixture(scope="module")
def engine(speaking_folder):
    """The engine of a server with such a model."""
    from serving_clients import load_engine

    return load_engine(speaking_folder)


@pytest.fixture(scope="module")
def port(engine):
    """A server with the engine of a test file."""
    from serving_clients import running

    with running(engine) as port:
        yield port


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, save_checkpoint):
    """Such a folder; not to be changed."""
    return save_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def codec_folder(tmp_path_factory):
    """A function that returns the checkpoint of a tiny codec; not to be changed."""
    from test_ecosystem import CODECS

    sizes = {"jodio": JODIO, "josie_mel_codec": MEL_CODEC, "jovio": JOVIO, **CODECS}
    sizes["encodec"] = sizes["encodec"] | {"target_bandwidths": [1.2, 4.0]}  # one quantizer by default, two at most
    made = {}

    def make(model_type, **changes):
        key = (model_type, *sorted(changes.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp(model_type)
            values = {name: value for name, value in sizes[model_type].items() if name != "model_type"} | changes
            config = AutoConfig.for_model(model_type, **values)
            build(type(AutoModel.from_config(config)), config).save_pretrained(made[key])
        return made[key]

    return make


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """Return what a process without josie made of an export of every model, and the folder with these exports."""
    folder = tmp_path_factory.mktemp("exports")
    return try_exports(folder), folder / "exports"


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """A function that saves a tiny part of an assembly once and returns its folder."""
    from assembly_parts import save_audio, save_codec, save_text, save_vision

    root = tmp_path_factory.mktemp("parts")
    savers = {"text": save_text, "audio": save_audio, "vision": save_vision, "codec": save_codec}

    def get(argument, model_type):
        folder = root / argument / model_type
        return folder if folder.exists() else savers[argument](model_type, folder)

    return get
