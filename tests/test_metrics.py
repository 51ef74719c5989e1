"""Metrics of recipes against naive computations, and through `Trainer`."""

import math

import numpy as np
import pytest
import torch
from recipes import answers
from tiny import CASES, josie_inputs
from torch.nn import functional
from transformers import EvalPrediction, Trainer, TrainingArguments

import josie
from josie.training import metrics


def test_tokens_are_scored_as_one_by_one():
    logits, labels = torch.randn(3, 7, 11), torch.randint(0, 11, (3, 7))
    labels[0, :4] = labels[2] = -100
    labels[1, 3] = logits[1, 2].argmax()
    losses, right = [], []
    for row in range(3):
        for place in range(1, 7):
            if labels[row, place] != -100:
                losses.append(functional.cross_entropy(logits[row, place - 1], labels[row, place]).item())
                right.append(bool(logits[row, place - 1].argmax() == labels[row, place]))
    kept = metrics.keep_scores(logits, labels)
    assert kept.shape == (3, 3)
    found = metrics.Metrics()(EvalPrediction(kept.numpy(), labels.numpy()))
    assert found == pytest.approx({"perplexity": math.exp(np.mean(losses)), "token_accuracy": np.mean(right)}, rel=1e-5)


def test_a_loss_beyond_all_numbers_is_infinite():
    scores = [np.array([[loss, 0, 1]]) for loss in (2.0, 1e4, math.nan)]
    found = [metrics.Metrics()(EvalPrediction(each, each))["perplexity"] for each in scores]
    assert found[:2] == [math.exp(2), math.inf]
    assert math.isnan(found[2])


@pytest.mark.parametrize("has_depth", [True, False])
def test_codes_are_scored_by_quantizer(has_depth):
    codes = torch.randint(0, 11, (2, 3, 8))
    codes[1, :, 5:], codes[0, 1:, 7] = -100, -100
    logits, depth = torch.randn(2, 8, 12), torch.randn(2, 2, 8, 11) if has_depth else None
    logits[0, 2, codes[0, 0, 2]] = 9
    expected = {}
    for quantizer in range(3 if has_depth else 1):
        chosen = logits.argmax(-1) if quantizer == 0 else depth[:, quantizer - 1].argmax(-1)
        hits = [
            chosen[b, t] == codes[b, quantizer, t] for b in range(2) for t in range(8) if codes[b, quantizer, t] >= 0
        ]
        expected[f"code_accuracy_{quantizer}"] = np.mean(hits)
    outputs = (logits, depth, torch.randn(2, 8, 30)) if has_depth else (logits, torch.randn(2, 8, 30))
    kept = metrics.keep_scores(outputs, codes)
    found = metrics.Metrics()(EvalPrediction([kept[:1].numpy(), kept[1:].numpy()], codes.numpy()))
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("has_depth", [True, False])
def test_what_trainer_fills_up_for_other_processes_is_no_frame(has_depth):
    """`pad_across_processes` makes the second axis of logits, of codes and of the depth decoder's the longest."""
    codes = torch.randint(0, 11, (2, 3, 5))
    logits, depth = torch.randn(2, 5, 12), torch.randn(2, 2, 5, 11) if has_depth else None
    filled = functional.pad(logits, (0, 0, 0, 4), value=-100.0)
    assert torch.equal(metrics.score_codes(filled, depth, codes), metrics.score_codes(logits, depth, codes))


def test_trainer_evaluates_text_and_speech_of_any_length(tmp_path):
    model = CASES["josie"].build()
    whole = josie_inputs()
    # Of the second batch, every row is shorter.
    short = {**whole, "speech_codes": whole["speech_codes"][..., :6]}
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_eval_batch_size=1,
        label_names=["labels", "speech_codes"],
        eval_do_concat_batches=False,
        remove_unused_columns=False,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    options = dict(
        eval_dataset=[whole, short],
        data_collator=lambda rows: rows[0],
        compute_metrics=metrics.Metrics(),
        preprocess_logits_for_metrics=metrics.keep_scores,
    )
    with pytest.raises(ValueError, match="must have the logits of codes with `speech_codes`: `JosieTrainer`"):
        Trainer(model, arguments, **options).evaluate()
    found = josie.JosieTrainer(model, arguments, **options).evaluate()
    with torch.no_grad():
        outputs = [model(**batch) for batch in (whole, short)]
    assert found["eval_perplexity"] == pytest.approx(math.exp(outputs[0].text_loss), rel=1e-4)
    for quantizer in range(3):
        hits, total = 0, 0
        for output, batch in zip(outputs, (whole, short), strict=True):
            logits = output.talker_logits if quantizer == 0 else output.depth_logits[:, quantizer - 1]
            codes = batch["speech_codes"][:, quantizer]
            hits += (logits.argmax(-1) == codes)[codes >= 0].sum().item()
            total += (codes >= 0).sum().item()
        assert found[f"eval_code_accuracy_{quantizer}"] == pytest.approx(hits / total)


def test_answers_are_compared_by_their_words():
    found = answers.compare_answers(["A red ball.", "two", ""], ["a red BALL", "three dogs", "no"])
    assert found == pytest.approx({"exact_match": 1 / 3, "word_error_rate": 3 / 6})
    assert answers.compare_answers([], []) == {}
    assert answers.read_text({"content": [{"type": "audio", "path": "x"}, {"type": "text", "text": "yes"}]}) == "yes"
    assert answers.read_text({"content": "no"}) == "no"
    assert answers.read_text({"content": None}) == ""
