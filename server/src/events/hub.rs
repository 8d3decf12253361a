//! Who listens to which user's head, within this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coditect_shared::{TenantId, UserId};
use tokio::sync::{Notify, watch};

/// One user's listeners share one channel.
type Listener = (TenantId, UserId);

/// The newest head of every user who listens, and the heads that other servers have yet to hear of.
#[derive(Clone, Debug, Default)]
pub struct Heads(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    channels: Mutex<HashMap<Listener, watch::Sender<i64>>>,
    outgoing: Mutex<Outgoing>,
    /// Something is outgoing.
    sent: Notify,
}

#[derive(Debug, Default)]
struct Outgoing {
    /// Whether anybody carries heads to other servers; else none are kept for it.
    attached: bool,
    heads: HashMap<Listener, i64>,
}

/// A place at one user's channel; the channel goes with the last one.
#[derive(Debug)]
pub struct Subscription {
    heads: Heads,
    listener: Listener,
    /// Taken out when it is dropped, before the channel is looked at.
    receiver: Option<watch::Receiver<i64>>,
}

impl Heads {
    /// Listens to a user's head; 0 until somebody has learned of it.
    pub fn subscribe(&self, tenant: TenantId, user: &UserId) -> Subscription {
        let listener = (tenant, user.clone());
        let mut channels = self.channels();
        let receiver = match channels.get(&listener) {
            Some(channel) => channel.subscribe(),
            None => {
                let (channel, receiver) = watch::channel(0);
                channels.insert(listener.clone(), channel);
                receiver
            }
        };
        Subscription {
            heads: self.clone(),
            listener,
            receiver: Some(receiver),
        }
    }

    /// A push of this process moved the head: tells whoever listens here, and other servers.
    pub fn moved(&self, tenant: TenantId, user: &UserId, head: i64) {
        self.learn(tenant, user, head);
        self.send(vec![((tenant, user.clone()), head)]);
    }

    /// Tells whoever listens here, if the head is new to them.
    pub fn learn(&self, tenant: TenantId, user: &UserId, head: i64) {
        if let Some(channel) = self.channels().get(&(tenant, user.clone())) {
            channel.send_if_modified(|known| {
                let higher = head > *known;
                *known = head.max(*known);
                higher
            });
        }
    }

    /// Every user who listens right now.
    pub(super) fn listeners(&self) -> Vec<Listener> {
        self.channels().keys().cloned().collect()
    }

    /// From now on heads are kept for [`Heads::outgoing`].
    pub(super) fn attach(&self) {
        self.lock_outgoing().attached = true;
    }

    /// Adds heads to those that other servers have yet to hear of; of one user's the highest is kept.
    pub(super) fn send(&self, heads: Vec<(Listener, i64)>) {
        let mut outgoing = self.lock_outgoing();
        if outgoing.attached {
            for (listener, head) in heads {
                let known = outgoing.heads.entry(listener).or_insert(head);
                *known = head.max(*known);
            }
            self.0.sent.notify_one();
        }
    }

    /// Waits for heads that other servers have yet to hear of.
    pub(super) async fn outgoing_ready(&self) {
        self.0.sent.notified().await;
    }

    /// Takes them.
    pub(super) fn outgoing(&self) -> Vec<(Listener, i64)> {
        self.lock_outgoing().heads.drain().collect()
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<Listener, watch::Sender<i64>>> {
        self.0.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.0.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The newest head that is known.
    pub(super) fn head(&mut self) -> i64 {
        self.receiver
            .as_mut()
            .map_or(0, |receiver| *receiver.borrow_and_update())
    }

    /// Waits until it moved since it was last looked at. None: nobody can move it any more.
    pub(super) async fn moved(&mut self) -> Option<()> {
        self.receiver.as_mut()?.changed().await.ok()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut channels = self.heads.channels();
        // Under the lock, so that nobody subscribes between the look and the removal.
        drop(self.receiver.take());
        if channels
            .get(&self.listener)
            .is_some_and(|channel| channel.receiver_count() == 0)
        {
            channels.remove(&self.listener);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const TENANT: TenantId = TenantId(Uuid::from_u128(1));

    fn user(name: &str) -> UserId {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn listeners_of_one_user_hear_the_newest_head_and_nobody_elses() {
        let heads = Heads::default();
        let mut a1 = heads.subscribe(TENANT, &user("a"));
        let mut a2 = heads.subscribe(TENANT, &user("a"));
        let mut b = heads.subscribe(TENANT, &user("b"));
        for head in [3, 7, 5] {
            heads.moved(TENANT, &user("a"), head);
        }
        a1.moved().await.unwrap();
        assert_eq!((a1.head(), a2.head(), b.head()), (7, 7, 0));
        assert!(futures_util::FutureExt::now_or_never(b.moved()).is_none());
    }

    #[tokio::test]
    async fn a_channel_goes_with_its_last_listener() {
        let heads = Heads::default();
        let first = heads.subscribe(TENANT, &user("a"));
        let second = heads.subscribe(TENANT, &user("a"));
        drop(first);
        assert_eq!(heads.listeners().len(), 1);
        drop(second);
        assert!(heads.listeners().is_empty());
    }

    #[tokio::test]
    async fn heads_for_other_servers_are_kept_only_while_somebody_carries_them_and_coalesce() {
        let heads = Heads::default();
        heads.moved(TENANT, &user("a"), 1);
        assert!(heads.outgoing().is_empty());
        heads.attach();
        for head in [2, 9, 4] {
            heads.moved(TENANT, &user("a"), head);
        }
        assert_eq!(heads.outgoing(), [((TENANT, user("a")), 9)]);
        assert!(heads.outgoing().is_empty());
    }
}
