"""Steps on the pairs of any method: exclude the images of benchmarks, and score, filter or balance the pairs."""
