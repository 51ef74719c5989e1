"""Families of transformers that `josie assemble` takes, each tried on a tiny random model.

    python benchmarks/families.py > docs/families.md   # all, about three minutes on one core
    python benchmarks/families.py llama gemma2         # some

Every language model that transformers can load as a causal one, every vision encoder of square patches, every audio
encoder and audio codec is built tiny from its configuration, saved, assembled, run, saved, loaded, compared and trained
for a step. The result is printed as Markdown: the families that are taken, those that are refused, by the reason, and
those of which no tiny model could be built.
"""

import dataclasses
import re
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from family_sizes import SIZES, SKIPPED
from family_training import find_failures, make_batch, perturb
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import josie

MOST_PARAMETERS = 5_000_000
AUDIO_FAMILIES = (
    "data2vec-audio",
    "hubert",
    "sew",
    "sew-d",
    "unispeech",
    "unispeech-sat",
    "wav2vec2",
    "wav2vec2-conformer",
    "wavlm",
    "whisper",
)
CODEC_FAMILIES = ("dac", "encodec", "jodio", "josie_mel_codec", "mimi")
CONTEXT = 128  # for those that know none


HEADER = """# Families of pretrained parts

Which models can `josie assemble` take?

Each family of transformers {version} is tried on a tiny random model: built, assembled, run, saved, loaded, compared
and trained for a step, in which every trainable parameter gets a finite gradient. `python benchmarks/families.py`
prints this page. A family that is taken may still have checkpoints that are
refused, and a family that is not named here is tried when it comes: the error says why it cannot be used.
"""
TITLES = {"text": "Language models", "audio": "Audio encoders", "vision": "Vision encoders", "codec": "Audio codecs"}


@dataclass(frozen=True)
class Result:
    """Outcome of one family.

    Args:
        family (`str`): Model type.
        status (`"taken"`, `"refused"`, `"wrong"` or `"not built"`): "wrong" is a fault of ours, and fails the command.
        reason (`str`): Why it was not taken; or the option that it needs.
    """

    family: str
    status: str
    reason: str = ""


def list_families(part: str) -> list[str]:
    """Return the model types that are tried as one part: `"text"`, `"audio"`, `"vision"` or `"codec"`."""
    if part == "text":
        return sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - {"josie", "josie_thinker"})
    if part == "vision":
        return sorted(name for name in CONFIG_MAPPING if _has_square_patches(name))
    return sorted(AUDIO_FAMILIES if part == "audio" else CODEC_FAMILIES)


def _has_square_patches(model_type: str) -> bool:
    config_class = CONFIG_MAPPING[model_type]
    fields = _fields(config_class)
    is_encoder = (
        config_class in AutoModel._model_mapping and "vocab_size" not in fields and "sampling_rate" not in fields
    )
    return is_encoder and ({"image_size", "patch_size"} <= fields or {"num_patches", "patch_size"} <= fields)


def _fields(config_class: Any) -> set[str]:
    return (
        {field.name for field in dataclasses.fields(config_class)} if dataclasses.is_dataclass(config_class) else set()
    )


def build_config(model_type: str) -> transformers.PreTrainedConfig:
    """Return a tiny configuration: of the fields that a family has, those of `SIZES["any"]`, and its own."""
    config_class = CONFIG_MAPPING[model_type]
    fields = _fields(config_class)
    values = {name: value for name, value in SIZES["any"].items() if name in fields} | SIZES.get(model_type, {})
    return config_class(**{name: value for name, value in values.items() if value != "default"})


def build_model(model_type: str, auto_class: Any) -> transformers.PreTrainedModel:
    """Return a tiny random model in eval mode, in which no tensor is constant, so that none has no effect.

    Raises:
        `ValueError`: It would be too large.
    """
    config = build_config(model_type)
    with torch.device("meta"):
        num_parameters = auto_class.from_config(config).num_parameters()
    if num_parameters > MOST_PARAMETERS:
        raise ValueError(f"its tiny configuration has {num_parameters:,} parameters")
    torch.manual_seed(0)
    model = auto_class.from_config(build_config(model_type), dtype=torch.float32).eval()
    perturb(model)
    return model


def train_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Return a byte-level tokenizer that begins texts, as most do, and has no chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["A red ball lies on the table."] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    roles = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **roles)


def save_part(part: str, family: str, folder: Path) -> None:
    """Build a part, run a language model once, and save it with its tokenizer or feature extractor.

    Args:
        part (`str`): `"text"`, or a part of another modality.
        family (`str`): A `model_type`.
        folder (`Path`): Where it is saved.
    """
    if part == "text":
        model = build_model(family, AutoModelForCausalLM)
        model(torch.arange(5, 12)[None])
        train_tokenizer().save_pretrained(folder)
    elif family == "whisper":
        model = build_model(family, AutoModel)
        size = dict(feature_size=model.config.num_mel_bins, chunk_length=1)
        transformers.WhisperFeatureExtractor(**size).save_pretrained(folder)
    else:
        model = build_model(family, AutoModel)
    model.save_pretrained(folder)


