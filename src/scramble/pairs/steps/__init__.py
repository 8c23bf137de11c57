"""Define the steps that exclude the images of benchmarks, and score, filter or balance the pairs of any method."""
