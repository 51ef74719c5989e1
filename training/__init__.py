"""Training: above models and data.

Reading order: `collator`, `conversations`; `trainer` (on `loss_parts`, `foreign_losses`, `averages`, `data_workers` and
`whole_checkpoints`), `metrics`; `speech_codes`, `encode_dataset` (with `encode_shards`, `dataset_rows` and
`row_encoder`); `audio_effects`, `epochs`, `augmentation`; `audio_crops`, `length_grouping`, `codec_trainer`; `units`,
`unit_rows` (with `timed_turns`), `timed_sources`.
"""
