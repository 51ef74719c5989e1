"""From μOmni: `josie.convert_muomni`.

Reading order: `convert` (the whole way), `files` (the checkpoint), `sizes` (its configuration), `maps` (its keys),
`sentencepiece` (its tokenizer), `report`.
"""

from ..moved import moved_names

__getattr__ = moved_names(__name__, convert_muomni=".convert")
