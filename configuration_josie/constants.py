"""Values that processing and modeling agree on."""

# Label and code of a position that no loss counts: the default `ignore_index` of torch's cross-entropy.
IGNORE_INDEX = -100

# Smallest mel value before the logarithm that an audio encoder reads.
LOG_FLOOR = 1e-5

# Model types of audio codecs whose decoder makes samples while codes come.
STREAMING_CODECS = ("jodio", "mimi")
