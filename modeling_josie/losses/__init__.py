"""Losses.

Reading order: `targets` (tokens and codes), `unused_parts`, `dropped`; `audio`, `images`.
"""
