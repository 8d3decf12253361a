//! The daemon's outer side against real sockets: the client against a server that misbehaves, the status socket, and
//! the built program as a user runs it.

mod cli;
mod client;
mod socket;
