"""The fast paths: recurrent cells, pair decoders, products and precision."""
