"""Written answers of a model, compared with the expected ones by their words."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from josie.evaluation.words import split_words, word_error_rate
from josie.processing_josie.encoded_clips import with_features
from recipes.spoken_rows import without_speech

_IS_SCORE = re.compile(r"_(loss|perplexity|accuracy(_\d+)?|exact_match|word_error_rate)$")


@dataclass
class AnswerArguments:
    """The comparison of written answers.

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
    """Return the first rows whose last message is the assistant's; none of full duplex."""
    rows = (row for row in rows if row.get("turns") is None)
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
            rows = self.conversations[start : start + size]
            prompts = [with_features(without_speech(row["messages"][:-1]), row.get("audio_features")) for row in rows]
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
        answers, expected (`list[str]`): Texts, compared by the words that `josie.evaluation.words` finds in them.
    """
    words = [split_words(text) for text in expected]
    found = [split_words(answer) == said for answer, said in zip(answers, words, strict=True)]
    metrics = {"exact_match": sum(found) / len(found)} if found else {}
    return metrics | ({"word_error_rate": word_error_rate(answers, expected)} if any(words) else {})


def keep_scores_of(found: dict[str, float]) -> dict[str, float]:
    """Return of what `Trainer.evaluate` says how good a model is, and not how fast it was evaluated."""
    return {name: value for name, value in found.items() if _IS_SCORE.search(name)}
