"""One rule a file. `benchmarks.learning.rules` names them."""
