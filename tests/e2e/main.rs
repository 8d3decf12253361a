//! End-to-end tests, a module a behaviour. They need both programs built: `cargo build --bins` first.

mod support;
