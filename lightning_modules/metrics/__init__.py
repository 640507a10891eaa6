"""Metrics over evaluated clips, and the judges of rationales."""
