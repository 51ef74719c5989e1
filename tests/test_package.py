"""The house: which module may import which, what `import josie` costs, and what the Auto classes know after it."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from importlib.machinery import ModuleSpec
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest

import josie

ROOT = Path(josie.__file__).parent
CONFIGURATION, TOKENIZATION, PROCESSING, MODELING = (
    "configuration_josie",
    "tokenization",
    "processing_josie",
    "modeling_josie",
)
TRAINING, EVALUATION, CONVERSION, SERVING = "training", "evaluation", "conversion", "serving"
MODELS_AND_DATA = {CONFIGURATION, TOKENIZATION, PROCESSING, MODELING}
# For each package or top-level module, what else of ours it may import. Everything absent is forbidden.
ALLOWED_IMPORTS = {
    CONFIGURATION: set(),
    TOKENIZATION: {CONFIGURATION},
    PROCESSING: {CONFIGURATION, TOKENIZATION},
    MODELING: {CONFIGURATION, TOKENIZATION},
    TRAINING: MODELS_AND_DATA | {CONVERSION},  # for files that appear whole
    EVALUATION: MODELS_AND_DATA,
    CONVERSION: MODELS_AND_DATA,
    SERVING: MODELS_AND_DATA,
    "cli": MODELS_AND_DATA | {TRAINING, EVALUATION, CONVERSION, SERVING, "nano", "__version__"},
    "nano": set(),
    "auto_registration": set(),
    "__init__": {"auto_registration"} | MODELS_AND_DATA | {TRAINING, CONVERSION, "nano"},
    "__main__": {"cli"},
}
# The same inside `modeling_josie`, for its rooms and for the modules beside them.
COMMON = {"freezing", "option_values", "outputs", "peft_wrappers", "pretrained"}
PARTS = {"layers", "losses", "codecs", "thinker", "talker"}
ALLOWED_IN_MODELING = {
    "layers": {"pretrained"},
    "losses": {"layers", "mel"},
    "codecs": {"layers", "losses", "mel", "wrapped_parts"} | COMMON,
    "thinker": {"layers", "losses", "codecs"} | COMMON,
    "talker": {"layers", "losses"} | COMMON,
    "speech": PARTS | COMMON,
    "duplex": PARTS | COMMON,
    "freezing": set(),
    "mel": set(),
    "option_values": set(),
    "outputs": {"codecs"},
    "peft_wrappers": set(),
    "pretrained": {"wrapped_parts"},
    "wrapped_parts": set(),
    "generation": PARTS | COMMON | {"speech"},
    "josie": PARTS | COMMON | {"generation", "duplex"},
    "torch_export": PARTS | COMMON,
    "speech_tasks": {"generation", "josie", "thinker"},
    "__init__": PARTS | COMMON | {"josie", "speech_tasks"},
}
TORCH_FREE = {CONFIGURATION, TOKENIZATION, "nano", "auto_registration", "__init__"}
AUTO_CLASSES = {
    "AutoConfig": {
        "josie": "JosieConfig",
        "jodio": "JodioConfig",
        "jodio_discriminator": "JodioDiscriminatorConfig",
        "jovio": "JovioConfig",
    },
    "AutoModel": {
        "josie": "JosieForConditionalGeneration",
        "josie_audio_encoder": "JosieAudioEncoder",
        "josie_backbone": "JosieBackbone",
        "josie_mel_codec": "JosieMelCodecModel",
        "josie_talker": "JosieTalkerForConditionalGeneration",
        "josie_text": "JosieTextModel",
        "josie_thinker": "JosieThinkerModel",
        "josie_vision_encoder": "JosieVisionEncoder",
        "jodio": "JodioModel",
        "jodio_discriminator": "JodioDiscriminatorModel",
        "jovio": "JovioModel",
    },
    "AutoModelForMultimodalLM": {"josie": "JosieForConditionalGeneration"},
    "AutoModelForSpeechSeq2Seq": {"josie": "JosieForSpeechSeq2Seq"},
    "AutoModelForTextToWaveform": {"josie": "JosieForTextToWaveform"},
    "AutoModelForCausalLM": {
        "josie": "JosieForConditionalGeneration",
        "josie_thinker": "JosieThinkerForConditionalGeneration",
    },
    "AutoModelForAudioTokenization": {"jodio": "JodioModel", "josie_mel_codec": "JosieMelCodecModel"},
    "PROCESSOR_MAPPING": {"josie": "JosieProcessor"},
    "FEATURE_EXTRACTOR_MAPPING": {"josie": "JosieFeatureExtractor"},
}
ASK_AUTO_CLASSES = """
wanted = json.loads(sys.argv[1])
mappings = {
    "AutoConfig": transformers.CONFIG_MAPPING,
    "PROCESSOR_MAPPING": transformers.models.auto.processing_auto.PROCESSOR_MAPPING,
    "FEATURE_EXTRACTOR_MAPPING": transformers.models.auto.feature_extraction_auto.FEATURE_EXTRACTOR_MAPPING,
}
for auto_class, classes in wanted.items():
    for model_type in classes:
        mapping = mappings[auto_class] if auto_class in mappings else getattr(transformers, auto_class)._model_mapping
        key = model_type if auto_class == "AutoConfig" else transformers.CONFIG_MAPPING[model_type]
        classes[model_type] = mapping[key].__name__
