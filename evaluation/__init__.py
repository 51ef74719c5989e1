"""Evaluation: words and word errors, judges, tasks."""
