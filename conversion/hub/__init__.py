"""Onto the Hub: `josie.save_with_code`, `josie.push_with_code`, and `josie export`.

Reading order: `export` (the whole way), `remote_code` (flat files and their auto_map, by `flatten` and `auto_classes`),
`model_card` (from templates, with `card_metadata`).
"""

from ..moved import moved_names

__getattr__ = moved_names(__name__, add_code=".remote_code", export_folder=".export", find_processor=".export")
