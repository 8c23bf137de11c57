"""Steps that work on the pairs of every method: benchmark images, scores, filters, balance."""
