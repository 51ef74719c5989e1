"""The one transformer, and parts that all models share.

Reading order: `transformer` (with `fast` and `activations`), `backbone`, `fast_steps`; `fast_linear`, `precision`;
`embeddings`, `masks`, `offloading`; `shared_steps`, `row_caches`.
"""
