"""What benchmark.py takes from scikit-learn, so that this need not be installed."""
