"""Models with parts that are compiled, parallel or wrapped by peft: what is saved is found again, or refused."""

import os

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from tiny import CASES
from torch import nn
from transformers import AutoModelForMultimodalLM, Trainer, TrainingArguments

import josie

COMPILED = "_orig_mod."


def compiled(module):
    return torch.compile(module, backend="eager")


WRAPPERS = {
    "compiled": compiled,
    "parallel": nn.DataParallel,
    "both": lambda module: compiled(nn.DataParallel(module)),
}
PLACES = ["thinker", "talker", "audio_codec", "thinker.model.audio_front_end.encoder", "thinker.lm_head"]


def wrap(model, place, wrapper):
    parent, _, name = place.rpartition(".")
    parent = model.get_submodule(parent)
    setattr(parent, name, wrapper(getattr(parent, name)))


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def require_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.fixture
def model():
    return CASES["josie"].build()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a whole model; not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    CASES["josie"].build().save_pretrained(folder)
    return folder


class TestWrappedByTorch:
    @pytest.mark.parametrize("wrapper", WRAPPERS)
    @pytest.mark.parametrize("place", PLACES)
    def test_names_are_plain(self, model, whole, place, wrapper, tmp_path):
        wrap(model, place, WRAPPERS[wrapper])
        before = list(model.state_dict())
        model.save_pretrained(tmp_path)
        require_same(weights_of(tmp_path), weights_of(whole))
        assert list(model.state_dict()) == before  # still wrapped

    def test_several_at_once_in_shards(self, model, whole, tmp_path):
        for place in reversed(PLACES):
            wrap(model, place, compiled)
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
        loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path)
        require_same(loaded.state_dict(), AutoModelForMultimodalLM.from_pretrained(whole).state_dict())

    def test_a_part_alone(self, model, tmp_path):
        expected = {name: value.clone() for name, value in model.thinker.state_dict().items()}
        wrap(model.thinker, "model.language_model", compiled)
        model.thinker.save_pretrained(tmp_path)
        require_same(weights_of(tmp_path), expected)

    @pytest.mark.parametrize("is_whole", [False, True], ids=["part", "whole"])
    def test_with_code(self, model, whole, is_whole, tmp_path):
        wrap(model, "thinker", compiled)
        josie.save_with_code(compiled(model) if is_whole else model, tmp_path / "new")
        require_same(weights_of(tmp_path / "new"), weights_of(whole))

    def test_they_are_wrapped_again_after_an_error(self, model, tmp_path):
        wrap(model, "thinker", compiled)
        with pytest.raises(ValueError, match="not supported"):
            model.save_pretrained(tmp_path, max_shard_size="abc")
        assert "_orig_mod" in model.thinker._modules

    @pytest.mark.parametrize("place", ["thinker", ""], ids=["part", "whole"])
    def test_trainer(self, model, whole, place, tmp_path):
        if place:
            wrap(model, place, compiled)
        given = model if place else compiled(model)
        arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
        trainer = Trainer(given, arguments, train_dataset=[0])
        trainer.save_model(str(tmp_path / "saved"))
        require_same(weights_of(tmp_path / "saved"), weights_of(whole))
        with torch.no_grad():
            model.thinker.lm_head.weight.zero_()
        if place:
            trainer._load_from_checkpoint(str(tmp_path / "saved"))
            assert model.thinker.lm_head.weight.any()
        else:  # torch hands the model none of the weights
            with pytest.raises(ValueError, match="`state_dict` must have names that begin with '_orig_mod.'"):
                trainer._load_from_checkpoint(str(tmp_path / "saved"))
            model.load_state_dict(weights_of(tmp_path / "saved"))

    @pytest.mark.parametrize("saved", [None, "thinker", "talker", ""], ids=str)
    @pytest.mark.parametrize("place", [None, "thinker", "thinker.model.audio_front_end.encoder"])
    def test_weights_find_their_place_whatever_was_compiled(self, saved, place):
        source, target = CASES["josie"].build(), CASES["josie"].build()
        expected = {name: value.clone() for name, value in source.state_dict().items()}
        with torch.no_grad():
            for parameter in target.parameters():
                parameter.zero_()
        if saved:
            wrap(source, saved, compiled)
        state = source.state_dict()
        if saved == "":
            state = {COMPILED + name: value for name, value in state.items()}
        if place is not None:
            wrap(target, place, compiled)
        result = target.load_state_dict(state)
        assert not result.missing_keys
        require_same({name.replace(COMPILED, ""): value for name, value in target.state_dict().items()}, expected)

    def test_missing_weights_are_still_missing(self, model, whole):
        wrap(model, "thinker", compiled)
        state = weights_of(whole)
        state["new"] = state.pop("thinker.lm_head.weight")
        result = model.load_state_dict(state, strict=False)
        assert (result.missing_keys, result.unexpected_keys) == (["thinker._orig_mod.lm_head.weight"], ["new"])

    @pytest.mark.parametrize("prefix", ["", "thinker."])
    def test_folders_with_names_of_compiled_models_load(self, model, whole, prefix, tmp_path):
        model.config.save_pretrained(tmp_path)
        state = weights_of(whole)
        names = {
            name: name.replace(prefix, prefix + COMPILED, 1) if name.startswith(prefix) else name for name in state
        }
        save_file(
            {names[name]: value for name, value in state.items()}, tmp_path / "model.safetensors", {"format": "pt"}
        )
        for model_class in (AutoModelForMultimodalLM, josie.JosieThinkerForConditionalGeneration):
            loaded, loading = model_class.from_pretrained(tmp_path, output_loading_info=True)
            assert not loading["missing_keys"]
            assert not loading["unexpected_keys"]
            loaded.save_pretrained(tmp_path / "again")
            require_same(weights_of(tmp_path / "again"), dict(loaded.state_dict()))


