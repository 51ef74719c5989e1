"""Fetch and prepare the data of a codec recipe ahead of its training.

python examples/fetch_data.py speech examples/train_jodio.json     # recordings, and a manifest for each split
python examples/fetch_data.py images examples/train_jovio.json     # images, and a table of their sources
"""

import sys

from recipes.configuration import command_line, read_section, run
from recipes.image_data import ImageDataArguments, print_counts
from recipes.speech_data import SpeechDataArguments, prepare_speech

PREPARATIONS = {
    "speech": lambda config: prepare_speech(read_section(config, "data", SpeechDataArguments)),
    "images": lambda config: print_counts(read_section(config, "data", ImageDataArguments)),
}


def main(argv: list[str] | None = None) -> None:
    """Prepare the data of the section `data` of a configuration."""
    modality, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if modality not in PREPARATIONS:
        raise SystemExit(f"usage: fetch_data.py {{{','.join(PREPARATIONS)}}} CONFIG [--set KEY=VALUE ...]\n{__doc__}")
    config = command_line(__doc__, rest).config
    run(lambda: PREPARATIONS[modality](config))


if __name__ == "__main__":
    main()
