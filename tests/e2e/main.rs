//! End-to-end tests, a module a behaviour. They need both programs built: `cargo build --bins` first.

mod server_bad_input;
mod server_events;
mod server_isolation;
mod server_order;
mod server_pull;
mod server_push;
mod server_versions;
mod support;

mod platform_admin;
mod platform_cluster;
mod platform_http;
mod platform_tenants;
