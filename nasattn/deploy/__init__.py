"""From a trained network to files for other runtimes, checked on real pictures, and back."""
