"""Models that a command line names: folders, names of the Hub, and the models of the package."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from josie.conversion.loading import load_whole, reading
from josie.nano import find_model


def load_named(name: str, model_class: Any, argument: str, **options: Any) -> Any:
    """Return a model, all of whose weights are there, in eval mode.

    Args:
        name (`str`): A folder or Hub name, or one that [`find_model`] knows.
        model_class: A model, or an Auto class.
        argument (`str`): What the user calls it, for the message.
        options: Others of `from_pretrained`.

    Raises:
        `ValueError`: There is no such model, or it is damaged or of another kind.
    """
    with _in_a_sentence(name, argument):
        return load_whole(str(find_model(name)), model_class, argument, name, **options).eval()


def load_part(name: str, part_class: Any, argument: str) -> Any:
    """Return the configuration, the processor or the tokenizer of a model.

    Args:
        name, argument: As of [`load_named`].
        part_class: What reads it, such as `AutoProcessor`.

    Raises:
        `ValueError`: There is none, or it is damaged.
    """
    with _in_a_sentence(name, argument), reading(name, f"the files that {part_class.__name__} reads", argument):
        return part_class.from_pretrained(str(find_model(name)))


@contextmanager
def _in_a_sentence(name: str, argument: str) -> Iterator[None]:
    """Shorten what is said of a model, which may be pages, and say where there is no such folder."""
    try:
        yield
    except ValueError as error:
        is_folder = find_model(name).is_dir()
        reason, *_ = str(error if is_folder else error.__cause__ or error).split("\n")
        missing = "" if is_folder else f"`{argument}` must be a folder or Hub name of a model, got {name!r}: "
        raise ValueError(missing + reason) from error
