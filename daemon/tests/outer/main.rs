//! The daemon's outer side against real sockets: the client against a server that misbehaves, the status socket, and
//! the built program as a user runs it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod browse;
mod cli;
mod client;
mod projects;
mod socket;
