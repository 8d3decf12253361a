//! The sync server: tenant-scoped rows in PostgreSQL, where row level security has the last word.
//!
//! Reading order: [`app`] ties everything together; [`auth`] turns a token into a caller; [`tenant`] is the only way to
//! tenant data; the routes stand in one module each.

mod admin;
pub mod answer;
pub mod cli;
pub mod config;
mod connections;
mod limits;
mod serve;

pub mod app;
pub mod auth;
pub mod body;
pub mod tenant;

pub mod account;
pub mod audit;
pub mod digest;
pub mod events;
pub mod health;
pub mod history;
pub mod instant;
pub mod pull;
pub mod push;
pub mod stats;

pub mod cluster;
pub mod data_dir;
pub mod database;
pub mod error;
pub mod migrate;
pub mod serving_role;

pub mod keys;
