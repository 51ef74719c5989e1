"""The Talker."""
