//! What the tests of single kernel programs share: the object loaded into the running kernel, and
//! packets to run through it. Everything else here is integration tests: see `tests/`.

pub mod kernel;
pub mod packet;
pub mod random;
