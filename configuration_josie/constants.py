"""Values that processing and modeling agree on."""

# Label and code of a position that no loss counts: the default `ignore_index` of torch's cross-entropy.
IGNORE_INDEX = -100

# Model types of audio codecs whose decoder makes samples while codes come.
STREAMING_CODECS = ("jodio", "mimi")
