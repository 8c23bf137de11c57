"""Steps process the pairs of any method. They exclude benchmark images, add scores, and filter or balance the pairs."""
