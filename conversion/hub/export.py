"""Checkpoints with code: folders and pushes that load with `trust_remote_code=True` without this package."""

import inspect
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import cached_file, logging

from ... import modeling_josie
from ...modeling_josie.wrapped_parts import require_no_adapters, unwrap_torch, unwrapped_to_save
from ..files import new_folder
from ..loading import load_whole
from .auto_classes import list_loaders
from .card_metadata import require_same_license
from .model_card import CARD_FILE, write_model_card
from .remote_code import PROCESSOR_FILES, add_code

logger = logging.get_logger(__name__)

TOKENIZER_FILE = "tokenizer_config.json"
_OF_SAVING = frozenset(inspect.signature(PreTrainedModel.save_pretrained).parameters) - {
    "self",
    "kwargs",
    "push_to_hub",
}
_OF_CARDS = frozenset(inspect.signature(write_model_card).parameters) - {"folder", "config", "model", "with_code"}


def save_with_code(
    model: PreTrainedModel,
    folder: str | os.PathLike,
    processor: Any = None,
    *,
    is_main_process: bool = True,
    card: dict[str, Any] | None = None,
    state_dict: dict[str, Any] | None = None,
    **kwargs: Any,
) -> None:
    """Save a model so that its folder loads with `trust_remote_code=True` where this package is not installed.

    Args:
        model ([`PreTrainedModel`]): A model of this package; what of it is compiled is saved as if it were not.
        folder (`str` or `os.PathLike`): Gets weights, code, processor and model card.
        processor (*optional*): Its processor, feature extractor or image processor; when `None`, the one in `folder`,
            or the one beside the weights that the model was loaded from, or for encoders and codecs the one that
            follows from the configuration.
        is_main_process (`bool`): Whether this process writes.
        card (`dict[str, Any]`, *optional*): Arguments of [`write_model_card`].
        state_dict (`dict[str, Any]`, *optional*): The weights; the model's own when `None`.
        kwargs: For [`~transformers.PreTrainedModel.save_pretrained`], such as `max_shard_size`.

    Raises:
        `ValueError`: `push_to_hub=True`: [`push_with_code`] pushes; the model is of another package or has adapters
            inside; or an argument is not known. A folder that was not there is not there then either.
    """
    if kwargs.pop("push_to_hub", False):
        raise ValueError("`push_to_hub` must be False with code: call `josie.push_with_code`.")
    for name in kwargs:
        if name in _OF_CARDS:
            raise ValueError(f"`{name}` must be in `card`, got it as an argument of `save_with_code`.")
        if name not in _OF_SAVING:
            raise ValueError(f"`{name}` must be one of {sorted(_OF_SAVING)}, got an unknown argument.")
    model = unwrap_torch(model)
    _require_savable(model, processor, card or {}, state_dict)
    with _filled_at_once(Path(folder), is_main_process) as unfinished:
        with unwrapped_to_save(model, state_dict) as weights:
            options: Any = kwargs | dict(is_main_process=is_main_process, state_dict=weights)
            PreTrainedModel.save_pretrained(model, unfinished, **options)
        if is_main_process and not model.is_remote_code():
            complete_folder(model, unfinished, processor, **(card or {}))
        elif is_main_process and processor is not None:  # transformers has copied the code that the model came with
            processor.save_pretrained(unfinished)


