"""Connectionist temporal classification of the language model's tokens on the rows that a projector makes of audio.

A row is scored against the embeddings of tokens, so that where a word is heard the projector learns to give what the
language model would read of it, and something that is no token elsewhere. That costs a small part of a step of the
language model, which then has to learn from far better rows.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from josie.configuration_josie.constants import IGNORE_INDEX
from josie.modeling_josie.losses.unused_parts import add_zero_gradients
from josie.training.whole_checkpoints import EXTRA_FILE
from recipes.audio_ctc import CTCOutput, list_row_transcripts


@dataclass
class TokenCTCArguments:
    """The weight of the loss.

    Args:
        weight (`float`): Of the loss, beside the language model's.
        only (`bool`): Learn by this loss alone; the language model is not even run.
        scale (`float`): Of the scores. The larger it is, the smaller rows become; with 4 they are about as large as
            Gemma's embeddings.
        num_others (`int`, *optional*): Of the tokens that a batch does not say, so many, drawn at each step, stand for
            all in training (sampled softmax; Jean et al., 2015). Where many thousands are told apart, all of them are
            most of a step's work. All when `None`.
    """

    weight: float = 1.0
    only: bool = False
    scale: float = 4.0
    num_others: int | None = None

    def __post_init__(self):
        if not self.weight > 0:
            raise ValueError(f"`token_ctc.weight` must be above 0, got {self.weight}.")
        if not self.scale > 0:
            raise ValueError(f"`token_ctc.scale` must be above 0, got {self.scale}.")
        if self.num_others is not None and self.num_others < 1:
            raise ValueError(f"`token_ctc.num_others` must be null or at least 1, got {self.num_others}.")


class TokenCTCModel(nn.Module):
    """A JOSIE, or a Thinker alone, whose projector of audio also learns the tokens of what is said.

    Args:
        model: [`JosieForConditionalGeneration`] or [`JosieThinkerForConditionalGeneration`], with an audio encoder.
        arguments ([`TokenCTCArguments`]): The weight.
        tokens (`torch.LongTensor`): `(num_classes,)`, those that are told apart.
    """

    token_ids: torch.Tensor
    token_embeds: torch.Tensor

    def __init__(self, model: Any, arguments: TokenCTCArguments, tokens: torch.Tensor):
        super().__init__()
        self.model, self.arguments = model, arguments
        with torch.no_grad():
            embeds = model.get_input_embeddings()(tokens).float()
        self.register_buffer("token_ids", tokens)
        size = embeds.square().mean() * embeds.shape[1] ** 0.5 / arguments.scale
        self.register_buffer("token_embeds", embeds / size, persistent=False)
        self.blank = nn.Parameter(torch.zeros(embeds.shape[1]))
        self.bias = nn.Parameter(torch.zeros(1 + len(tokens)))
        self.target_names = ("ctc",) if arguments.only else (*model.target_names, "ctc")

    @property
    def _thinker(self) -> Any:
        return getattr(self.model, "thinker", self.model)

    # The interface of a model for `Trainer`.

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute activations in the backward pass."""
        self.model.gradient_checkpointing_enable(**kwargs)

    def count_targets(self, transcripts: torch.Tensor | None = None, **batch: Any) -> dict[str, torch.Tensor]:
        """Return the number of targets of each kind in a batch; takes what `forward` takes."""
        counts = {} if self.arguments.only else self.model.count_targets(**batch)
        return counts if transcripts is None else counts | {"ctc": (transcripts != IGNORE_INDEX).sum()}

    def forward(
        self,
        transcripts: torch.Tensor | None = None,
        num_items_in_batch: dict[str, torch.Tensor] | None = None,
        **batch: Any,
    ) -> CTCOutput:
        """Return the losses of the model, and that of the tokens.

        Args:
            transcripts (`torch.LongTensor`, *optional*): `(num_clips, max_tokens)`, what is said in each clip, filled
                up with -100; nothing in one that nobody has written down.
            num_items_in_batch (`dict`, *optional*): As `count_targets` returns it, of the whole batch.
            batch: Of the model.
        """
        names = [name for name in batch if name.startswith(("audio_features", "input_features", "input_values"))]
        heard = None
        if transcripts is not None and names:
            given = {name: batch.pop(name) for name in (*names, "padding_mask") if name in batch}
            heard = self._thinker.get_audio_features(**given)
            batch["mm_encoder_outputs"] = {"audio": heard}
        outputs: Any = {} if self.arguments.only else self.model(num_items_in_batch=num_items_in_batch, **batch)
        loss = outputs.get("loss")
        loss = self.blank.new_zeros(()) if loss is None else loss
        ctc_loss = None
        if heard is None or transcripts is None:
            loss = add_zero_gradients(loss, self, lambda: self.blank.sum() + self.bias.sum())
        else:
            count = (transcripts != IGNORE_INDEX).sum() if num_items_in_batch is None else num_items_in_batch["ctc"]
            ctc_loss = self.compute_losses(heard.pooler_output, transcripts).sum() / count.clamp(min=1)
            loss = loss + self.arguments.weight * ctc_loss
        kept = {name: outputs.get(name) for name in ("text_loss", "talker_loss", "depth_loss", "logits")}
        if outputs and self.model.target_names == ("text",):  # a Thinker alone, whose only loss has no name
            kept["text_loss"] = outputs.get("loss")
        return CTCOutput(loss=loss, ctc_loss=ctc_loss, **kept)

    def compute_logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Return `(..., 1 + num_classes)` for rows `(..., width)`: of nothing, and of each token."""
        classes = torch.cat([self.blank[None], self.token_embeds])
        return (rows @ classes.to(rows.dtype).T).float() + self.bias

    def compute_losses(self, rows: tuple[torch.Tensor, ...], transcripts: torch.Tensor) -> torch.Tensor:
        """Return the negative log-likelihood of each clip, `(num_clips,)`; 0 where its tokens are too many.

        As a CTC over all of [`TokenCTCModel.compute_logits`], whose alignment and gradient would cost many times as
        much: only the tokens that a batch says are classes of their own, and all others are one that is never said.

        Args:
            rows (`tuple[torch.Tensor]`): Of each clip, `(num_rows, width)`.
            transcripts (`torch.LongTensor`): `(num_clips, max_tokens)`, filled up with -100.
        """
        lengths, joined = torch.tensor([len(clip) for clip in rows]), torch.cat(rows)
        is_target = transcripts != IGNORE_INDEX
        places = torch.searchsorted(self.token_ids, transcripts.clamp(min=0))
        places = places.clamp(max=len(self.token_ids) - 1)
        is_known = (self.token_ids[places] == transcripts) | ~is_target
        said, targets = torch.unique(places, return_inverse=True)
        others = self._score_others(joined, said)
        classes = torch.cat([self.blank[None], self.token_embeds[said]]).to(joined.dtype)
        logits = (joined @ classes.T).float() + torch.cat([self.bias[:1], self.bias[1:][said]])
        logits = torch.cat([logits, others], dim=-1).log_softmax(dim=-1)
        losses = nn.functional.ctc_loss(
            nn.utils.rnn.pad_sequence(list(logits.split(lengths.tolist()))),
            (targets + 1) * is_target,
            lengths,
            is_target.sum(dim=1),
            reduction="none",
            zero_infinity=True,
        )
        return torch.where(is_target.any(dim=1) & is_known.all(dim=1), losses, 0.0)

    def _score_others(self, rows: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """Return the score of all tokens that a batch does not say as one, `(num_rows, 1)`, for rows `(num_rows,
        width)`: exact, or of tokens drawn with `num_others`."""
        is_other = torch.ones(len(self.token_ids), dtype=torch.bool, device=rows.device).index_fill(0, said, False)
        limit = self.arguments.num_others if self.training else None
        if limit is None or limit >= len(self.token_ids) - len(said):
            bias = self.bias[1:].masked_fill(~is_other, torch.finfo(self.bias.dtype).min)
            return ((rows @ self.token_embeds.to(rows.dtype).T).float() + bias).logsumexp(dim=-1, keepdim=True)
        others = is_other.nonzero()[:, 0]
        drawn = others[torch.randperm(len(others), device=rows.device)[:limit]]
        scores = (rows @ self.token_embeds[drawn].to(rows.dtype).T).float() + self.bias[1:][drawn]
        return scores.logsumexp(dim=-1, keepdim=True) + math.log(len(others) / limit)

    @torch.no_grad()
    def read_tokens(self, rows: torch.Tensor) -> list[int]:
        """Return the likeliest tokens of a clip's rows, `(num_rows, width)`."""
        chosen = torch.unique_consecutive(self.compute_logits(rows).argmax(dim=-1))
        return self.token_ids[chosen[chosen > 0] - 1].tolist()

    @classmethod
    def of_checkpoint(cls, model: Any, folder: str | Path) -> "TokenCTCModel":
        """Return a model with the head that a run left.

        Raises:
            `ValueError`: There is none in the folder.
        """
        path = Path(folder, EXTRA_FILE)
        weights = load_file(path) if path.exists() else {}
        if "token_ids" not in weights:
            raise ValueError(f"`MODEL` must be a folder that a run with `token_ctc` left, got {str(folder)!r}.")
        learner = cls(model, TokenCTCArguments(), weights["token_ids"])
        learner.load_head(folder)
        return learner

    def load_head(self, folder: str | Path) -> None:
        """Load the head of a checkpoint that another run left, if it tells the same tokens apart."""
        path = Path(folder, EXTRA_FILE)
        weights = load_file(path) if path.exists() else {}
        if "token_ids" in weights and torch.equal(weights["token_ids"], self.token_ids):
            self.load_state_dict({name: weights[name] for name in ("blank", "bias")}, strict=False)


@dataclass
class TokenCTCCollator:
    """Adds to a batch of conversations the tokens of the transcripts of the user's audio.

    A transcript is the `text` of a content part that is audio.

    Args:
        collate (`Callable`): Makes the batch.
        tokenizer: Of the language model.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    tokenizer: Any

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch, with `transcripts` where there are clips, see [`pad_transcripts`]."""
        batch = self.collate(rows)
        texts = [text or "" for row in rows for text in list_row_transcripts(row)]
        if texts:
            batch["transcripts"] = pad_transcripts(
                [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
            )
        return batch


def pad_transcripts(clips: list[list[int]]) -> torch.Tensor:
    """Return the tokens of clips, `(num_clips, max_tokens)`, filled up with -100."""
    tokens = [torch.tensor(clip, dtype=torch.long) for clip in clips]
    return nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=IGNORE_INDEX)


def list_tokens(tokenizer: Any) -> torch.Tensor:
    """Return all tokens of a tokenizer that a transcript may have, in order."""
    return torch.tensor(sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)))


def find_tokens(rows: Iterable[dict[str, Any]]) -> torch.Tensor:
    """Return the different tokens of all transcripts, in order."""
    return torch.tensor(sorted({token for row in rows for clip in row["transcripts"] for token in clip}))
