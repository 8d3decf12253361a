//! Support for the end-to-end tests: real PostgreSQL, the real server, real daemons on real files.
//!
//! Nothing here stands in for a part of the product. Whatever fails here fails the test, so that helpers panic with
//! what they saw instead of returning errors.

pub mod isolation;
pub mod postgres;
pub mod program;
pub mod secrets;
pub mod server;

pub mod api;
pub mod browser;
pub mod certificates;
pub mod contents;
pub mod daemon;
pub mod issuer;
pub mod manager;
pub mod oauth;
pub mod proxy;
pub mod small_disk;
pub mod stepped;
pub mod two_devices;
pub mod visitor;
pub mod writer;

pub mod deadline;
