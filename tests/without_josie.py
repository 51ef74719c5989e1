"""Runs in a process of its own, where josie cannot be imported: loads exports, and says what became of each.

    python without_josie.py FOLDER

FOLDER has a folder of exports, `exports/NAME`, and `cases.pt`: for each name the Auto class, a batch, the name of the
output to compare, and its value. What is found goes to `found.json`.
"""

import json
import sys
import traceback
from pathlib import Path


class NoJosie:
    """Finds nothing, and says so of josie before anybody else is asked."""

    def find_spec(self, name, path=None, target=None):
        """Refuse josie and its parts."""
        if name.partition(".")[0] in ("josie", "configuration_josie", "modeling_josie", "processing_josie"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NoJosie())

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers.models.auto import (  # noqa: E402
    feature_extraction_auto,
    image_processing_auto,
    modeling_auto,
    processing_auto,
    video_processing_auto,
)

TRUST = dict(trust_remote_code=True)


def forget_code() -> None:
    """Forget all code that was loaded, as a new process would."""
    mappings = [transformers.CONFIG_MAPPING]
    for module in (
        modeling_auto,
        feature_extraction_auto,
        image_processing_auto,
        processing_auto,
        video_processing_auto,
    ):
        mappings += [getattr(value, "_model_mapping", value) for value in vars(module).values()]
    for mapping in mappings:
        if hasattr(mapping, "_extra_content"):
            mapping._extra_content.clear()
    for name in [name for name in sys.modules if name.startswith("transformers_modules.")]:
        del sys.modules[name]


def load(case: dict, folder: Path):
    """Load a model through its Auto class, with everything that transformers has to say about it."""
    auto_class = getattr(transformers, case["auto_class"])
    model, info = auto_class.from_pretrained(folder, output_loading_info=True, **TRUST)
    return model, {name: sorted(map(str, keys)) for name, keys in info.items() if keys}


def differs(case: dict, model) -> float:
    """Return the largest difference between the model's output and the expected one; infinite where shapes differ."""
    with torch.no_grad():
        output = getattr(model(**case["inputs"]), case["output"])
    expected = case["expected"]
    if output.shape != expected.shape or output.dtype != expected.dtype:
        return float("inf")
    return (output.double() - expected.double()).abs().max().item()


def speak(case: dict, model) -> bool | None:
    """Return whether the model says what it said where it comes from."""
    if "speech" not in case:
        return None
    return torch.equal(model.generate_speech(**case["speech_inputs"]).audio_values, case["speech"])


def read_code(folder: Path) -> dict[str, str]:
    """Return the Python files of a folder, and what its configuration says of them."""
    code = {path.name: path.read_text() for path in folder.glob("*.py")}
    return code | {"auto_map": json.loads((folder / "config.json").read_text())["auto_map"]}


def try_case(case: dict, folder: Path, again: Path) -> dict:
    """Load an export as if it were the first, compare, and save what was loaded."""
    forget_code()
    model, info = load(case, folder)
    found = {"info": info, "difference": differs(case, model), "speaks": speak(case, model)}
    found["module"] = type(model).__module__.split(".")[0]
    model.save_pretrained(again)
    if case["processor"]:
        processor = getattr(transformers, case["processor"]).from_pretrained(folder, **TRUST)
        found["processor"] = [type(processor).__name__, type(processor).__module__.split(".")[0]]
        processor.save_pretrained(again)
    found["same_code"] = read_code(folder) == read_code(again)
    return found


def try_again(case: dict, folder: Path) -> dict:
    """Load what was saved, without forgetting the code of other folders, and compare."""
    model, info = load(case, folder)
    found = {"info": info, "difference": differs(case, model), "speaks": speak(case, model)}
    if case["processor"]:
        processor = getattr(transformers, case["processor"]).from_pretrained(folder, **TRUST)
        found["processor"] = [type(processor).__name__, type(processor).__module__.split(".")[0]]
    return found


def main(folder: Path) -> None:
    """Try all exports one by one, then all that was saved from them together."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    cases = torch.load(folder / "cases.pt", weights_only=False)
    found = {name: {} for name in cases}
    for name, case in cases.items():
        try:
            found[name] |= try_case(case, folder / "exports" / name, folder / "again" / name)
        except Exception:
            found[name]["error"] = traceback.format_exc()
    forget_code()
    for name in sorted(cases):  # codecs before the whole, the whole before the Thinker: none may be in another's way
        try:
            found[name]["again"] = try_again(cases[name], folder / "again" / name)
        except Exception:
            found[name]["error"] = traceback.format_exc()
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
