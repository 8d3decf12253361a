//! Who waits for which head.

/// The newest head of every user who listens.
#[derive(Clone, Debug, Default)]
pub struct Heads;