watching = any(type(finder).__module__.startswith("josie") for finder in sys.meta_path)
print(json.dumps({"classes": wanted, "watching": watching}))
"""


def modules() -> list[Path]:
    """Return every runtime module."""
    packages = (ROOT / name for name in ALLOWED_IMPORTS if not name.startswith("__") and (ROOT / name).is_dir())
    top_level = [path for path in ROOT.glob("*.py") if path.stem in ALLOWED_IMPORTS]
    return sorted([*top_level, *(path for package in packages for path in package.rglob("*.py"))])


def owner(path: Path) -> str:
    """Return the package or top-level module that a file belongs to."""
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> list[tuple[int, str]]:
    """Return level (number of dots) and name of every import in a file, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.level, node.module))
        elif isinstance(node, ast.ImportFrom):  # from . import name
            found += [(node.level, alias.name) for alias in node.names]
    return found


def run_python(code: str, *arguments: str) -> str:
    """Run `code` in a new process where warnings are errors; return what it printed."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
class TestEveryModule:
    def test_imports_only_what_the_table_allows(self, path):
        depth = len(path.relative_to(ROOT).parts)
        for level, name in imports(path):
            first = name.partition(".")[0]
            assert level or first != "josie", f"{name}: imports inside the package are relative"
            assert level <= depth, f"{name}: leaves the package"
            if level == depth and first != owner(path):
                assert first in ALLOWED_IMPORTS[owner(path)], f"{owner(path)} must not import {first}"

    def test_imports_only_what_the_table_of_models_allows(self, path):
        if owner(path) != MODELING:
            return
        inside = path.relative_to(ROOT / MODELING)
        room, depth = inside.parts[0].removesuffix(".py"), len(inside.parts)
        for level, name in imports(path):
            first = name.partition(".")[0]
            if level == depth and first != room:
                assert first in ALLOWED_IN_MODELING[room], f"{room} must not import {first}"

    def test_configuration_and_tokenization_import_no_torch(self, path):
        torches = {name for level, name in imports(path) if level == 0 and name.startswith("torch")}
        assert owner(path) not in TORCH_FREE or not torches

    def test_imports_no_model_of_transformers_before_it_is_needed(self, path):
        first = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
        models = [node.module for node in first if re.match(r"transformers\.models\.(?!auto\.)", node.module or "")]
        assert owner(path) != MODELING or not models

    def test_has_no_print_and_no_assert_but_a_docstring(self, path):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert "print" not in calls
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree))
        assert ast.get_docstring(tree)


def test_the_table_covers_every_package():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == {name for name in ALLOWED_IMPORTS if (ROOT / name).is_dir()}
    assert {path.stem for path in ROOT.glob("*.py")} <= ALLOWED_IMPORTS.keys()
    inside = {path.stem for path in (ROOT / MODELING).iterdir() if path.name != "__pycache__"}
    assert inside == ALLOWED_IN_MODELING.keys()


def test_public_names_exist():
    assert len(josie.__all__) > 40
    for name in josie.__all__:
        assert getattr(josie, name).__name__ == name
    assert set(josie.__all__) <= set(dir(josie))


def test_a_module_that_moved_warns():
    with pytest.warns(FutureWarning, match="`josie.judge` is `josie.evaluation.judge` now."):
        assert josie.judge.__name__ == "josie.evaluation.judge"


@pytest.mark.parametrize("name", ["split_words", "word_error_rate", "count_word_errors"])
def test_names_that_moved_to_words_warn(name):
    from josie.evaluation import judge, words

    with pytest.warns(FutureWarning, match=f"`josie.evaluation.judge.{name}` is `josie.evaluation.words.{name}` now."):
        assert getattr(judge, name) is getattr(words, name)


def test_pyproject_names_every_package():
    """A package that is not named there is missing in a wheel."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    rooms = {path.split("/")[0] for path in ALLOWED_IMPORTS}
    folders = [path.parent.relative_to(ROOT) for path in ROOT.glob("**/__init__.py") if path.parent != ROOT]
    found = {".".join(("josie", *folder.parts)) for folder in folders if folder.parts[0] in rooms}
    assert {"josie", *found} == set(settings["packages"])


