//! What goes in and out of the core: steps and their outcomes, hints, and what the file looks like.

/// Milliseconds of a monotonic clock.
pub type Millis = u64;

/// One step for the loop to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look at the file: did others commit, do the triggers stand, what is pending?
    Look,
    /// Queue the next part of the rows that were there before us, or give queued rows their identities.
    Backfill,
    Identify,
    /// Build a batch of at most this many records from the outbox and persist it.
    Build {
        rows: usize,
    },
    /// Send the batch in flight.
    Push,
    /// Take the verdicts into the file.
    Settle,
    /// Send only half of the batch in flight.
    Halve,
    /// Let the one record of the batch in flight wait behind the others: the server may be ill, not the record.
    Defer,
    /// Quarantine the one record of the batch in flight.
    GiveUp {
        code: String,
        message: String,
    },
    Pull {
        limit: u32,
    },
    /// Apply the page that was pulled.
    Apply,
    /// This file's history has parted from what the server knows of its device id.
    TakeNewDeviceId {
        reason: String,
    },
}

/// What the loop is to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Do(Step),
    WaitUntil(Millis),
}

/// What the file looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Outbox entries.
    pub pending: u64,
    /// The newest of them, 0 if there is none; and the oldest.
    pub newest_seq: i64,
    pub oldest_seq: i64,
    pub held: u64,
    pub backfilling: bool,
    pub capture_ok: bool,
    pub recovering: bool,
    /// 0 until the first page has come.
    pub epoch: i64,
    pub cursor: i64,
    /// Records of the batch in flight; 0 for none.
    pub in_flight: usize,
}

/// Why a step did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No answer that counts: the network, a captive portal, an outage.
    Unreachable,
    /// The server asks to be left alone for a while.
    Busy {
        retry_after_ms: Option<u64>,
    },
    /// A fault of the server: the whole, or one of our rows.
    Server,
    /// The request as a whole will never be taken.
    Refused,
    TooLarge,
    Unauthorized,
    Forbidden,
    /// The server does not know the history that this file has seen.
    Diverged,
    /// The batch was made for another epoch.
    EpochMismatch,
    /// context.db or our state file cannot be read or written.
    File,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of any step on the file: how it looks now.
    Looked(View),
    /// Of a build: nothing needed to be sent, or a batch is in flight; either way the view says so.
    Built(View),
    /// The server has given its verdicts, which are not in the file yet.
    Answered,
    Settled {
        view: View,
        /// Records that are dealt with, and links that step behind the others since an end of theirs is not there.
        ended: usize,
        deferred: usize,
        head: i64,
    },
    Pulled {
        head: i64,
        has_more: bool,
        /// Whether the page has to be applied: an empty one that ends where the file stands says nothing new.
        news: bool,
    },
    Applied {
        view: View,
        took_ms: Millis,
    },
    /// Applying has to wait until queued rows have identities.
    IdentitiesFirst,
    /// What was in flight or pulled is of no use any more.
    Parted {
        reason: String,
    },
    Failed {
        trouble: Trouble,
        code: String,
        message: String,
    },
}

/// What comes from outside, at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Something happened in the folder of context.db.
    File,
    /// The server says that the user's head is at least here. It also proves that the server can be reached.
    Head(i64),
    Pause,
    Resume,
    /// There is a token now, or there is none.
    Credential(bool),
    /// Somebody waits until all that is committed by now is in the cloud, and all of the cloud is here.
    SyncRequested {
        waiter: Option<u64>,
    },
}

/// The last thing that went wrong, until something succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    pub trouble: Trouble,
    pub code: String,
    pub message: String,
    pub count: u64,
    pub retry_at: Option<Millis>,
    /// It came from reading the file; else a write that succeeds ends it.
    pub(super) on_look: bool,
    /// It came from a push: a pull that succeeds does not end it.
    pub(super) on_push: bool,
}
