"""How good a model is: measures of pictures and answers, and the benchmarks made of them."""
