"""Metrics over evaluated clips."""
