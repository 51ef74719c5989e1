"""From pretrained parts: `josie.assemble`.

Reading order: `build` (the whole way), `text`, `encoders` (the parts, read by `reading`), `vocabulary`,
`chat_template`, `talker`, `processor`, `trials`, `summary`.
"""

from ..moved import moved_names

__getattr__ = moved_names(__name__, assemble=".build", list_parts=".summary", AssembledPart=".summary")
