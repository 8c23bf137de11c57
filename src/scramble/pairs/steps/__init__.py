"""Steps that process the pairs of any method: benchmark images, scores, filters, balance."""
