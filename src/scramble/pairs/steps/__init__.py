"""Define the steps that score, filter or balance the pairs of any method, or exclude pairs about benchmark images."""
