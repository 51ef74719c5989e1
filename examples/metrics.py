"""What `Trainer` evaluates by: perplexity, token and code accuracy, and the answers that a model really writes.

    Trainer(..., compute_metrics=Metrics(), preprocess_logits_for_metrics=keep_scores)

`keep_scores` makes a few numbers of each row's logits as soon as they are there: no logits are kept, and they can be
of any length. What a word is, `josie.evaluation.judge` says.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from speech_rows import without_speech
from torch.nn import functional
from transformers import EvalPrediction, PreTrainedModel
from transformers.utils import ModelOutput

from josie.evaluation.judge import split_words, word_error_rate

IGNORED = -100
_IS_SCORE = re.compile(r"_(loss|perplexity|accuracy(_\d+)?|exact_match|word_error_rate)$")
_NUM_TEXT_SCORES = 3  # negative log-likelihood, right tokens, tokens


def keep_scores(outputs: torch.Tensor | tuple[Any, ...], labels: torch.Tensor | tuple[Any, ...]) -> torch.Tensor:
    """Return what [`Metrics`] needs of a batch: `preprocess_logits_for_metrics`.

    Args:
        outputs (`torch.Tensor` or `tuple`): What the model returned without the loss, in the order of its output class.
        labels (`torch.Tensor` or `tuple`): As `label_names` say: `labels` `(batch, length)`; or `speech_codes`
            `(batch, num_quantizers, num_frames)`, of a Talker alone; or both, in this order. With `speech_codes`,
            `eval_do_concat_batches` must be `False`, as `Trainer` cannot join codes of different lengths.

    Returns:
        `(batch, 3 + 2 * num_quantizers)`, sums over each row: negative log-likelihood of the tokens, right tokens,
        tokens; and for each quantizer right codes and codes.
    """
    given = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    tensors = [value for value in given if isinstance(value, torch.Tensor) and value.ndim > 2]
    flat = [value for value in tensors if value.ndim == 3]  # text, quantizer 0, and hidden states behind them
    targets = [labels] if isinstance(labels, torch.Tensor) else list(labels)
    text = next((value for value in targets if value.ndim == 2), None)
    codes = next((value for value in targets if value.ndim == 3), None)
    rows = targets[0]
    scores = [rows.new_zeros(len(rows), _NUM_TEXT_SCORES, dtype=torch.float32)]
    if text is not None:
        scores[0] = score_tokens(flat.pop(0), text)
    if codes is not None:
        depth = next((value for value in tensors if value.ndim == 4), None)
        scores.append(score_codes(flat[0], depth, codes))
    return torch.cat(scores, dim=1)


def score_tokens(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return `(batch, 3)` for logits `(batch, length, vocab_size)` and the tokens at each position `(batch, length)`.

    In columns: the sum of negative log-likelihoods, how many tokens the model would have chosen, how many there are.
    """
    logits, labels = logits[:, :-1], labels[:, 1:]
    is_target = labels != IGNORED
    losses = functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    is_right = (logits.argmax(-1) == labels) & is_target
    return torch.stack([losses.view(labels.shape).sum(1), is_right.sum(1), is_target.sum(1)], dim=1).float()


def score_codes(logits: torch.Tensor, depth_logits: torch.Tensor | None, codes: torch.Tensor) -> torch.Tensor:
    """Return `(batch, 2 * num_quantizers)`, for each quantizer how many codes the model would have chosen, of how many.

    Args:
        logits (`torch.Tensor`): `(batch, num_frames, codebook_size (+ 1))`, of quantizer 0; the end counts as a code.
        depth_logits (`torch.Tensor`, *optional*): `(batch, num_quantizers - 1, num_frames, codebook_size)`.
        codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`, -100 where nothing is asked for.
    """
    chosen = logits.argmax(-1)[:, None]
    if depth_logits is not None:
        chosen = torch.cat([chosen, depth_logits.argmax(-1)], dim=1)
    codes = codes[:, : chosen.shape[1]]
    is_target = codes != IGNORED
    is_right = (chosen == codes) & is_target
    return torch.stack([is_right.sum(2), is_target.sum(2)], dim=2).flatten(1).float()


