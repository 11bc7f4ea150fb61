//! Receiving: look, wait for the bell, look again; rights are checked at every look [R45].

use super::sources::{Reading, Source};
use super::{Answer, Broker, Caller, Outcome, Refusal};
use crate::base::ids::RequesterId;
use crate::base::limits;
use crate::message::envelope::{Body, DeathReason, Reason};
use crate::protocol::op::SettleAction;
use crate::protocol::record::Right;
use crate::protocol::stream::MessageId;
use crate::replication::dispatcher::{Delivery, Granted, ReceiveError, Wanted};
use crate::replication::stream_cell::Side;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a receiver wants.
#[derive(Clone, Debug, Default)]
pub struct ReceiveRequest {
    /// Messages at most, 1–100.
    pub max_messages: i32,
    /// Seconds to wait for one, 0–30.
    pub wait_seconds: i32,
    /// Seconds of the lease; the queue's where absent.
    pub lease_seconds: Option<i32>,
    /// Settle before the answer leaves: at most once, no receipt.
    pub auto_ack: bool,
    /// Dead messages instead of ready ones.
    pub from_dead: bool,
    /// Names the request: its repeat is answered with what is still leased under it.
    pub key: Option<String>,
}

/// Where and why a message died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The queue, or topic and subscription.
    pub queue: String,
    /// Why.
    pub reason: DeathReason,
    /// The last reason that a consumer gave for a failure.
    pub detail: Option<Reason>,
    /// Wall time, in ms.
    pub died_ms: u64,
}

/// A message handed out.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    /// Its id.
    pub id: String,
    /// The proof of the lease; absent with `auto_ack`.
    pub receipt: Option<String>,
    /// What it says.
    pub body: Body,
    /// Its media type.
    pub content_type: String,
    /// Named values beside the body.
    pub attributes: BTreeMap<String, String>,
    /// Words by which filters choose.
    pub routing_key: Option<String>,
    /// Its group.
    pub group: Option<String>,
    /// The topic it was published to, when it came by a link.
    pub topic: Option<String>,
    /// Where and why it died, if it did.
    pub dead_letter: Option<DeadLetter>,
    /// The name of who sent it.
    pub sender: String,
    /// When, wall time in ms.
    pub sent_ms: u64,
    /// Leases so far.
    pub receive_count: i32,
    /// Failures so far.
    pub failure_count: i32,
    /// Rises with every lease of the message.
    pub fence: i64,
    /// The lease's end, wall time in ms.
    pub lease_expires_ms: Option<u64>,
    /// What is left of the lease, in ms.
    pub lease_remaining_ms: Option<i32>,
}

impl Broker {
    /// Leases messages, waiting for one if asked to. Empty: there is none. `idle` is called
    /// before the receiver waits, so that it gives up what it need not hold meanwhile.
    ///
    /// # Errors
    /// [`Refusal`]; nothing stays leased then.
    pub async fn receive(
        &self,
        by: &Caller,
        source: Source<'_>,
        request: ReceiveRequest,
        idle: impl FnMut() + Send,
    ) -> Answer<Vec<ReceivedMessage>> {
        self.receive_within(by, source, request, limits::RECEIVE_BYTES_MAX, idle).await
    }

    /// The same with another bound on the bytes of all bodies; one message always fits.
    pub(super) async fn receive_within(
        &self,
        by: &Caller,
        source: Source<'_>,
        request: ReceiveRequest,
        bytes_max: usize,
        mut idle: impl FnMut() + Send,
    ) -> Answer<Vec<ReceivedMessage>> {
        metrics::counter!("tertulia_receives_total").increment(1);
        let wait = Duration::from_secs(u64::try_from(request.wait_seconds).unwrap_or(0));
        let deadline = tokio::time::sleep(wait);
        tokio::pin!(deadline);
        let reading = self.reading(by, source, Right::Receive)?;
        if request.auto_ack && request.key.is_some() {
            // What is settled already cannot be handed out again.
            let message = "not with auto_ack: nothing stays leased under the key";
            return Err(Refusal::invalid("header.Idempotency-Key", "conflict", message));
        }
        let side = if request.from_dead { Side::Dead } else { Side::Ready };
        let mut heard = (reading.stream.generation, reading.reader);
        let listen = self.coordinator.listen(&reading.stream, reading.reader, side).await;
        let mut listening = listen.map_err(|why| self.refusal_of(&reading.address, why))?;
        loop {
            let mut news = Box::pin(listening.bell().notified());
            // From here on a bell is not missed.
            news.as_mut().enable();
            if !self.is_current(by) {
                return Err(Refusal::Unauthenticated);
            }
            let reading = self.reading(by, source, Right::Receive)?;
            if (reading.stream.generation, reading.reader) != heard {
                // The name was created anew while this one waited: it has another bell.
                heard = (reading.stream.generation, reading.reader);
                let listen = self.coordinator.listen(&reading.stream, reading.reader, side).await;
                drop(news);
                listening = listen.map_err(|why| self.refusal_of(&reading.address, why))?;
                continue;
            }
            let granted = self.look(by, &reading, &request, bytes_max).await?;
            if !granted.deliveries.is_empty() {
                return self.hand_out(by, source, &reading, granted, request.auto_ack).await;
            }
            if request.wait_seconds == 0 || self.stopping.is_cancelled() {
                return Ok(Vec::new());
            }
            if self.coordinator.waiting() > limits::RECEIVERS_WAITING_MAX {
                return Err(Refusal::Overloaded { why: "too many receivers are waiting" });
            }
            idle();
            tokio::select! {
                () = &mut news => {}
                () = &mut deadline => return Ok(Vec::new()),
                () = self.stopping.cancelled() => return Ok(Vec::new()),
            }
        }
    }

