"""UNICORN's released code on the package's data, beside the package's own."""
