//! Nothing but integration tests: see `tests/`.