def test_pyproject_names_every_data_file():
    """A file of a package that is not Python and not named there is missing in a wheel."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {name: ROOT.joinpath(*name.split(".")[1:]) for name in settings["packages"] if name != "josie"}
    named = {
        path
        for name, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*name.split(".")[1:]).glob(pattern)
    }
    files = {path for folder in folders.values() for path in folder.rglob("*") if path.is_file()}
    assert {path for path in files - named if path.suffix not in (".py", ".pyc")} == set()


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="No josie attribute Josy"):
        josie.Josy  # noqa: B018


def test_the_package_is_typed():
    assert files("josie").joinpath("py.typed").is_file()


def test_import_is_silent_and_brings_neither_torch_nor_transformers():
    assert (
        run_python("import sys, josie; print(sorted({'torch', 'transformers', 'numpy', 'typer'} & sys.modules.keys()))")
        == "[]\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        "import json, sys, josie, transformers",
        "import json, sys, transformers; from transformers import pipeline; import josie",
        "import json, sys, josie; from josie.processing_josie import JosieProcessor; import transformers",
    ],
    ids=["josie-first", "transformers-first", "processing-first"],
)
def test_auto_classes_know_josie(start):
    answer = json.loads(run_python(f"{start}\n{ASK_AUTO_CLASSES}", json.dumps(AUTO_CLASSES)))
    assert answer["classes"] == AUTO_CLASSES
    assert not answer["watching"], "the finder must remove itself when everything is registered"


@pytest.mark.parametrize(
    ("auto_class", "name"),
    [
        ("AutoConfig", "JosieConfig"),
        ("AutoModel", "JosieForConditionalGeneration"),
        ("AutoModelForMultimodalLM", "JosieForConditionalGeneration"),
        ("AutoProcessor", "JosieProcessor"),
        ("AutoTokenizer", "TokenizersBackend"),
        ("AutoFeatureExtractor", "JosieFeatureExtractor"),
        ("AutoImageProcessor", "JosieImageProcessor"),
        ("AutoVideoProcessor", "JosieVideoProcessor"),
    ],
)
def test_auto_classes_load_a_checkpoint(tiny_folder, auto_class, name):
    import transformers

    assert type(getattr(transformers, auto_class).from_pretrained(tiny_folder)).__name__ == name


def test_registration_waits_for_the_outermost_import(monkeypatch):
    """A module of ours that needs a transformers module which is still being imported must not be imported yet."""
    from josie import auto_registration

    events = []
    registration = auto_registration.AutoRegistration()
    monkeypatch.setattr(auto_registration.importlib, "import_module", lambda name, package: events.append(name))

    class Loader:
        def __init__(self, inner=None):
            self.inner = inner

        def exec_module(self, module):
            if self.inner is not None:
                self.inner()
            events.append(module.__name__)

    def load(name, inner=None):
        spec = ModuleSpec(name, Loader(inner))  # type: ignore[arg-type]
        registration._wrap(spec)
        spec.loader.exec_module(ModuleType(name))
        assert "exec_module" not in vars(spec.loader)

    load("transformers.trainer", lambda: load("transformers.models.auto.modeling_auto"))
    assert events == ["transformers.models.auto.modeling_auto", "transformers.trainer", ".modeling_josie"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("josie.conversion.assemble", "assemble"),
        ("josie.conversion.assemble", "list_parts"),
        ("josie.conversion.hub", "export_folder"),
        ("josie.conversion.muomni", "convert_muomni"),
    ],
)
def test_a_name_that_moved_is_found_and_warns(module, name):
    package = importlib.import_module(module)
    with pytest.warns(FutureWarning, match=rf"`{module}\.{name}` is `{module}\.\w+\.{name}` now\."):
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018