    async fn look(
        &self,
        by: &Caller,
        reading: &Reading,
        request: &ReceiveRequest,
        bytes_max: usize,
    ) -> Answer<Granted> {
        let seconds = request.lease_seconds.unwrap_or(reading.lease_seconds);
        let key = request.key.as_deref();
        let max = usize::try_from(request.max_messages).unwrap_or(1);
        let wanted = Wanted {
            reader: reading.reader,
            holder: by.name.to_string(),
            requester: key.map(|key| keyed_requester(reading, by, key)),
            from_dead: request.from_dead,
            // What is paused may still be repeated and taken from the dead.
            max: if reading.is_paused && !request.from_dead { 0 } else { max },
            bytes_max,
            duration_ms: u64::try_from(seconds).unwrap_or(0) * 1_000,
            in_flight_max: reading.in_flight_max,
            retention_ms: reading.retention_ms,
        };
        let granted = self.coordinator.try_receive(&reading.stream, &wanted).await;
        granted.map_err(|error| match error {
            ReceiveError::InFlightLimit => Refusal::InFlightLimit,
            ReceiveError::Refused(why) => self.refusal_of(&reading.address, why),
            // Leases without a majority bind nobody and run out by themselves.
            ReceiveError::NoQuorum => Refusal::NotEnoughReplicas { outcome: Outcome::NotStored },
        })
    }

    /// Checks rights again: the replicas may have taken their time since the look began [R45].
    fn still_may(&self, by: &Caller, source: Source<'_>) -> Answer<()> {
        if !self.is_current(by) {
            return Err(Refusal::Unauthenticated);
        }
        self.reading(by, source, Right::Receive).map(drop)
    }

    async fn hand_out(
        &self,
        by: &Caller,
        source: Source<'_>,
        reading: &Reading,
        mut granted: Granted,
        auto_ack: bool,
    ) -> Answer<Vec<ReceivedMessage>> {
        self.still_may(by, source)?;
        if auto_ack {
            let ack = |d: &Delivery| d.lease.item(SettleAction::Ack);
            let items = granted.deliveries.iter().map(ack).collect();
            let settling = self.coordinator.settle(&reading.stream, reading.reader, items, false);
            let settled = settling.await;
            // A message whose settle was not counted is left out: somebody else may get it [F12].
            granted.keep_settled(&settled);
            if granted.deliveries.is_empty() {
                return Err(Refusal::NotEnoughReplicas { outcome: Outcome::Unknown });
            }
            self.after_settling(&reading.address);
            self.still_may(by, source)?;
        }
        let deliveries = granted.hand_over();
        let count = deliveries.len() as u64;
        metrics::counter!("tertulia_messages_received_total").increment(count);
        metrics::counter!("tertulia_leases_total").increment(count);
        let out = |delivery| self.received(reading, delivery, auto_ack);
        Ok(deliveries.into_iter().map(out).collect())
    }

    fn received(&self, reading: &Reading, delivery: Delivery, auto_ack: bool) -> ReceivedMessage {
        let Delivery { header, content, lease, death, detail } = delivery;
        let elapsed_ms = self.clock.boottime_ms().saturating_sub(lease.began_ms);
        let remaining_ms = lease.duration_ms.saturating_sub(elapsed_ms);
        let expires_ms = self.clock.wall_ms() + remaining_ms;
        let receipt = (!auto_ack).then(|| self.seal_receipt(reading, &lease, expires_ms));
        let here = death.map(|death| DeadLetter {
            queue: reading.address.to_string(),
            reason: death.reason,
            detail,
            died_ms: death.died_ms,
        });
        let moved = content.died.map(|died| DeadLetter {
            queue: died.place,
            reason: died.reason,
            detail: died.detail,
            died_ms: died.died_ms,
        });
        ReceivedMessage {
            id: MessageId::of(lease.place).to_string(),
            lease_expires_ms: receipt.is_some().then_some(expires_ms),
            lease_remaining_ms: receipt.is_some().then_some(clamp(remaining_ms)),
            receipt,
            body: content.body,
            content_type: content.content_type,
            attributes: content.attributes,
            routing_key: content.routing_key,
            group: content.group,
            topic: content.topic,
            dead_letter: here.or(moved),
            sender: header.sender_name,
            sent_ms: header.sent_ms,
            receive_count: clamp(u64::from(lease.receive_count)),
            failure_count: clamp(u64::from(lease.failure_count)),
            fence: i64::try_from(lease.counter).unwrap_or(i64::MAX),
        }
    }
}