@dataclass
class Metrics:
    """`compute_metrics` on what [`keep_scores`] kept.

    Args:
        answers ([`AnswerCheck`], *optional*): Asks the model questions at each evaluation.
    """

    answers: "AnswerCheck | None" = None

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return `perplexity` and `token_accuracy` where there are tokens, `code_accuracy_0` and so on where there are
        codes, and what `answers` finds."""
        given: Any = prediction.predictions
        rows = np.concatenate(given) if isinstance(given, list) else given
        sums = rows.astype(np.float64).sum(0)
        loss, num_right, num_tokens = sums[:_NUM_TEXT_SCORES].tolist()
        metrics = {}
        if num_tokens:
            metrics = {"perplexity": math.exp(loss / num_tokens), "token_accuracy": num_right / num_tokens}
        for index, (right, total) in enumerate(sums[_NUM_TEXT_SCORES:].reshape(-1, 2).tolist()):
            if total:
                metrics[f"code_accuracy_{index}"] = right / total
        return metrics | (self.answers() if self.answers is not None else {})


@dataclass
class AnswerArguments:
    """How written answers are compared.

    Args:
        num_questions (`int`): Of the validation rows whose last message is the assistant's, at each evaluation.
        batch_size (`int`): Questions at once.
        max_new_tokens (`int`): Longest answer.
    """

    num_questions: int = 50
    batch_size: int = 8
    max_new_tokens: int = 64

    def __post_init__(self):
        for name, lowest in (("num_questions", 0), ("batch_size", 1), ("max_new_tokens", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < lowest:
                raise ValueError(f"`answers.{name}` must be an integer of at least {lowest}, got {value!r}.")


def find_questions(rows: Iterable[dict[str, Any]], num_questions: int) -> list[dict[str, Any]]:
    """Return the first rows whose last message is the assistant's."""
    return list(islice((row for row in rows if row["messages"][-1]["role"] == "assistant"), num_questions))


@dataclass
class AnswerCheck:
    """Lets a model answer the last question of conversations, and compares with their last message.

    Args:
        model ([`PreTrainedModel`]): Writes text.
        processor: With `apply_chat_template` and `tokenizer`.
        conversations (`list[dict]`): Rows with `messages`, whose last one is the assistant's.
        arguments ([`AnswerArguments`]): How many at once, and how long.
    """

    model: PreTrainedModel
    processor: Any
    conversations: list[dict[str, Any]]
    arguments: AnswerArguments = field(default_factory=AnswerArguments)

    def __call__(self) -> dict[str, float]:
        """Return `exact_match` and `word_error_rate`; nothing where there are no conversations."""
        if not self.conversations:
            return {}
        expected = [read_text(row["messages"][-1]) for row in self.conversations]
        return compare_answers(self.write_answers(), expected)

    @torch.no_grad()
    def write_answers(self) -> list[str]:
        """Return the model's answers, each the likeliest token by token."""
        was_training = self.model.training
        self.model.eval()
        answers, size = [], self.arguments.batch_size
        for start in range(0, len(self.conversations), size):
            prompts = [without_speech(row["messages"][:-1]) for row in self.conversations[start : start + size]]
            inputs = self.processor.apply_chat_template(
                prompts, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            ).to(self.model.device)
            written: Any = self.model.generate(**inputs, max_new_tokens=self.arguments.max_new_tokens, do_sample=False)
            sequences = written.sequences if isinstance(written, ModelOutput) else written
            new = sequences[:, inputs["input_ids"].shape[1] :]
            answers += self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
        self.model.train(was_training)
        return answers


def read_text(message: dict[str, Any]) -> str:
    """Return the words of a message."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = [part for part in content or [] if isinstance(part, str) or part.get("type") == "text"]
    return "".join(part if isinstance(part, str) else part["text"] for part in parts)


def compare_answers(answers: list[str], expected: list[str]) -> dict[str, float]:
    """Return the share of answers that have exactly the expected words, and the word error rate of all together.

    Args:
        answers, expected (`list[str]`): Texts, compared by the words that `josie.evaluation.judge` finds in them.
    """
    words = [split_words(text) for text in expected]
    found = [split_words(answer) == said for answer, said in zip(answers, words, strict=True)]
    metrics = {"exact_match": sum(found) / len(found)} if found else {}
    return metrics | ({"word_error_rate": word_error_rate(answers, expected)} if any(words) else {})


def keep_scores_of(found: dict[str, float]) -> dict[str, float]:
    """Return of what `Trainer.evaluate` says how good a model is, and not how fast it was evaluated."""
    return {name: value for name, value in found.items() if _IS_SCORE.search(name)}
