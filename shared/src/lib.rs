//! What the coditect daemon and server say to each other.
//!
//! Both ends take ids, records, hashes, wire bodies and limits from here, so that a row means the same on either
//! side. Nothing in this crate does I/O.

pub mod check;
pub mod digest;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod record;
pub mod wire;

pub use hash::ContentHash;
pub use ids::{DeviceId, TenantId, UserId};
pub use record::{LinkRecord, MessageRecord, Origin, RecordRef, Stamp, TaskRecord};
