//! `coditect-sync`: keeps the sessions and task lists of one context.db the same on every device of its user.

// The inner side: the file, its outbox, and what is pulled into it.
pub mod apply;
pub mod capture;
pub mod identity;
pub mod key;
pub mod outbox;
pub mod owner;
pub mod projects;
pub mod quarantine;
pub mod rules;
pub mod verify;
pub mod why;

// The loop and its pure core.
mod fail_point;
pub mod run;
pub mod state;
pub mod store;
mod supervisor;
pub mod sync;
pub mod wake;

// The outer side: what a user and the operating system see.
pub mod account;
pub mod browse;
pub mod cli;
pub mod client;
mod commands;
pub mod config;
pub mod credential;
pub mod disk;
pub mod doctor;
mod log_file;
pub mod logging;
pub mod output;
pub mod paths;
pub mod policy;
pub mod redaction;
pub mod screen;
mod service;
pub mod socket;
pub mod status;

// A writer of context.db like any other program: transcripts become its rows.
pub mod ingest;
