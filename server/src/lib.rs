//! The sync server: tenant-scoped rows in PostgreSQL, where row level security has the last word.
//!
//! Reading order: [`cli`] and `serve` start it; [`app`] ties everything together, [`answer`] and `limits` stand around
//! every request; [`routes`] is the table of them; [`auth`] turns a token into a caller; [`tenant`] is the only way to
//! tenant data; then one module for each route. [`signin`] has pages beside them. [`database`], [`migrate`] and
//! [`cluster`] are the ground below, `admin` the operator's side door.

pub mod cli;
pub mod config;
mod serve;
mod stop;
mod supervisor;

pub mod answer;
pub mod app;
mod connections;
mod limits;
pub mod patience;
pub mod rate;
pub mod routes;
pub mod tls;

pub mod auth;
pub mod body;
pub mod error;
pub mod external;
pub mod keys;
pub mod membership;
pub mod role;
pub mod tenant;

pub mod signin;

pub mod account;
pub mod audit;
pub mod digest;
pub mod events;
pub mod health;
pub mod history;
pub mod instant;
mod manage;
mod page;
pub mod pull;
pub mod push;
pub mod rules;
pub mod stats;

pub mod cluster;
pub mod data_dir;
pub mod database;
pub mod migrate;
pub mod serving_role;

mod admin;
