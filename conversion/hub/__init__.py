"""Onto the Hub."""
