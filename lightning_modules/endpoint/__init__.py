"""Servers that are asked over HTTP: requests and their faults, and the key, which nothing shows."""