peft = pytest.importorskip("peft", reason="adapters need peft: pip install 'josie[peft]'")

# What peft 0.21 still asks every model of transformers.
OLD = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
MATRICES = ["qkv_proj", "o_proj"]
KINDS = {
    "lora": lambda: peft.LoraConfig(target_modules=MATRICES, r=2, init_lora_weights=False),
    "modules": lambda: peft.LoraConfig(target_modules=["o_proj"], modules_to_save=["lm_head"], init_lora_weights=False),
    "ia3": lambda: peft.IA3Config(target_modules=MATRICES, feedforward_modules=[], init_ia3_weights=False),
    "tokens": lambda: peft.TrainableTokensConfig(token_indices=[3], target_modules=["embed_tokens"]),
    "prompts": lambda: peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, num_layers=2, num_attention_heads=2, token_dim=30
    ),
}
REFUSED = "`model` must be without adapters of peft inside to be saved with its weights, got some in "


def adapt(model, kind="lora"):
    torch.manual_seed(3)
    return peft.get_peft_model(model, KINDS[kind]())


@OLD
class TestAdaptersInside:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_wrapped_part_is_refused_until_merged(self, model, kind, tmp_path):
        model.thinker = adapt(model.thinker, kind)
        for save in (model.save_pretrained, lambda folder: josie.save_with_code(model, folder)):
            with pytest.raises(ValueError, match=f"^{REFUSED}'thinker': [^\n]*`merge_and_unload"):
                save(tmp_path / "new")
        assert not any(tmp_path.iterdir())
        model.thinker.save_pretrained(tmp_path / "adapters")
        if kind != "prompts":
            model.thinker = model.thinker.merge_and_unload()
            model.save_pretrained(tmp_path / "merged")
            require_same(AutoModelForMultimodalLM.from_pretrained(tmp_path / "merged").state_dict(), model.state_dict())

    @pytest.mark.parametrize("place", ["talker", "audio_codec.encoder", "thinker.model.audio_front_end.encoder"])
    def test_so_is_any_other(self, model, place, tmp_path):
        config = peft.LoraConfig(target_modules="all-linear", r=2)
        if place.startswith("audio_codec"):
            config.target_modules = [
                name for name, module in model.audio_codec.encoder.named_modules() if isinstance(module, nn.Linear)
            ]
        else:
            config.target_modules = MATRICES
        wrap(model, place, lambda module: peft.get_peft_model(module, config))
        for saved, name in ((model, place), (model.get_submodule(place.partition(".")[0]), place.partition(".")[2])):
            if name:
                with pytest.raises(ValueError, match=f"{REFUSED}'{name}'"):
                    saved.save_pretrained(tmp_path / "new")
        assert not any(tmp_path.iterdir())

    @pytest.mark.parametrize("wrapper", ["peft", "torch"])
    def test_wrappers_in_wrappers(self, model, wrapper, tmp_path):
        if wrapper == "torch":
            model.thinker = compiled(adapt(model.thinker))
        else:
            model.thinker = adapt(compiled(model.thinker))
        with pytest.raises(ValueError, match=f"{REFUSED}'thinker'"):
            model.save_pretrained(tmp_path / "new")

    def test_adapters_inside_without_a_wrapper(self, model, tmp_path):
        adapted = adapt(model.thinker)
        with pytest.raises(ValueError, match=f"{REFUSED}'thinker.model.*qkv_proj'"):
            model.save_pretrained(tmp_path / "new")
        adapted.merge_and_unload()
        model.save_pretrained(tmp_path / "new")

    def test_the_model_inside_a_wrapper(self, model, tmp_path):
        adapted = adapt(model)
        with pytest.raises(ValueError, match=REFUSED):
            model.save_pretrained(tmp_path / "new")
        adapted.save_pretrained(tmp_path / "adapters")
        assert not (tmp_path / "new").exists()

    def test_weights_that_are_given_without_adapters_are_saved(self, model, whole, tmp_path):
        state = model.state_dict()
        model.thinker = adapt(model.thinker)
        model.save_pretrained(tmp_path, state_dict=dict(state))
        require_same(weights_of(tmp_path), weights_of(whole))
        with pytest.raises(ValueError, match=f"{REFUSED}'thinker'"):
            model.save_pretrained(tmp_path, state_dict=model.state_dict())

    def test_no_repository_is_made(self, model, monkeypatch):
        monkeypatch.setattr(HfApi, "create_repo", lambda *args, **kwargs: pytest.fail("a repository is made"))
        model.talker = adapt(model.talker)
        with pytest.raises(ValueError, match=REFUSED):
            josie.push_with_code(model, "some/name")
        with pytest.raises(ValueError, match=REFUSED):
            model.push_to_hub("some/name")