def try_assembly(folder: Path, part: str, given: dict[str, Any]) -> None:
    """Assemble, generate from a batch, save, load, compare and train a step.

    Args:
        folder (`Path`): Where the model is saved.
        part (`str`): Which part is tried.
        given (`dict`): Arguments of `assemble`.

    Raises:
        `ValueError`: The family is refused.
        `AssertionError`: Something else is wrong.
    """
    talker = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16}
    model, processor = josie.assemble(**given, talker=talker if "codec" in given else "fit")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    loaded = transformers.AutoModelForMultimodalLM.from_pretrained(folder)
    inputs = processor(text=["A ball", "A red ball lies"])
    options: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    if "codec" in given:
        options |= {"generation_mode": "audio", "talker_max_new_frames": 3, "talker_min_new_frames": 3}
    written = [part.generate(**inputs, **options) for part in (model, loaded)]
    if "codec" in given:
        written = [speech.audio_values for speech in written]
    if not torch.equal(*written):
        raise AssertionError("another answer after it was saved and loaded")
    if failures := find_failures(loaded, make_batch(processor, part)):
        raise AssertionError(f"{len(failures)} trainable parameters fail: {next(iter(failures.items()))}")


def try_family(part: str, family: str, text: Path | None = None) -> Result:
    """Try one family as a part of a model; `text` is the folder of a language model for parts that are none."""
    if family in SKIPPED:
        return Result(family, "not built", SKIPPED[family])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            save_part(part, family, folder / "part")
        except Exception as error:  # whatever a family raises on sizes that are not its own
            return Result(family, "not built", _shorten(error))
        given: dict[str, Any] = {"text": folder / "part"} if text is None else {"text": text, part: folder / "part"}
        for options in ({}, {"context": CONTEXT}):
            try:
                try_assembly(folder / "whole", part, given | options)
            except ValueError as error:
                reason = _shorten(error).replace(f"'{folder}/part'", "it")
                if options or not reason.startswith("`context` must be"):
                    return Result(family, "refused", reason)
            except Exception as error:  # a fault of ours
                return Result(family, "wrong", f"{type(error).__name__}: {_shorten(error)}")
            else:
                break
        return Result(family, "taken", "with `--context`" if options else "")


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def try_all(names: list[str], report: Callable[[str, Result], None]) -> Iterator[tuple[str, list[Result]]]:
    """Yield the results of each part, for all families or those named."""
    for part in ("text", "audio", "vision", "codec"):
        families = [family for family in list_families(part) if not names or family in names]
        results = []
        with tempfile.TemporaryDirectory() as folder:
            text = None
            if part != "text" and families:
                text = Path(folder) / "text"
                save_part("text", "llama", text)
            for family in families:
                results.append(try_family(part, family, text))
                report(part, results[-1])
        if results:
            yield part, results


def write_markdown(part: str, results: list[Result]) -> str:
    """Return the table of one part: families by what became of them."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for result in results:
        groups[result.status, _generalize(result)].append(f"`{result.family}`")
    order = {"taken": 0, "refused": 1, "not built": 2, "wrong": 3}
    rows = sorted(groups.items(), key=lambda group: (order[group[0][0]], -len(group[1]), group[0]))
    lines = [f"## {TITLES[part]}", "", "| | families |", "| --- | --- |"]
    for (status, reason), names in rows:
        colon = ":" if status == "refused" else ""
        lines.append(f"| {status}{colon} {reason} ({len(names)}) | {', '.join(names)} |".replace("  ", " "))
    return "\n".join(lines)


def _generalize(result: Result) -> str:
    """Return a reason without what differs from family to family, so that those of one reason stand together."""
    if result.status in ("not built", "wrong"):
        return "in a tiny form" if result.status == "not built" else ""
    reason = re.sub(r", got .*", "", result.reason)
    reason = re.sub(r"^`\w+` must", "it must", reason)
    failure = re.search(r"(?:fails with|one with): (.*)", result.reason)
    return (f"{reason}: {failure[1]}" if failure else reason).replace("|", "\\|")


def main(names: list[str]) -> int:
    """Try families and print the tables; return the number that went wrong."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    known = {family for part in ("text", "audio", "vision", "codec") for family in list_families(part)}
    if unknown := sorted(set(names) - known):
        raise SystemExit(f"error: families must be model types of transformers, got {unknown[0]!r}.")

    def report(part: str, result: Result) -> None:
        print(f"{part} {result.family}: {result.status} {result.reason}", file=sys.stderr)

    if not names:
        print(HEADER.format(version=".".join(transformers.__version__.split(".")[:2])))
    num_wrong = 0
    for part, results in try_all(names, report):
        print(f"{write_markdown(part, results)}\n")
        num_wrong += sum(result.status == "wrong" for result in results)
    return num_wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) > 0)
