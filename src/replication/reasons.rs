//! Why messages failed, in their consumers' words: sealed before a replica sees it, read and opened
//! only for those who are shown a dead letter.

use super::coordinator::{Coordinator, StreamRef};
use super::dispatcher::Granted;
use super::scan;
use super::stream_cell::StreamCell;
use crate::base::ids::SubscriptionId;
use crate::base::seams::blocking;
use crate::crdt::dot::Dot;
use crate::message::envelope::Reason;
use crate::security::sealing::{open_reason, seal_reason};
use bytes::Bytes;

/// The bytes bound to a reason's seal: another stream's, or another reader's, does not open.
fn bound(stream: &StreamRef, reader: SubscriptionId) -> [u8; 32] {
    let mut bound = [0; 32];
    bound[..16].copy_from_slice(&stream.generation.0);
    bound[16..].copy_from_slice(&reader.0);
    bound
}

impl Coordinator {
    /// Seals why a message failed, for a settlement.
    #[must_use]
    pub fn seal_reason(
        &self,
        stream: &StreamRef,
        reader: SubscriptionId,
        dot: Dot,
        reason: &Reason,
    ) -> Bytes {
        let (key, bound) = (&stream.key, bound(stream, reader));
        seal_reason(key, &dot, &bound, reason.0.as_bytes(), &*self.parts.rng).into()
    }

    /// Why these messages failed last, one answer for each. Where nobody said so the disk is not
    /// asked; what cannot be read or opened is logged and left out: a message without its reason
    /// is better than none.
    pub(super) async fn reasons(
        &self,
        cell: &StreamCell,
        stream: &StreamRef,
        reader: SubscriptionId,
        dots: Vec<Dot>,
    ) -> Vec<Option<Reason>> {
        let told: Vec<bool> =
            cell.decide(|state| dots.iter().map(|dot| state.has_reason(reader, *dot)).collect());
        let store = self.parts.replica.store().clone();
        if !told.contains(&true) || store.barrier().await.is_err() {
            return vec![None; dots.len()];
        }
        let (generation, wanted) = (stream.generation, dots.clone());
        let read = move || {
            let of = |(dot, told): (Dot, bool)| {
                if !told {
                    return None;
                }
                scan::reason(&store, generation, reader, dot).unwrap_or_else(|error| {
                    tracing::error!(%error, stream = %generation, "a reason cannot be read");
                    None
                })
            };
            wanted.into_iter().zip(told).map(of).collect::<Vec<_>>()
        };
        let sealed = blocking(&**self.parts.replica.spawn(), read).await;
        let bound = bound(stream, reader);
        let open = |(dot, sealed): (&Dot, Option<Bytes>)| {
            let plain = open_reason(&stream.key, dot, &bound, &sealed?);
            if plain.is_none() {
                tracing::error!(stream = %generation, %dot, "a reason does not open");
            }
            String::from_utf8(plain?).ok().map(Reason)
        };
        dots.iter().zip(sealed).map(open).collect()
    }

    /// Adds to the dead among some deliveries why they failed.
    pub(super) async fn tell_reasons(&self, cell: &StreamCell, granted: &mut Granted) {
        let is_dead = |(i, d): (usize, &super::dispatcher::Delivery)| d.death.map(|_| i);
        let dead: Vec<usize> = granted.deliveries.iter().enumerate().filter_map(is_dead).collect();
        if dead.is_empty() {
            return;
        }
        let dots = dead.iter().map(|i| granted.deliveries[*i].lease.place.1).collect();
        let reasons = self.reasons(cell, &granted.stream, granted.reader, dots).await;
        for (i, reason) in dead.into_iter().zip(reasons) {
            granted.deliveries[i].detail = reason;
        }
    }
}
