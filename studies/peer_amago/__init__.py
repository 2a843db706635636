"""AMAGO (github.com/UT-Austin-RPL/amago) on benchmarks of this package, under the standard protocol."""
