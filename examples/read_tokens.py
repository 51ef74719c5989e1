"""Read what a projector spells of recordings: `python examples/read_tokens.py MODEL FOLDER [FOLDER ...]`.

MODEL is what `train_thinker.py` left of a run with `token_ctc`, and each FOLDER one that `fetch_data.py speech` has
filled. Prints for each source of the test split the word error rate of the likeliest tokens, without the language
model. `--num N` takes the clips that `make_tasks.py` takes.
"""

import argparse
from pathlib import Path

import torch
from make_tasks import choose_clips
from recipes.configuration import run
from recipes.named_models import load_named, load_part
from recipes.token_ctc import TokenCTCModel
from transformers import AutoModelForMultimodalLM, AutoProcessor

from josie.evaluation.words import word_error_rate


@torch.no_grad()
def read_clips(folder: str, data: list[Path], num: int | None) -> dict[str, tuple[int, float]]:
    """Return the number of clips and the word error rate of each source.

    Args:
        folder (`str`): The model.
        data (`list[Path]`): Folders of speech.
        num (`int`, *optional*): Most clips of a source; all when `None`.

    Raises:
        `ValueError`: There is no such model, or it has no head for tokens; or as of [`choose_clips`].
    """
    chosen = choose_clips(data, num)
    model = load_named(folder, AutoModelForMultimodalLM, "MODEL")
    processor = load_part(folder, AutoProcessor, "MODEL")
    learner, thinker = TokenCTCModel.of_checkpoint(model, folder), getattr(model, "thinker", model)
    found = {}
    for name, clips in chosen.items():
        heard = []
        for clip in clips:
            inputs = processor(text=processor.audio_token, audio=clip["path"])
            names = [key for key in inputs if key.startswith(("input_features", "input_values", "padding_mask"))]
            rows = thinker.get_audio_features(**{key: inputs[key] for key in names}).pooler_output[0]
            heard.append(processor.tokenizer.decode(learner.read_tokens(rows)))
        found[name] = len(clips), word_error_rate(heard, [clip["text"] for clip in clips])
    return found


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--num", type=int, help="most clips of each source")
    arguments = parser.parse_args(argv)

    def read() -> None:
        for name, (count, rate) in read_clips(arguments.model, arguments.folders, arguments.num).items():
            print(f"{name}: {count} clips, WER {rate:.3f}")

    run(read)


if __name__ == "__main__":
    main()
