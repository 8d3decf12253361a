//! End-to-end tests, a module a behaviour. They need both programs built: `cargo build --bins` first.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a value that is not there is the failure to report"
)]

mod support;

mod platform_admin;
mod platform_cluster;
mod platform_http;
mod platform_tenants;

mod isolation;

mod server_audit;
mod server_bad_input;
mod server_cost;
mod server_events;
mod server_forged;
mod server_isolation;
mod server_manage;
mod server_messages;
mod server_order;
mod server_pull;
mod server_push;
mod server_random;
mod server_roles;
mod server_routes;
mod server_tasks;

mod signin_browser;
mod signin_daemon;
mod signin_device;
mod signin_invitation;
mod signin_tokens;

mod transit_issuers;
mod transit_keys;
mod transit_limits;
mod transit_oidc;
mod transit_postgres;
mod transit_tls;

mod rules;

mod pair;

mod adoption;
mod chaos;
mod configuration;
mod convergence;
mod crash;
mod files;
mod following;
mod foreign_writer;
mod ingest;
mod manual;
mod network;
mod offline_tasks;
mod poison;
mod projects;
mod redaction;
mod service;
mod service_units;
mod show;
mod status;
mod workstation;
