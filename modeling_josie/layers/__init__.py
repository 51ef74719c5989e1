"""The one transformer, and parts that all models share.

Reading order: `transformer` (with `fast`), `backbone`; `embeddings`, `masks`, `offloading`.
"""
