"""Training: collator, data, trainers."""