@OLD
class TestAdaptersOfParts:
    @pytest.fixture(params=["alone", "inside"])
    def adapters(self, request, whole, tmp_path):
        """A folder of adapters of a Thinker that was loaded alone, or with the whole model."""
        if request.param == "alone":
            thinker = josie.JosieThinkerForConditionalGeneration.from_pretrained(whole)
        else:
            thinker = AutoModelForMultimodalLM.from_pretrained(whole).thinker
        adapt(thinker).save_pretrained(tmp_path / "adapters")
        return tmp_path / "adapters"

    @staticmethod
    def require_loaded(model, folder, place):
        own = dict(model.named_parameters())
        saved = load_file(folder / "adapter_model.safetensors")
        for name, value in saved.items():
            name = name.removeprefix("base_model.model.").replace(COMPILED, "").replace(".weight", ".default.weight")
            assert torch.equal(own[f"{place}{name}"], value), name
        assert sum("lora_" in name for name in own) == len(saved)

    def test_the_whole_model_gets_them(self, adapters):
        loaded, loading = AutoModelForMultimodalLM.from_pretrained(adapters, output_loading_info=True)
        assert type(loaded) is josie.JosieForConditionalGeneration
        assert not loading["missing_keys"]
        self.require_loaded(loaded, adapters, "thinker.")
        with pytest.raises(ValueError, match=f"{REFUSED}'thinker'"):
            loaded.save_pretrained(adapters / "new")

    def test_the_part_gets_them(self, adapters):
        loaded = josie.JosieThinkerForConditionalGeneration.from_pretrained(adapters)
        self.require_loaded(loaded, adapters, "")

    @pytest.mark.parametrize("place", ["talker", "thinker.model"])
    def test_so_does_any_other_part(self, model, place, tmp_path):
        adapt(CASES["josie"].build().get_submodule(place)).save_pretrained(tmp_path)
        model.hf_device_map = {"thinker": "cpu", "talker": torch.device("cpu")}  # as on several devices
        model.load_adapter(str(tmp_path))
        self.require_loaded(model, tmp_path, f"{place}.")
        expected = {"": model.hf_device_map[place]} if place == "talker" else None
        assert getattr(model.get_submodule(place), "hf_device_map", None) == expected

    def test_weights_that_are_given(self, adapters, model):
        state, config = load_file(adapters / "adapter_model.safetensors"), peft.PeftConfig.from_pretrained(adapters)
        model.load_adapter(peft_config=config, adapter_state_dict=state, adapter_name="default")
        self.require_loaded(model, adapters, "thinker.")

    def test_those_of_the_whole_stay(self, model, tmp_path):
        adapt(CASES["josie"].build()).save_pretrained(tmp_path)
        model.load_adapter(str(tmp_path))
        self.require_loaded(model, tmp_path, "")
        assert model._hf_peft_config_loaded

    def test_those_of_a_compiled_part(self, model, tmp_path):
        source = CASES["josie"].build()
        source.talker = compiled(source.talker)
        config = peft.LoraConfig(target_modules=r"talker\..*qkv_proj", r=2, init_lora_weights=False)
        peft.get_peft_model(source, config).save_pretrained(tmp_path)
        assert COMPILED in next(iter(load_file(tmp_path / "adapter_model.safetensors")))
        peft.PeftModel.from_pretrained(model, tmp_path)
        self.require_loaded(model, tmp_path, "")
        model = CASES["josie"].build()
        model.load_adapter(str(tmp_path))
        self.require_loaded(model, tmp_path, "")

    def test_names_that_fit_several_parts_are_refused(self, model, tmp_path):
        encoder = "thinker.model.{}_front_end.encoder"
        adapt(CASES["josie"].build().get_submodule(encoder.format("audio"))).save_pretrained(tmp_path)
        before = list(model.state_dict())
        both = rf"\['{encoder.format('audio')}', '{encoder.format('vision')}'\]"
        with pytest.raises(ValueError, match=f"of which they fit each of {both}: give one of these.$"):
            model.load_adapter(str(tmp_path))
        assert list(model.state_dict()) == before

    def test_peft_is_told_which_part_to_give(self, adapters, whole):
        model = AutoModelForMultimodalLM.from_pretrained(whole)
        with pytest.raises(ValueError, match="`model` must be the part .* of its 'thinker': give `model.thinker` of"):
            peft.PeftModel.from_pretrained(model, adapters)
        model = AutoModelForMultimodalLM.from_pretrained(whole)
        model.thinker = peft.PeftModel.from_pretrained(model.thinker, adapters)
        self.require_loaded(model.thinker.get_base_model(), adapters, "")

    def test_parts_know_the_folder_of_the_whole(self, whole, tmp_path):
        for place in ("thinker", "thinker.model", "talker"):
            part = AutoModelForMultimodalLM.from_pretrained(whole).get_submodule(place)
            assert part.name_or_path == os.fspath(whole)
            adapt(part).save_pretrained(tmp_path)
            assert peft.PeftConfig.from_pretrained(tmp_path).base_model_name_or_path == os.fspath(whole)