def _require_savable(
    model: Any, processor: Any, card: Mapping[str, Any], state_dict: Mapping[str, Any] | None = None
) -> None:
    """Raise a `ValueError` for what [`save_with_code`] could not finish."""
    if not isinstance(model, PreTrainedModel) or not (model.is_remote_code() or dict(list_loaders(type(model.config)))):
        raise ValueError(
            f"`model` must be a model of this package, got a {type(model).__name__}. Of one with adapters save "
            "`model.merge_and_unload()`, or the adapters by `model.save_pretrained`."
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError("`model` must be without adapters, got some: save them by `model.save_pretrained`.")
    require_no_adapters(model, state_dict)
    if processor is not None and not hasattr(processor, "save_pretrained"):
        raise ValueError(f"`processor` must have `save_pretrained`, got a {type(processor).__name__}.")
    for name in card:
        if name not in _OF_CARDS:
            raise ValueError(f"`card` must have keys of {sorted(_OF_CARDS)}, got {name!r}.")
    if card and model.is_remote_code():
        raise ValueError(f"`card` and `tags` must be None for a model with its own code, got {list(card)}.")


@contextmanager
def _filled_at_once(folder: Path, is_main_process: bool) -> Iterator[Path]:
    """Give a folder that gets its name when the block ends well, or the folder itself where something is in it."""
    is_new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_main_process or not is_new or folder.absolute() == Path.cwd() or folder.name in ("", ".."):
        yield folder
        return
    with new_folder(folder, "folder") as unfinished:
        yield unfinished


def complete_folder(model: PreTrainedModel, folder: str | os.PathLike, processor: Any = None, **card: Any) -> None:
    """Add processor, code and card to a folder that has the weights of `model`; arguments of [`save_with_code`]."""
    folder = Path(folder)
    if processor is None and not any((folder / name).is_file() for name in PROCESSOR_FILES):
        processor = find_processor(model.config)
        if isinstance(processor, PreTrainedTokenizerBase) and (folder / TOKENIZER_FILE).is_file():
            processor = None
    if processor is not None:
        processor.save_pretrained(folder)
    add_code(folder, model.config)
    write_model_card(folder, model.config, model=model, with_code=True, **card)


def find_processor(config: PreTrainedConfig) -> Any:
    """Return the processor, or tokenizer, that was saved beside a model, else what follows from its configuration.

    `None` where there is none.

    Args:
        config ([`PreTrainedConfig`]): Of a model of this package; it remembers where it was loaded from.
    """
    loaders = dict(list_loaders(type(config)))
    if "AutoProcessor" in loaders:
        if _find_file(config.name_or_path, "processor_config.json"):
            return loaders["AutoProcessor"].from_pretrained(config.name_or_path)
        file = _find_file(config.name_or_path, TOKENIZER_FILE)
        return AutoTokenizer.from_pretrained(config.name_or_path) if file else None
    for name in ("AutoFeatureExtractor", "AutoImageProcessor"):
        if name in loaders:
            file = _find_file(config.name_or_path, "preprocessor_config.json")
            return loaders[name].from_pretrained(config.name_or_path) if file else loaders[name].from_config(config)
    return None


def export_folder(
    source: str | Path, destination: str | Path, max_shard_size: int | str = "5GB", **card: Any
) -> list[str]:
    """Write a checkpoint once more, with the code that it needs.

    Args:
        source (`str` or `Path`): A folder or Hub name with any model of this package.
        destination (`str` or `Path`): The folder to make.
        max_shard_size (`int` or `str`): Largest file of weights.
        card: Arguments of [`write_model_card`].

    Returns:
        The names of all files.

    Raises:
        `ValueError`: `source` holds no model of this package or not all of its weights, its card names another licence
            than `license`, or `destination` exists.
    """
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"`DIR` must be a folder with a JOSIE checkpoint, got {str(source)!r}: {error}") from error
    loaders = dict(list_loaders(type(config)))
    model_class: Any = getattr(modeling_josie, (config.architectures or [""])[0], loaders.get("AutoModel"))
    if model_class is None:
        raise ValueError(f"`DIR` must hold a model of this package, got {str(source)!r}, a {config.model_type!r}.")
    old_card = _find_file(str(source), CARD_FILE)
    if old_card is not None:
        require_same_license(Path(old_card), card.get("license"))
    with new_folder(Path(destination), "OUT") as folder:
        model = load_whole(source, model_class, dtype="auto")
        if old_card is not None:
            shutil.copyfile(old_card, folder / CARD_FILE)
        save_with_code(model, folder, max_shard_size=max_shard_size, card=card)
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def push_with_code(
    model: PreTrainedModel,
    repo_id: str,
    processor: Any = None,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    max_shard_size: int | str = "5GB",
    tags: list[str] | None = None,
) -> Any:
    """Push a model with processor, card and code in one commit; a card that is there already is kept and completed.

    Args:
        model ([`PreTrainedModel`]): A model of this package.
        repo_id (`str`): Name of the repository, which is made if it does not exist.
        processor (*optional*): As in [`save_with_code`].
        private, token, revision, create_pr, commit_message, commit_description, max_shard_size, tags: As in
            [`~transformers.PreTrainedModel.push_to_hub`].

    Returns:
        The result of `HfApi.upload_folder`.

    Raises:
        `ValueError`: As of [`save_with_code`], before the repository is made.
    """
    model = unwrap_torch(model)
    _require_savable(model, processor, {"tags": tags} if tags else {})
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            shutil.copyfile(
                hf_hub_download(repo_id, CARD_FILE, revision=revision, token=token), Path(folder) / CARD_FILE
            )
        except EntryNotFoundError:
            logger.info(f"{repo_id} has no model card yet: one is made.")
        card = None if model.is_remote_code() else {"repo_id": repo_id, "tags": tags or ()}
        save_with_code(model, folder, processor, max_shard_size=max_shard_size, card=card)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message or "Upload model with its code",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )


def _find_file(folder: str | None, name: str) -> str | None:
    """Return the path of a file of a folder or Hub repository; `None` if there is none."""
    if not folder:
        return None
    return cached_file(
        folder,
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
