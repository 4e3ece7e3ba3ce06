"""The parts of benchmarks/card.py; each yields findings as they come."""
