"""One codebook: search for the nearest vector, k-means initialisation, moving averages, code replacement.

Distances, statistics and codebooks are computed in float32 whatever the dtype around them. State changes in training
mode only, and equally on every process of a `torch.distributed` group.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import initialization as init

from ...configuration_josie import JosieCodecConfig
from ..layers.offloading import loads_own_parameters
from .inference import HasInferenceForm

# Scores held at once while searching a codebook: bounds the memory of a search to 64 MiB.
_MAX_SCORES = 2**24
# Averages below this are rounding: a code that was not used for so long stays where it is.
_MIN_AVERAGE_USE = 1e-5


def _num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def half_squares(codebook: torch.Tensor) -> torch.Tensor:
    """Return `-|e|^2 / 2` of each row `e` of `(codebook_size, dim)`, in float32."""
    return codebook.detach().float().square().sum(-1).mul(-0.5)


def find_nearest(vectors: torch.Tensor, codebook: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
    """Return the row of `codebook` nearest to each vector.

    Args:
        vectors (`torch.Tensor`): `(num_vectors, dim)`.
        codebook (`torch.Tensor`): `(codebook_size, dim)`.
        offset (`torch.Tensor`, *optional*): What [`half_squares`] returns for `codebook`, where it is known.

    Returns:
        `torch.LongTensor` of shape `(num_vectors,)`.
    """
    vectors, codebook = vectors.detach().float(), codebook.detach().float()
    # argmin |x - e|^2 = argmax (x.e - |e|^2 / 2): one matrix product, and no matrix of distances.
    offset = half_squares(codebook) if offset is None else offset
    chunk = max(_MAX_SCORES // len(codebook), 1)
    with torch.autocast(vectors.device.type, enabled=False):
        if torch.compiler.is_exporting() or len(vectors) <= chunk:  # programs serve all sizes in one way
            return torch.addmm(offset, vectors, codebook.T).argmax(-1)
        return torch.cat([torch.addmm(offset, part, codebook.T).argmax(-1) for part in vectors.split(chunk)])


def sample_vectors(vectors: torch.Tensor, weights: torch.Tensor, num_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample vectors of non-zero weight from the data of all processes, the same ones on every process.

    Args:
        vectors (`torch.Tensor`): `(num_vectors, dim)`, of this process.
        weights (`torch.Tensor`): `(num_vectors,)`, 0 or 1.
        num_samples (`int`): Number of samples; without repetition as long as there are enough vectors.

    Returns:
        The samples, `(num_samples, dim)`, and a scalar that says whether there was anything to sample from.
    """
    num_processes = _num_processes()
    num_local = -(-num_samples // num_processes)
    if len(vectors) == 0:
        local, found = vectors.new_zeros(num_local, vectors.shape[1]), weights.new_zeros(())
    else:
        order = (torch.rand_like(weights) + weights).topk(min(num_local, len(vectors))).indices
        num_real = weights.sum().long()
        turns = torch.arange(num_local, device=vectors.device) % num_real.clamp(1, len(order))
        local, found = vectors[order[turns]], (num_real > 0).to(weights.dtype)
    if num_processes == 1:
        return local, found > 0
    gathered = [torch.empty_like(local) for _ in range(num_processes)]
    flags = [torch.empty_like(found) for _ in range(num_processes)]
    dist.all_gather(gathered, local.contiguous())
    dist.all_gather(flags, found)
    usable = torch.stack(flags)
    pool = torch.stack(gathered, dim=1).flatten(0, 1)  # process by process in turn
    order = usable.repeat(num_local).argsort(descending=True, stable=True)
    turns = torch.arange(num_samples, device=vectors.device) % (usable.sum().long() * num_local).clamp(min=1)
    return pool[order[turns]], usable.sum() > 0


class VectorQuantizer(HasInferenceForm[torch.Tensor]):
    """One codebook (van den Oord et al., 2017), learned by exponential moving averages, by a loss, or not at all.

    Dead codes are replaced by random vectors (Dhariwal et al., 2020). A threshold above a tenth of the uniform use
    counts as that tenth: small batches would otherwise replace the whole codebook at every step.

    The moving average of the sums of vectors is `codebook * cluster_size` and has no buffer of its own. Checkpoints
    that hold it as `codebook_sum` load all the same.

    Args:
        config ([`JosieCodecConfig`]): Sizes, and how the codebook learns.
    """

    initialized: torch.Tensor
    cluster_size: torch.Tensor

    def __init__(self, config: JosieCodecConfig):
        super().__init__()
        self.config = config
        codebook = torch.zeros(config.codebook_size, config.codebook_dim)
        if config.codebook_update != "gradient":
            self.register_buffer("codebook", codebook)
        else:
            self.codebook = nn.Parameter(codebook)
        self.register_buffer("cluster_size", torch.ones(config.codebook_size))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        self.reset_weights()

    def reset_weights(self) -> None:
        """Initialise the codebook with random vectors; called by [`JosiePreTrainedModel`]."""
        init.normal_(self.codebook, std=self.config.initializer_range)
        init.ones_(self.cluster_size)
        init.zeros_(self.initialized)

    @loads_own_parameters
    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the nearest code of each of `(num_vectors, codebook_dim)` vectors, `(num_vectors,)`."""
        return find_nearest(vectors, self.codebook, self.get_form())

    def compute_form(self) -> torch.Tensor:
        """Return the summand of each code's score, see [`half_squares`]."""
        return half_squares(self.codebook)

    @loads_own_parameters
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the codebook's vectors for codes of any shape, `(*codes.shape, codebook_dim)`."""
        return nn.functional.embedding(codes, self.codebook)

    @torch.no_grad()
    def initialize_by_kmeans(self, vectors: torch.Tensor, weights: torch.Tensor) -> None:
        """Initialise the codebook with the k-means of `vectors`; without real vectors it stays as it is.

        Args:
            vectors (`torch.Tensor`): `(num_vectors, codebook_dim)`, float32.
            weights (`torch.Tensor`): `(num_vectors,)`, 1 for real vectors.
        """
        centers, found = sample_vectors(vectors, weights, self.config.codebook_size)
        for _ in range(self.config.kmeans_iterations):
            counts, sums = self._gather_statistics(vectors, find_nearest(vectors, centers), weights)
            centers = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centers)
        counts, _ = self._gather_statistics(vectors, find_nearest(vectors, centers), weights)
        self._replace_codes(centers, counts, found.expand(len(centers)))
        self.initialized.logical_or_(found)

    @torch.no_grad()
    def update(self, vectors: torch.Tensor, codes: torch.Tensor, weights: torch.Tensor) -> None:
        """Learn from one batch: moving averages, then the replacement of dead codes.

        Args:
            vectors (`torch.Tensor`): `(num_vectors, codebook_dim)`, float32.
            codes (`torch.LongTensor`): `(num_vectors,)`, what [`VectorQuantizer.encode`] found for them.
            weights (`torch.Tensor`): `(num_vectors,)`, 1 for real vectors.
        """
        self.drop_form()
        counts, sums = self._gather_statistics(vectors, codes, weights)
        total = counts.sum()
        step = (1 - self.config.ema_decay) * (total > 0).float()
        codebook, last_use = self.codebook.detach().float(), self.cluster_size.float()
        use = last_use.lerp(counts, step)
        if self.config.codebook_update == "ema":
            averages = (codebook * last_use[:, None]).lerp(sums, step)
            moved = averages / use.clamp(min=_MIN_AVERAGE_USE)[:, None]
            self.codebook.copy_(torch.where(use[:, None] > _MIN_AVERAGE_USE, moved, codebook))
        self.cluster_size.copy_(use)
        if self.config.dead_code_threshold > 0:
            threshold = (0.1 * total / len(counts)).clamp(max=self.config.dead_code_threshold)
            samples, found = sample_vectors(vectors, weights, len(counts))
            # Twice the threshold: a replaced code has some batches to find its vectors.
            self._replace_codes(samples, (2 * threshold).expand_as(use), (use < threshold) & found)

    def _replace_codes(self, vectors: torch.Tensor, use: torch.Tensor, where: torch.Tensor) -> None:
        """Replace the codes `where` by `vectors`, with `use` for their average use."""
        self.drop_form()
        rows = where[:, None]
        self.codebook.copy_(torch.where(rows, vectors, self.codebook.float()))
        self.cluster_size.copy_(torch.where(where, use, self.cluster_size.float()))

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any) -> None:
        state_dict.pop(f"{prefix}codebook_sum", None)  # of checkpoints made before it was derived
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _gather_statistics(
        self, vectors: torch.Tensor, codes: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return how often each code was met and the sum of its vectors, over all processes."""
        rows = torch.cat((weights[:, None], vectors * weights[:, None]), dim=1)
        statistics = rows.new_zeros(self.config.codebook_size, rows.shape[1]).index_add_(0, codes, rows)
        if _num_processes() > 1:
            dist.all_reduce(statistics)
        return statistics[:, 0], statistics[:, 1:]
