//! The daemon's inner side on real files: opening, capture, identities, outbox and applying, without a network.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod apply;
mod capture;
mod columns;
mod desk;
mod model;
mod opening;
mod projects;
mod redaction;
mod why;
