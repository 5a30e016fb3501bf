"""Networks of other libraries under our names, and ours under theirs."""
