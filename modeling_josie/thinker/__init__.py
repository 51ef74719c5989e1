"""The Thinker."""