@OLD
class TestMerging:
    @pytest.fixture(autouse=True)
    def recipe(self):
        return pytest.importorskip("merge_adapters")

    @pytest.mark.parametrize("kind", ["lora", "modules", "ia3"])
    def test_adapters_of_a_part(self, recipe, tiny_folder, kind, tmp_path):
        thinker = josie.JosieThinkerForConditionalGeneration.from_pretrained(tiny_folder)
        adapted = adapt(thinker, kind)
        adapted.save_pretrained(tmp_path / "adapters")
        recipe.main([str(tmp_path / "adapters"), str(tmp_path / "merged")])
        merged = AutoModelForMultimodalLM.from_pretrained(tmp_path / "merged")
        assert type(merged) is josie.JosieForConditionalGeneration
        ids = torch.tensor([[20, 21, 22]])
        with torch.no_grad():
            expected = adapted.eval()(input_ids=ids).logits
            torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-3, atol=1e-4)
            fresh = AutoModelForMultimodalLM.from_pretrained(tiny_folder)
            assert not torch.allclose(fresh(input_ids=ids).logits, expected, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("kind", ["prompts", "prefix", "poly"])
    def test_kinds_that_cannot_be_merged_are_named(self, recipe, tiny_folder, kind, tmp_path):
        options = dict(task_type="CAUSAL_LM", num_virtual_tokens=3, num_layers=2, num_attention_heads=2, token_dim=30)
        configs = {
            "prompts": ("PROMPT_TUNING", lambda: peft.PromptTuningConfig(**options)),
            "prefix": ("PREFIX_TUNING", lambda: peft.PrefixTuningConfig(**options)),
            "poly": ("POLY", lambda: peft.PolyConfig(target_modules=MATRICES)),
        }
        name, make = configs[kind]
        if not hasattr(peft.PeftType, name):
            pytest.skip(f"this peft, {peft.__version__}, has no {name}")
        model = AutoModelForMultimodalLM.from_pretrained(tiny_folder)
        peft.get_peft_model(model.thinker, make()).save_pretrained(tmp_path / "adapters")
        with pytest.raises(SystemExit) as caught:
            recipe.main([str(tmp_path / "adapters"), str(tmp_path / "merged")])
        start = f"error: `ADAPTERS` must be adapters that can be merged, got '{tmp_path}/adapters' of type {name}"
        assert str(caught.value).startswith(start)
        assert "\n" not in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["adapters"]

    def test_adapters_that_fit_several_parts_are_named(self, recipe, tiny_folder, tmp_path):
        model = AutoModelForMultimodalLM.from_pretrained(tiny_folder)
        encoder = model.thinker.model.audio_front_end.encoder
        encoder.name_or_path = str(tiny_folder)
        adapt(encoder).save_pretrained(tmp_path)
        with pytest.raises(SystemExit, match=f"`ADAPTERS` must be of one part of the model '{tiny_folder}', got"):
            recipe.main([str(tmp_path), str(tmp_path / "merged")])
