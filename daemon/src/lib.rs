//! `coditect-sync`: keeps the sessions and task lists of one context.db the same on every device of its user.

// The outer side: what a user and the operating system see.
pub mod account;
pub mod client;
pub mod config;
pub mod credential;
pub mod paths;
pub mod socket;
pub mod status;