/// The requester that a keyed receive is, whoever coordinates it [F26].
fn keyed_requester(reading: &Reading, by: &Caller, key: &str) -> RequesterId {
    let hash = Sha256::new()
        .chain_update(b"tertulia/1 receive")
        .chain_update(reading.stream.generation.0)
        .chain_update(reading.reader.0)
        .chain_update(by.user.0)
        .chain_update(key)
        .finalize();
    RequesterId(hash[..16].try_into().expect("16 of 32 bytes"))
}

pub(super) fn clamp(n: u64) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::broker::testing::{broker, user};
    use crate::broker::{
        Action, Durability, OutgoingMessage, QueueChange, ReleaseOutcome, Settlement, Verdict,
    };
    use std::collections::BTreeSet;
    use std::sync::Arc;

    fn wait() -> ReceiveRequest {
        ReceiveRequest { max_messages: 1, wait_seconds: 30, ..ReceiveRequest::default() }
    }

    async fn send(broker: &Broker, by: &Caller, text: &str) {
        let body = Body::Text(text.to_owned());
        let message = OutgoingMessage::of(body);
        broker.send(by, "q", vec![message], Durability::Quorum, None).await.unwrap();
    }

    fn dead(max_messages: i32, wait_seconds: i32) -> ReceiveRequest {
        let from_dead = true;
        ReceiveRequest { max_messages, wait_seconds, from_dead, ..ReceiveRequest::default() }
    }

    /// Receives a message and says that it is poison.
    async fn poison(broker: &Broker, by: &Caller) {
        let q = Source::Queue("q");
        let request = ReceiveRequest { max_messages: 1, ..ReceiveRequest::default() };
        let mut got = broker.receive(by, q, request, || {}).await.unwrap();
        let receipt = got.remove(0).receipt.unwrap();
        let outcome = ReleaseOutcome::Poison;
        let action = Action::Release { outcome, delay_seconds: None };
        let settled = broker.settle(by, q, vec![Settlement::new(receipt, action)]).await.unwrap();
        assert!(matches!(settled[0], Verdict::Done { .. }));
    }

    /// Starts a receive and returns once it waits.
    async fn waiting(
        broker: &Arc<Broker>,
        by: &Caller,
    ) -> tokio::task::JoinHandle<Answer<Vec<ReceivedMessage>>> {
        waiting_for(broker, by, wait()).await
    }

    async fn waiting_for(
        broker: &Arc<Broker>,
        by: &Caller,
        request: ReceiveRequest,
    ) -> tokio::task::JoinHandle<Answer<Vec<ReceivedMessage>>> {
        let (idle, idles) = tokio::sync::oneshot::channel();
        let (broker, by, mut idle) = (broker.clone(), by.clone(), Some(idle));
        let receive = tokio::spawn(async move {
            let tell = || {
                if let Some(idle) = idle.take() {
                    let _ = idle.send(());
                }
            };
            broker.receive(&by, Source::Queue("q"), request, tell).await
        });
        idles.await.unwrap();
        receive
    }

    async fn soon<T>(task: tokio::task::JoinHandle<T>) -> T {
        tokio::time::timeout(Duration::from_secs(10), task).await.expect("nobody woke it").unwrap()
    }

    #[tokio::test]
    async fn r45_who_lost_its_right_gets_nothing_and_wakes_the_next() {
        let broker = broker();
        let ana = user(&broker, "ana").await;
        let eva = user(&broker, "eva").await;
        broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
        broker.put_grant(&ana, "q", "eva", BTreeSet::from([Right::Receive])).await.unwrap();
        let first = waiting(&broker, &eva).await;
        let second = waiting(&broker, &ana).await;
        broker.delete_grant(&ana, "q", "eva").await.unwrap();
        send(&broker, &ana, "hello").await;
        assert_eq!(soon(first).await.unwrap_err(), Refusal::Forbidden { needs: "receive" });
        assert_eq!(soon(second).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn r45_who_lost_its_right_while_replicas_were_asked_gets_nothing() {
        let broker = broker();
        let ana = user(&broker, "ana").await;
        let eva = user(&broker, "eva").await;
        broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
        broker.put_grant(&ana, "q", "eva", BTreeSet::from([Right::Receive])).await.unwrap();
        let q = Source::Queue("q");
        for auto_ack in [false, true] {
            send(&broker, &ana, "secret").await;
            let reading = broker.reading(&eva, q, Right::Receive).unwrap();
            let granted = broker.look(&eva, &reading, &wait(), 1 << 20).await.unwrap();
            assert_eq!(granted.deliveries.len(), 1);
            broker.delete_grant(&ana, "q", "eva").await.unwrap();
            let handed = broker.hand_out(&eva, q, &reading, granted, auto_ack).await;
            assert_eq!(handed.unwrap_err(), Refusal::Forbidden { needs: "receive" });
            let next = broker.receive(&ana, q, wait(), || {}).await.unwrap();
            assert_eq!((next.len(), next[0].receive_count), (1, 1), "nobody had it before");
            broker.put_grant(&ana, "q", "eva", BTreeSet::from([Right::Receive])).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_cancelled_receive_hands_its_message_to_the_next() {
        let broker = broker();
        let ana = user(&broker, "ana").await;
        broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
        let first = waiting(&broker, &ana).await;
        let second = waiting(&broker, &ana).await;
        first.abort();
        send(&broker, &ana, "hello").await;
        let got = soon(second).await.unwrap();
        assert_eq!((got.len(), got[0].receive_count), (1, 1), "nobody had it before");
    }

    #[tokio::test]
    async fn who_waits_for_the_dead_is_woken_by_a_death_and_not_by_a_message() {
        let broker = broker();
        let ana = user(&broker, "ana").await;
        broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
        let first = waiting_for(&broker, &ana, dead(1, 30)).await;
        let second = waiting_for(&broker, &ana, dead(1, 30)).await;
        let entry = broker.get_queue(&ana, "q").await.unwrap();
        let stats = broker.queue_stats(&entry).await.unwrap();
        assert_eq!(stats.receivers_waiting, 2);
        send(&broker, &ana, "one").await;
        poison(&broker, &ana).await;
        let got = soon(first).await.unwrap();
        assert_eq!((got.len(), got[0].dead_letter.is_some()), (1, true));
        // Given back it is dead again, which the other one hears.
        let receipt = got[0].receipt.clone().unwrap();
        let outcome = ReleaseOutcome::HandedBack;
        let action = Action::Release { outcome, delay_seconds: None };
        let back = vec![Settlement::new(receipt, action)];
        broker.settle(&ana, Source::Queue("q"), back).await.unwrap();
        assert_eq!(soon(second).await.unwrap()[0].id, got[0].id);
    }

    #[tokio::test]
    async fn two_receivers_of_the_dead_do_not_reach_for_the_same_one() {
        let broker = broker();
        let ana = user(&broker, "ana").await;
        broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
        for text in ["one", "two"] {
            send(&broker, &ana, text).await;
            poison(&broker, &ana).await;
        }
        let one = || broker.receive(&ana, Source::Queue("q"), dead(1, 0), || {});
        let (a, b) = tokio::join!(one(), one());
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!((a.len(), b.len()), (1, 1));
        assert_ne!(a[0].id, b[0].id);
        assert!(one().await.unwrap().is_empty(), "both are leased");
    }

    #[tokio::test]
    async fn r45_who_may_no_longer_receive_leaves_the_dead_to_the_next() {
        let broker = broker();
        let ana = user(&broker, "ana").await;
        let eva = user(&broker, "eva").await;
        broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
        broker.put_grant(&ana, "q", "eva", BTreeSet::from([Right::Receive])).await.unwrap();
        send(&broker, &ana, "one").await;
        let first = waiting_for(&broker, &eva, dead(1, 30)).await;
        let second = waiting_for(&broker, &ana, dead(1, 30)).await;
        broker.delete_grant(&ana, "q", "eva").await.unwrap();
        poison(&broker, &ana).await;
        assert_eq!(soon(first).await.unwrap_err(), Refusal::Forbidden { needs: "receive" });
        assert_eq!(soon(second).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_receive_goes_on_when_its_queue_is_deleted_and_made_anew() {
        let broker = broker();
        let ana = user(&broker, "ana").await;
        broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
        let waits = waiting(&broker, &ana).await;
        let gone = broker.delete_queue(&ana, "q", crate::broker::Messages::Discard, None).await;
        gone.unwrap();
        assert_eq!(soon(waits).await.unwrap_err(), Refusal::QueueNotFound);
        broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
        let waits = waiting(&broker, &ana).await;
        send(&broker, &ana, "anew").await;
        assert_eq!(soon(waits).await.unwrap().len(), 1);
    }
}
