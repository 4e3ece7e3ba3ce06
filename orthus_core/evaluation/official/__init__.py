"""The benchmarks as users have them on disk: official questions, official predictions, scores."""
