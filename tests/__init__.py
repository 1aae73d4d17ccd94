"""The test suite; a package so that tests can share what stands beside them."""
